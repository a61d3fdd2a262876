"""The fault proxy: what passes, what does not, and what each end is told. Bytes by hand first, then MqttBus on a real mosquitto."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fog_common.bus.backoff import Backoff
from fog_common.bus.base import BrokerConfig, Connected, Disconnected, Received, Will
from fog_common.bus.mqtt import MqttBus
from fogctl.fleet.broker import Broker
from fogctl.fleet.proxy import HOST, Proxy, ProxyLink
from support.broker import PATIENCE_S, Inbox


class Server:
    """Takes connections on a port of its own and hands them over."""

    def __init__(self) -> None:
        self._listening = socket.create_server((HOST, 0))
        self.port = int(self._listening.getsockname()[1])
        self._came: queue.Queue[socket.socket] = queue.Queue()
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self._came.put(sock)

    def connection(self) -> socket.socket:
        sock = self._came.get(timeout=PATIENCE_S)
        sock.settimeout(PATIENCE_S)
        return sock

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # ends the accept that waits in the thread
        self._listening.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        yield running


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def pair(proxy: Proxy, server: Server) -> tuple[ProxyLink, socket.socket, socket.socket]:
    """(the link, the agent's end, the broker's end); the connection stands."""
    link = proxy.link("pi-1", HOST, server.port)
    agent, broker = dial(link), server.connection()
    agent.sendall(b"?")
    assert take(broker, 1) == b"?"
    return (link, agent, broker)


def dial(link: ProxyLink) -> socket.socket:
    return socket.create_connection((HOST, link.port), timeout=PATIENCE_S)


def take(sock: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size and (piece := sock.recv(size - len(got))):
        got += piece
    return bytes(got)


def silent(sock: socket.socket, seconds: float = 0.2) -> bool:
    """Nothing arrives, and it does not end either, for so long."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENCE_S)
    return False


def turned_away(link: ProxyLink) -> bool:
    """Nobody gets in: the connection is reset while it is made, or at once after it."""
    try:
        return ended(dial(link))
    except ConnectionResetError:
        return True


def ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_bytes_pass_as_they_are_both_ways_and_the_end_too(pair: Any):
    link, agent, broker = pair
    sent = bytes(range(256)) * 4096
    for here, there in ((agent, broker), (broker, agent)):
        sender = threading.Thread(target=here.sendall, args=(sent,))
        sender.start()
        assert take(there, len(sent)) == sent
        sender.join()
    assert (link.up.bytes, link.down.bytes) == (1 + len(sent), len(sent))
    agent.close()
    assert broker.recv(1) == b""


def test_latency_and_rate_cost_what_they_say(pair: Any):
    link, agent, broker = pair
    link.shape(latency_s=0.1)
    began = time.monotonic()
    agent.sendall(b"ping")
    broker.sendall(take(broker, 4))
    assert take(agent, 4) == b"ping"
    assert time.monotonic() - began >= 0.2
    link.shape(rate_bytes_s=1e6)
    began = time.monotonic()
    agent.sendall(bytes(200_000))
    assert len(take(broker, 200_000)) == 200_000
    assert 0.19 <= time.monotonic() - began < 2.0
    link.heal()


def test_all_connections_share_the_rate_of_their_link(proxy: Proxy, server: Server):
    link = proxy.link("pi-1", HOST, server.port)
    agents = [dial(link) for _ in range(2)]
    brokers = [server.connection() for _ in range(2)]
    link.shape(rate_bytes_s=1e6)
    began = time.monotonic()
    for agent in agents:
        agent.sendall(bytes(100_000))
    assert [len(take(broker, 100_000)) for broker in brokers] == [100_000, 100_000]
    assert time.monotonic() - began >= 0.19


def test_a_cut_ends_all_and_lets_nobody_in_until_it_is_healed(pair: Any, server: Server):
    link, agent, broker = pair
    link.cut()
    assert ended(agent) and ended(broker)
    assert turned_away(link)
    link.heal()
    again = dial(link)
    again.sendall(b"here")
    assert take(server.connection(), 4) == b"here"


def test_a_black_hole_tells_nobody_and_gives_back_what_it_swallowed(pair: Any):
    link, agent, broker = pair
    link.black_hole()
    agent.sendall(b"one two ")
    broker.sendall(b"three ")
    assert silent(broker) and silent(agent)
    agent.sendall(b"four")
    link.heal()
    assert take(broker, 12) == b"one two four"
    assert take(agent, 6) == b"three "


def test_who_calls_into_a_black_hole_is_not_connected_when_it_ends(pair: Any, server: Server):
    link, _, _ = pair
    link.black_hole()
    caller = dial(link)
    caller.sendall(b"anybody?")
    assert silent(caller)
    link.heal()
    assert ended(caller)
    dial(link).sendall(b"now")
    assert take(server.connection(), 3) == b"now"


@pytest.mark.parametrize("dead", ["up", "down"])
def test_one_direction_alone_can_be_dead(pair: Any, dead: Any):
    link, agent, broker = pair
    link.one_way(dead)
    agent.sendall(b"up")
    broker.sendall(b"down")
    lives, there = (agent, b"down") if dead == "up" else (broker, b"up")
    assert take(lives, len(there)) == there
    assert silent(broker if dead == "up" else agent)
    link.heal()


@pytest.mark.parametrize("believer", ["agent", "broker"])
def test_half_open_is_over_for_one_end_only(pair: Any, believer: Any):
    link, agent, broker = pair
    link.half_open(believer)
    fooled, other = (agent, broker) if believer == "agent" else (broker, agent)
    assert ended(other)
    fooled.sendall(b"still there?")
    assert silent(fooled)
    link.heal()
    assert ended(fooled)


def test_a_reset_ends_what_is_there_and_nothing_else(pair: Any, server: Server):
    link, agent, broker = pair
    link.reset()
    assert ended(agent) and ended(broker)
    dial(link).sendall(b"again")
    assert take(server.connection(), 5) == b"again"
    assert link.accepted == 2


def test_nobody_behind_the_link_is_a_reset(proxy: Proxy, server: Server):
    link = proxy.link("pi-1", HOST, server.port)
    server.close()
    assert turned_away(link)


# -- a bus on a broker ---------------------------------------------------------------------------

Bus = Callable[..., tuple[MqttBus, Inbox]]


@pytest.fixture
def connect() -> Iterator[Bus]:
    made: list[MqttBus] = []

    def make(port: int, name: str, *filters: str, will: Will | None = None) -> tuple[MqttBus, Inbox]:
        inbox = Inbox()
        bus = MqttBus(BrokerConfig(port=port), name, inbox, will, backoff=Backoff(first_s=0.05, cap_s=0.2, yield_s=0.05))
        made.append(bus)
        bus.subscribe(*filters, qos=1)
        bus.start()
        inbox.next(Connected)
        return bus, inbox

    yield make
    for bus in made:
        bus.close()


WILL = Will(topic="gone", payload=b"pi-1", qos=1, retain=False)


def test_half_open_the_broker_says_that_the_agent_is_gone_while_it_believes_to_be_there(proxy: Proxy, broker: Broker, connect: Bus):
    link = proxy.link("pi-1", HOST, broker.port)
    _, watching = connect(broker.port, "watch", "gone")
    agent, inbox = connect(link.port, "pi-1", "to/pi-1", will=WILL)
    link.half_open("agent")
    assert watching.next(Received).payload == b"pi-1"
    assert inbox.count(Disconnected) == 0
    link.heal()
    inbox.next(Disconnected)
    inbox.next(Connected)
    agent.publish("gone", b"back", qos=1)
    assert watching.next(Received).payload == b"back"


def test_a_message_that_a_black_hole_held_is_delivered_once(proxy: Proxy, broker: Broker, connect: Bus):
    link = proxy.link("pi-1", HOST, broker.port)
    _, watching = connect(broker.port, "watch", "up")
    agent, inbox = connect(link.port, "pi-1", "down")
    link.black_hole()
    agent.publish("up", b"late", qos=1)
    link.heal()
    assert watching.next(Received).payload == b"late"
    agent.publish("up", b"end", qos=1)
    assert watching.until(b"end") == []
    assert inbox.count(Disconnected) == 0


def test_a_cut_and_a_reset_are_survived(proxy: Proxy, broker: Broker, connect: Bus):
    link = proxy.link("pi-1", HOST, broker.port)
    _, watching = connect(broker.port, "watch", "gone")
    _, inbox = connect(link.port, "pi-1", "to/pi-1", will=WILL)
    link.reset()
    inbox.next(Disconnected)
    inbox.next(Connected)
    assert watching.next(Received).payload == b"pi-1"
    link.cut()
    inbox.next(Disconnected)
    link.heal()
    inbox.next(Connected)
