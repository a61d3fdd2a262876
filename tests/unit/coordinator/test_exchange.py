"""The exchange by plain calls: which messages reach the core, and the order of steps by which a result is taken."""

from __future__ import annotations

from typing import Any

import blake3
import pytest
from msgspec import msgpack

from fog_common.bus.base import Connected, Denied, Received
from fog_common.errors import WireError
from fog_common.runtime.effects import RESULT, Result
from fog_common.runtime.machine import Blob
from fog_common.transfer.blobs import MemoryBlobs
from fog_common.transfer.endpoint import Acked, Address, Arrived, BlobMeta, Content, Endpoint, LetterRefused, PublishFrame
from fog_common.wire import messages, topics
from fog_common.wire.api.verbs import ReadJob
from fog_common.wire.messages import Announce, Control, Desired, DesiredJob, Goodbye, Heartbeat, Presence, Profile, Reply, Request
from fog_common.wire.parts import MAX_MESSAGE_BYTES, ControlCodec
from fog_coordinator.core import Core
from fog_coordinator.exchange import Accept, Exchange, Store, Turned, Unsent
from fog_coordinator.state.effects import Answer, JournalRecord, SendResult, Tell
from support.stand_ins import StandIn, World

CONTENT = b"weights" * 1000
DIGEST = blake3.blake3(CONTENT).hexdigest()


def heard(sender: str, message: Control, kind: str = topics.CONTROL) -> Received:
    return Received(topics.to_coordinator("main", sender, kind), messages.encode(message))


def request(verb: str, **arguments: Any) -> Received:
    return Received(topics.REQUEST.at(fleet="main", sender="ada", kind="request~s1"), messages.encode(Request("r1", verb, arguments)))


class Sender:
    """The endpoint of a node's worker (or of an operator's session), joined to an exchange."""

    def __init__(self, exchange: Exchange, frames: list[tuple[str, bytes]], node: str = "cloud-1", kind: str = "digits") -> None:
        self.exchange, self.frames, self.blobs = exchange, frames, MemoryBlobs()
        self.blobs.put(DIGEST, CONTENT)
        self.endpoint = Endpoint(Address(node, "cloud", "cloud", f"bulk~{kind}"), "main", kind, 1, self.blobs)
        self.endpoint.connected(0.0)
        exchange.on_bus(0.0, Connected())

    def send(self, task: str = "server") -> None:
        body = msgpack.encode(Result("digits", task, {"accuracy": 0.9}, {"weights": Blob(DIGEST, len(CONTENT))}))
        content = Content(task, RESULT, body, (BlobMeta(DIGEST, len(CONTENT)),))
        self.endpoint.send(0.0, Address("coordinator", "cloud", "cloud", self.endpoint.me.kind), content, "result")

    def pump(self, now: float = 0.0) -> list[Any]:
        """Frames both ways until nothing moves; what the endpoint says beside them."""
        said: list[Any] = []
        moved = True
        while moved:
            outputs, incoming = self.endpoint.take(), list(self.frames)
            self.frames.clear()
            moved = bool(outputs or incoming)
            for output in outputs:
                if isinstance(output, PublishFrame):
                    self.exchange.on_bus(now, Received(output.topic, bytes(output.payload)))
                else:
                    said.append(output)
            for topic, payload in incoming:
                self.endpoint.on_frame(now, topics.parse(topic), payload)
        return said


@pytest.fixture
def running() -> World:
    """A job of three nodes in RUNNING; its root is on cloud-1."""
    world = World(StandIn("cloud-1", "cloud", "cloud"), StandIn("pi-1"), StandIn("pi-2"))
    for name in world.nodes:
        world.boot(name)
    world.run(1.0)
    world.submit()
    world.run(5.0)
    assert world.status()["state"] == "running"
    return world


def joined(world: World, node: str = "cloud-1") -> tuple[Exchange, Sender]:
    frames: list[tuple[str, bytes]] = []
    assert world.core is not None
    exchange = Exchange("main", world.core, 1, lambda topic, payload: frames.append((topic, payload)))
    return exchange, Sender(exchange, frames, node)


# -- messages ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Received("weather/today", b""), "unknown_topic"),
        (Received(topics.to_coordinator("main", "pi-1"), b"\x93\x01\x02"), "malformed"),
        (heard("mallory", Announce("pi-1", "n", Profile("edge", "home"))), "wrong_sender"),
        (heard("mallory", Heartbeat("pi-1", "n")), "wrong_sender"),
        (heard("mallory", Goodbye("pi-1", "n")), "wrong_sender"),
        (heard("mallory", Presence("pi-1", "n", False)), "wrong_sender"),
        (heard("pi-2", Announce("pi-2", "n", Profile("edge", "a/b"))), "bad_id"),
        (heard("pi-2", Announce("pi-2", "n", Profile("moon", "home"))), "bad_id"),
        (heard("coordinator", Announce("coordinator", "n", Profile("cloud", "cloud"))), "bad_id"),
        (heard("pi-1", Announce("pi-1", "n", Profile("edge", "home")), kind="other"), "not_for_coordinator"),
        (heard("pi-1", Presence("pi-1", "n", True)), "not_for_coordinator"),
        (heard("pi-1", Desired(1, "n")), "not_for_coordinator"),
        (heard("ada", Request("r1", "ping")), "not_allowed"),
        (Received(topics.to_coordinator("main", "pi-1", "bulk~nosuch"), b"\x00" * 40), "unknown_job"),
    ],
)
def test_a_message_that_must_not_be_acted_on_is_refused_with_its_reason(event: Received, reason: str):
    core = Core("c1")
    exchange = Exchange("main", core, 1, lambda topic, payload: None)
    with pytest.raises(WireError) as caught:
        exchange.on_bus(0.0, event)
    assert caught.value.reason == reason
    assert list(core.registry) == []


def test_an_announced_node_is_known_and_a_request_is_answered():
    core = Core("c1")
    exchange = Exchange("main", core, 1, lambda topic, payload: None)
    exchange.on_bus(0.0, Connected(refused=("a/+",)))
    exchange.on_bus(0.0, Denied(("b/+",)))
    exchange.on_bus(1.0, heard("pi-1", Announce("pi-1", "n", Profile("edge", "home"))))
    exchange.on_bus(1.0, heard("pi-1", Heartbeat("pi-1", "n")))
    exchange.on_bus(1.0, request("ping"))
    record, *rest = exchange.take()
    assert isinstance(record, JournalRecord)
    (answer,) = [effect for effect in rest if isinstance(effect, Answer)]
    ((topic, payload),) = exchange.frames(1.0, answer)
    assert topic == "fog/v1/main/to/cloud/ada/coordinator/reply~s1"
    reply = messages.decode(payload)
    assert isinstance(reply, Reply)
    assert reply.body["denied"] == ["a/+", "b/+"]
    (tell,) = [effect for effect in rest if isinstance(effect, Tell)]
    assert [topic for topic, _ in exchange.frames(1.0, tell)] == ["fog/v1/main/to/home/pi-1/coordinator/ctl"]
    assert exchange.take() == []


def test_an_answer_that_is_too_large_is_an_error_with_the_numbers():
    exchange = Exchange("main", Core("c1"), 1, lambda topic, payload: None)
    ((_, payload),) = exchange.frames(0.0, Answer("ada", "s1", Reply("r1", {"log": "x" * MAX_MESSAGE_BYTES})))
    reply = messages.decode(payload)
    assert isinstance(reply, Reply)
    assert (reply.id, reply.exit_code) == ("r1", 1)
    assert f"more than the {MAX_MESSAGE_BYTES} B of a message" in reply.error


def test_a_request_in_parts_is_answered_once():
    exchange = Exchange("main", Core("c1"), 1, lambda topic, payload: None)
    exchange.on_bus(0.0, Connected(10_000))
    operator, topic = ControlCodec("s1"), topics.REQUEST.at(fleet="main", sender="ada", kind="request~s1")
    payloads = operator.payloads(Request("r1", "ping", {"ballast": "x" * 250_000}))
    assert len(payloads) == 3
    for payload in [*payloads, *payloads]:
        exchange.on_bus(0.0, Received(topic, payload))
    (answer,) = [effect for effect in exchange.take() if isinstance(effect, Answer)]
    assert "ballast" in answer.reply.error


def test_a_table_that_no_message_holds_is_named_by_the_job_and_not_taken_for_a_silent_node(running: World):
    core = running.core
    assert core is not None
    exchange = Exchange("main", core, 1, lambda topic, payload: None)
    placement = core.placement(core.book["digits"].job)
    tell = Tell("pi-1", "home", Desired(9, "c1", (DesiredJob("digits", {"ballast": "x" * MAX_MESSAGE_BYTES}, placement),)))
    assert exchange.frames(running.now, tell) == []
    (unsent,) = [effect for effect in exchange.take() if isinstance(effect, Unsent)]
    assert (unsent.node, f"more than the {MAX_MESSAGE_BYTES} B of a message" in unsent.why) == ("pi-1", True)
    assert exchange.frames(running.now, tell) == []
    assert not any(isinstance(effect, Unsent) for effect in exchange.take()), "told once"
    waits = running.look(ReadJob("digits")).waits
    assert any("pi-1 cannot be told what to run" in wait.what for wait in waits), waits
    running.ask("node.drain", node="pi-2")
    running.run(30.0)  # another table
    assert not any("cannot be told" in wait.what for wait in running.look(ReadJob("digits")).waits)


# -- results -------------------------------------------------------------------------------


def test_a_result_is_stored_then_recorded_then_accepted(running: World):
    exchange, sender = joined(running)
    sender.send()
    assert sender.pump() == []
    (store,) = [effect for effect in exchange.take() if isinstance(effect, Store)]
    assert (bytes(store.came.weights or b""), store.came.digest) == (CONTENT, DIGEST)
    exchange.on_stored(running.now, store.came)
    effects = exchange.take()
    accept = effects[-1]
    assert isinstance(accept, Accept)
    assert any(isinstance(effect, JournalRecord) for effect in effects[:-1])
    assert sender.pump() == []  # not before the record is durable
    exchange.on_accepted(accept.came)
    assert [type(said) for said in sender.pump()] == [Acked]
    assert running.core is not None
    assert (running.core.book["digits"].job.state, running.core.book["digits"].job.digest) == ("finished", DIGEST)


def test_a_result_that_could_not_be_stored_is_offered_again_and_one_that_is_known_is_accepted(running: World):
    exchange, sender = joined(running)
    sender.send()
    sender.pump()
    (store,) = [effect for effect in exchange.take() if isinstance(effect, Store)]
    exchange.on_result(running.now, store.came)  # the disk was full
    assert [effect for effect in exchange.take() if isinstance(effect, Store)] == [store]
    exchange.on_stored(running.now, store.came)
    exchange.take()
    exchange.on_result(running.now, store.came)  # its acknowledgement was lost
    assert not any(isinstance(effect, Store) for effect in exchange.take())
    assert [type(said) for said in sender.pump()] == [Acked]


def test_a_result_of_a_node_that_is_not_the_root_is_refused(running: World):
    exchange, sender = joined(running, "pi-1")
    sender.send("trainer-0")
    (said,) = sender.pump()
    assert isinstance(said, LetterRefused)
    assert [effect for effect in exchange.take() if isinstance(effect, Turned)] == [Turned("digits", "pi-1", "not_placed")]
    assert running.status()["state"] == "running"


def test_an_operator_fetches_the_weights_in_a_letter(running: World):
    exchange, _ = joined(running)
    frames: list[tuple[str, bytes]] = []
    exchange = Exchange("main", exchange._core, 1, lambda topic, payload: frames.append((topic, payload)))
    operator = Sender(exchange, frames, "ada", "s1")
    exchange.send_result(0.0, SendResult("digits", "ada", "s1", DIGEST), CONTENT)
    exchange.send_result(0.0, SendResult("digits", "ada", "s1", DIGEST), CONTENT)  # asked twice: one letter
    (arrived,) = operator.pump()
    assert isinstance(arrived, Arrived)
    assert bytes(operator.blobs.get(DIGEST) or b"") == CONTENT
