"""What every bus does, in memory and on the wire: one suite over MemoryBus and MqttBus with each broker that we start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from fog_common.bus.backoff import Backoff
from fog_common.bus.base import BrokerConfig, Bus, BusEvent, Connected, Disconnected, Received, Will
from fog_common.bus.memory import MemoryBroker, MemoryBus, matches
from fog_common.bus.mqtt import MqttBus
from fog_common.errors import TooLarge
from fogctl.fleet.broker import Broker, find_mosquitto
from support.broker import Inbox, needs, start_nats

AT_ONCE = {"first_s": 0.05, "cap_s": 0.2}


class AnyBus(Bus, Protocol):
    handler_errors: int

    @property
    def queued_bytes(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    def abandon(self) -> None: ...


class Rig(Protocol):
    max_payload: int

    def bus(self, client_id: str, on_event: Callable[[BusEvent], None], will: Will | None = None, **options: Any) -> AnyBus: ...
    def stop(self) -> None: ...
    def start(self) -> None: ...


class MemoryRig:
    max_payload = 4096

    def __init__(self) -> None:
        self.broker = MemoryBroker(max_payload=self.max_payload)

    def bus(self, client_id: str, on_event: Callable[[BusEvent], None], will: Will | None = None, **options: Any) -> AnyBus:
        return MemoryBus(self.broker, client_id, on_event, will, **options)

    def stop(self) -> None:
        self.broker.stop()

    def start(self) -> None:
        self.broker.start()


class MqttRig:
    max_payload = 4096

    def __init__(self, start: Callable[[int], Broker]) -> None:
        self.start_on = start
        self.broker = start(0)
        self.buses: list[MqttBus] = []

    def bus(self, client_id: str, on_event: Callable[[BusEvent], None], will: Will | None = None, **options: Any) -> AnyBus:
        config = BrokerConfig(host=self.broker.host, port=self.broker.port, max_payload_bytes=self.max_payload)
        self.buses.append(MqttBus(config, client_id, on_event, will, backoff=Backoff(**AT_ONCE), **options))
        return self.buses[-1]

    def stop(self) -> None:
        self.broker.kill()

    def start(self) -> None:
        self.broker = self.start_on(self.broker.port)

    def close(self) -> None:
        for bus in self.buses:
            bus.close()
        self.broker.stop()


@pytest.fixture(params=["memory", "mosquitto", "embedded", "nats"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    log = tmp_path / "broker.log"
    if request.param == "memory":
        yield MemoryRig()
        return
    if request.param == "mosquitto":
        needs("mosquitto", find_mosquitto())
    if request.param == "embedded":
        pytest.importorskip("amqtt")
    rig = MqttRig((lambda port: start_nats(tmp_path, port)) if request.param == "nats" else (lambda port: Broker.start(request.param, port, log=log)))
    yield rig
    rig.close()


def up(rig: Rig, client_id: str, *filters: str, qos: int = 1, will: Will | None = None, **options: Any) -> tuple[AnyBus, Inbox]:
    """A started bus, connected, with these subscriptions confirmed."""
    inbox = Inbox()
    bus = rig.bus(client_id, inbox, will, **options)
    bus.subscribe(*filters, qos=qos)
    bus.start()
    inbox.next(Connected)
    return bus, inbox


@pytest.mark.parametrize("qos", [0, 1])
def test_messages_on_one_topic_arrive_in_order(rig: Rig, qos: int) -> None:
    _, inbox = up(rig, "ada", "a/+/c", qos=qos)
    bob, _ = up(rig, "bob")
    for number in range(200):
        bob.publish("a/b/c", b"%d" % number, qos)
    bob.publish("a/b/c", b"end", qos)
    assert inbox.until(b"end") == [b"%d" % number for number in range(200)]


def test_bytearray_and_memoryview_are_taken_as_they_are_now(rig: Rig) -> None:
    ada, inbox = up(rig, "ada", "a")
    buffer = bytearray(b"0123456789")
    ada.publish("a", buffer)
    ada.publish("a", memoryview(buffer)[2:5])
    buffer[:] = b"overwritten"
    ada.publish("a", b"end")
    assert inbox.until(b"end") == [b"0123456789", b"234"]
    assert all(type(payload) is bytes for payload in inbox.payloads())


def test_wildcards_choose_what_arrives(rig: Rig) -> None:
    ada, inbox = up(rig, "ada", "one/+/x", "many/#", "exact")
    for topic in ("one/1/x", "one/1/y", "one/1/2/x", "many/1", "many/1/2/3", "many", "exact", "exact/1", "other"):
        ada.publish(topic, topic.encode(), 1)
    expected = {b"one/1/x", b"many/1", b"many/1/2/3", b"many", b"exact"}
    assert {inbox.next(Received).payload for _ in expected} == expected  # order is promised within a topic only
    ada.publish("exact", b"end", 1)
    assert inbox.until(b"end") == []


def test_a_filter_may_be_added_and_left_while_connected(rig: Rig) -> None:
    ada, inbox = up(rig, "ada", "mark")
    ada.publish("late", b"before", 1)
    ada.publish("mark", b"ready", 1)
    assert inbox.until(b"ready") == []
    ada.subscribe("late", qos=1)
    ada.publish("late", b"during", 1)
    assert inbox.next(Received).payload == b"during"
    ada.unsubscribe("late")
    ada.publish("late", b"after", 1)
    ada.publish("mark", b"end", 1)
    assert inbox.until(b"end") == []


def test_what_is_retained_is_told_to_who_comes_later(rig: Rig) -> None:
    ada, inbox = up(rig, "ada", "mark")
    ada.publish("state/ada", b"old", 1, retain=True)
    ada.publish("state/ada", b"new", 1, retain=True)
    ada.publish("mark", b"end", 1)
    inbox.until(b"end")
    _, late = up(rig, "bob", "state/ada")
    assert late.next(Received) == Received("state/ada", b"new", True)


def test_the_will_speaks_after_a_crash_and_not_after_a_close(rig: Rig) -> None:
    _, inbox = up(rig, "watcher", "will/+", "mark")
    crashed, _ = up(rig, "crashed", will=Will(topic="will/crashed", payload=b"offline", retain=False))
    closed, _ = up(rig, "closed", will=Will(topic="will/closed", payload=b"offline", retain=False))
    closed.close()
    crashed.abandon()
    assert inbox.next(Received) == Received("will/crashed", b"offline")
    bob, _ = up(rig, "bob")
    bob.publish("mark", b"end", 1)
    assert inbox.until(b"end") == []


def test_the_farewell_leaves_before_the_connection_ends(rig: Rig) -> None:
    _, inbox = up(rig, "watcher", "will/ada", "mark")
    ada, _ = up(rig, "ada", will=Will(topic="will/ada", payload=b"crashed"))
    ada.publish("mark", b"last words", 1)
    ada.close(Will(topic="will/ada", payload=b"left in order"))
    ada.close(Will(topic="will/ada", payload=b"not twice"))
    assert {inbox.next(Received).payload, inbox.next(Received).payload} == {b"last words", b"left in order"}


def test_after_a_restart_of_the_broker_all_is_as_before(rig: Rig) -> None:
    ada, inbox = up(rig, "ada", "a/#", qos=1)
    ada.subscribe("b/+", qos=1)
    rig.stop()
    inbox.next(Disconnected)
    rig.start()
    inbox.next(Connected)
    ada.publish("a/1", b"one", 1)
    ada.publish("b/1", b"two", 1)
    assert {inbox.next(Received).payload, inbox.next(Received).payload} == {b"one", b"two"}


def test_while_offline_qos_1_is_kept_up_to_a_bound_and_qos_0_is_not(rig: Rig) -> None:
    ada, inbox = up(rig, "ada", "a", max_control=5)
    rig.stop()
    inbox.next(Disconnected)
    for number in range(8):
        ada.publish("a", b"%d" % number, 1)
    ada.publish("a", b"gone", 0)
    assert (ada.queued_bytes, ada.dropped) == (5, 4)
    rig.start()
    inbox.next(Connected)
    ada.publish("a", b"end", 1)
    assert inbox.until(b"end") == [b"3", b"4", b"5", b"6", b"7"]


def test_what_was_published_before_start_is_kept_too(rig: Rig) -> None:
    inbox = Inbox()
    ada = rig.bus("ada", inbox)
    ada.subscribe("a", qos=1)
    ada.publish("a", b"early", 1)
    ada.start()
    inbox.next(Connected)
    ada.publish("a", b"end", 1)
    assert inbox.until(b"end") == [b"early"]
    ada.close()


def test_oversize_is_refused_with_the_numbers_and_harms_nothing(rig: Rig) -> None:
    ada, inbox = up(rig, "ada", "a")
    with pytest.raises(TooLarge) as caught:
        ada.publish("a", bytes(rig.max_payload + 1), 1)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (rig.max_payload + 1, rig.max_payload)
    with pytest.raises(TooLarge):
        ada.publish("a", memoryview(bytes(8 * rig.max_payload)).cast("d"), 0)
    ada.publish("a", bytes(rig.max_payload), 1)
    ada.publish("a", b"end", 1)
    assert [len(payload) for payload in inbox.until(b"end")] == [rig.max_payload]


def test_connected_tells_the_largest_payload(rig: Rig) -> None:
    inbox = Inbox()
    ada = rig.bus("ada", inbox)
    ada.start()
    assert inbox.next(Connected) == Connected(rig.max_payload)
    ada.close()


@pytest.mark.parametrize("topic", ["", "a/+/b", "a/#"])
def test_a_filter_is_not_a_topic(rig: Rig, topic: str) -> None:
    ada, _ = up(rig, "ada")
    with pytest.raises(ValueError, match="not a topic"):
        ada.publish(topic, b"x")


def test_a_handler_that_raises_ends_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()

    def clumsy(event: BusEvent) -> None:
        inbox(event)
        raise RuntimeError("a bug in the handler")

    ada = rig.bus("ada", clumsy)
    ada.subscribe("a", qos=1)
    ada.start()
    inbox.next(Connected)
    ada.publish("a", b"one", 1)
    ada.publish("a", b"end", 1)
    assert inbox.until(b"end") == [b"one"]
    ada.close()
    assert ada.handler_errors >= 3


def test_a_handler_may_publish_and_subscribe(rig: Rig) -> None:
    inbox = Inbox()

    def answer(event: BusEvent) -> None:
        inbox(event)
        if isinstance(event, Received) and event.topic == "question":
            echo.subscribe("more", qos=1)
            echo.publish("more", b"answer to " + event.payload, 1)

    echo = rig.bus("echo", answer)
    echo.subscribe("question", qos=1)
    echo.start()
    inbox.next(Connected)
    asker, _ = up(rig, "asker")
    asker.publish("question", b"it", 1)
    assert inbox.next(Received, lambda event: event.topic == "more").payload == b"answer to it"
    echo.close()


def test_a_handler_may_close(rig: Rig) -> None:
    inbox = Inbox()

    def leave(event: BusEvent) -> None:
        if isinstance(event, Received):
            ada.close(Will(topic="gone", payload=b"by myself", retain=False))
        inbox(event)

    _, watcher = up(rig, "watcher", "gone")
    ada = rig.bus("ada", leave)
    ada.subscribe("a", qos=1)
    ada.start()
    inbox.next(Connected)
    ada.publish("a", b"go", 1)
    assert watcher.next(Received).payload == b"by myself"
    assert inbox.next(Disconnected).why == "closed"


def test_of_two_with_one_id_the_newer_stays(rig: Rig) -> None:
    _, older = up(rig, "twin", "a")
    newer_bus, newer = up(rig, "twin", "a")
    assert "took over the id 'twin'" in older.next(Disconnected).why
    for number in range(200):
        newer_bus.publish("a", b"%d" % number, 1)
    newer_bus.publish("a", b"end", 1)
    assert len(newer.until(b"end")) == 200
    assert (older.count(Connected), newer.count(Disconnected)) == (1, 0)


def test_close_before_start_and_twice(rig: Rig) -> None:
    inbox = Inbox()
    ada = rig.bus("ada", inbox)
    ada.close()
    ada.close()
    ada.start()
    assert inbox.count(Connected) == 0


@pytest.mark.parametrize(
    ("pattern", "topic", "yes"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/+", "/b", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("a/b/c", "a/b", False),
    ],
)
def test_matching_follows_mqtt(pattern: str, topic: str, yes: bool) -> None:
    assert matches(pattern, topic) is yes
