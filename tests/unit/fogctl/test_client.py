"""The connection of fogctl, against a coordinator in this process."""

from __future__ import annotations

import pytest

from fog_common.bus.base import BusEvent, Connected, Disconnected, OnEvent, Received
from fog_common.errors import ConfigError, JobFailed, Refused, TimedOut, Unreachable, WireError
from fog_common.wire import messages, topics
from fog_common.wire.api.fleet import Pong
from fog_common.wire.api.jobs import Cancelled
from fog_common.wire.api.verbs import Ping
from fog_common.wire.messages import Reply, Request
from fogctl.client import Client
from fogctl.settings import Settings


class Desk:
    """A bus with a coordinator behind it that answers as it is told: verb -> replies, one after the other."""

    def __init__(self, **replies: list[Reply | None]) -> None:
        self.replies = replies
        self.asked: list[Request] = []
        self.first: list[BusEvent] = [Connected()]
        self.closed = False

    def __call__(self, settings: Settings, client_id: str, on_event: OnEvent) -> Desk:
        self.on_event = on_event
        return self

    def start(self) -> None:
        for event in self.first:
            self.on_event(event)

    def subscribe(self, *filters: str, qos: int = 0) -> None: ...

    def unsubscribe(self, *filters: str) -> None: ...

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int = 0, retain: bool = False) -> None:
        route, request = topics.parse(topic), messages.decode(payload)
        assert isinstance(request, Request)
        self.asked.append(request)
        waiting = self.replies[request.verb.replace(".", "_")]
        if (reply := waiting.pop(0)) is not None:
            kind = f"reply~{route.kind.partition('~')[2]}"
            answer = messages.encode(Reply(request.id, reply.body, reply.exit_code, reply.error))
            inbox = topics.from_coordinator("main", "cloud", route.sender, kind)
            self.on_event(Received(inbox.replace("/coordinator/", "/mallory/"), messages.encode(Reply(request.id, {"forged": True}))))
            self.on_event(Received(inbox, b"\xff\xff"))
            self.on_event(Received(inbox, messages.encode(Reply("another", {"forged": True}))))
            self.on_event(Received(inbox, answer))

    def close(self, farewell: object = None) -> None:
        self.closed = True


def test_an_answer_is_the_coordinators_own_and_to_this_question() -> None:
    pong = Pong(now=1.0, nonce="c1", version="1", started_at=0.5, nodes=3, nodes_online=2, jobs_active=0, denied=("x",))
    desk = Desk(ping=[Reply("", pong), Reply("", pong)])
    with Client(Settings(), connect=desk) as client:
        assert client.ask(Ping()) == pong
        assert client.request("ping")["nodes"] == 3
    assert desk.closed


def test_an_unanswered_question_is_asked_again_under_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fogctl.client.RESEND_S", 0.01)
    desk = Desk(job_cancel=[None, None, Reply("", Cancelled(job="digits-1", state="cancelled"))])
    with Client(Settings(), connect=desk) as client:
        assert client.request("job.cancel", job="digits-1") == {"job": "digits-1", "state": "cancelled"}
    assert len(desk.asked) == 3
    assert len({request.id for request in desk.asked}) == 1
    assert desk.asked[0].arguments == {"job": "digits-1"}


@pytest.mark.parametrize(("code", "kind"), [(1, JobFailed), (2, ConfigError), (4, Refused), (5, TimedOut)])
def test_the_coordinators_refusal_keeps_its_exit_code(code: int, kind: type[Exception]) -> None:
    with Client(Settings(), connect=Desk(ping=[Reply("", {}, code, "because")])) as client, pytest.raises(kind, match="because"):
        client.request("ping")


def test_silence_is_unreachable_and_says_whose() -> None:
    silent = Client(Settings(), timeout_s=0.05, connect=Desk(ping=[None]))
    with silent, pytest.raises(Unreachable, match="the coordinator does not answer"):
        silent.request("ping")
    desk = Desk()
    desk.first = [Disconnected("cannot reach it: no route")]
    with pytest.raises(Unreachable, match=r"cannot be reached \(cannot reach it: no route\)"), Client(Settings(), timeout_s=0.05, connect=desk):
        pass
    assert desk.closed


def test_a_wrong_password_is_refused_not_unreachable() -> None:
    desk = Desk()
    desk.first = [Disconnected("b:1883 refuses 'x': Not authorized; check broker.username and broker.password")]
    with pytest.raises(Refused, match="refuses user"), Client(Settings(), connect=desk):
        pass


def test_an_answer_of_another_version_is_one_line() -> None:
    with (
        Client(Settings(), connect=Desk(ping=[Reply("", {"nodes": "many"})])) as client,
        pytest.raises(WireError, match="ping is of another version"),
    ):
        client.ask(Ping())
