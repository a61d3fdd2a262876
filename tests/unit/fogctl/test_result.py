"""`fogctl job result`: the weights arrive by letter, the files are written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import blake3
import pytest

from fog_common.bus.base import Connected, OnEvent, Received
from fog_common.errors import ConfigError, TimedOut
from fog_common.transfer.blobs import MemoryBlobs
from fog_common.transfer.endpoint import Address, BlobMeta, Content, Endpoint, PublishFrame
from fog_common.wire import messages, topics
from fog_common.wire.api.jobs import JobResult
from fog_common.wire.messages import Reply, Request
from fogctl import result
from fogctl.client import Client
from fogctl.settings import Settings
from support.statuses import status_of


class Desk:
    """A coordinator behind a bus: it answers job.result and sends the weights as its API says. first: what comes before the reply."""

    def __init__(self, weights: bytes, silent: bool = False, letter_first: bool = False) -> None:
        self.weights, self.silent, self.letter_first = weights, silent, letter_first
        self.digest = blake3.blake3(weights).hexdigest()
        blobs = MemoryBlobs()
        blobs.put(self.digest, weights)
        self.endpoint = Endpoint(Address("coordinator", "cloud", "cloud", "bulk"), "main", "digits-1", 1, blobs)
        self.now = 0.0

    def __call__(self, settings: Settings, client_id: str, on_event: OnEvent) -> Desk:
        self.on_event = on_event
        return self

    def start(self) -> None:
        self.on_event(Connected())

    def subscribe(self, *filters: str, qos: int = 0) -> None: ...

    def unsubscribe(self, *filters: str) -> None: ...

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int = 0, retain: bool = False) -> None:
        route = topics.parse(topic)
        self.now += 0.001
        if route.kind.startswith("request~"):
            self._answer(route, payload)
        else:
            self.endpoint.on_frame(self.now, route, payload)
        self._perform()

    def _answer(self, route: topics.Route, payload: bytes | bytearray | memoryview) -> None:
        request, session = messages.decode(payload), route.kind.partition("~")[2]
        assert isinstance(request, Request)
        body = JobResult(
            now=1.0,
            job="digits-1",
            state="finished",
            numbers={"accuracy": 0.97},
            rounds=30,
            digest=self.digest if self.weights else "",
            status=status_of("finished", 3),
        )
        if self.weights and not self.silent:
            to = Address(route.sender, "cloud", "cloud", f"bulk~{session}")
            content = Content("@coordinator", "@result", b"", (BlobMeta(self.digest, len(self.weights)),))
            self.endpoint.send(self.now, to, content, "digits-1")
            if self.letter_first:
                self._perform()
        self.on_event(Received(topics.from_coordinator("main", "cloud", route.sender, f"reply~{session}"), messages.encode(Reply(request.id, body))))

    def _perform(self) -> None:
        for effect in self.endpoint.take():
            if isinstance(effect, PublishFrame):
                self.on_event(Received(effect.topic, bytes(effect.payload)))

    def close(self, farewell: object = None) -> None: ...


@pytest.mark.parametrize("letter_first", [False, True])
@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
def test_weights_and_figures_are_written(tmp_path: Path, size: int, letter_first: bool) -> None:
    weights = bytes(range(256)) * (size // 256 + 1)
    with Client(Settings(), connect=Desk(weights, letter_first=letter_first)) as client:
        written = result.fetch(client, "digits-1", tmp_path / "out")
    assert (tmp_path / "out" / "digits-1.safetensors").read_bytes() == weights
    assert json.loads((tmp_path / "out" / "digits-1.json").read_text())["numbers"] == {"accuracy": 0.97}
    assert written["weights_bytes"] == len(weights)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["digits-1.json", "digits-1.safetensors"]


def test_a_job_without_weights_has_figures_only(tmp_path: Path) -> None:
    with Client(Settings(), connect=Desk(b"")) as client:
        written = result.fetch(client, "digits-1", tmp_path)
    assert written["weights"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["digits-1.json"]


def test_weights_that_do_not_come_time_out_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "STALL_S", 0.05)
    with Client(Settings(), connect=Desk(b"x" * 100, silent=True)) as client, pytest.raises(TimedOut, match="stopped coming"):
        result.fetch(client, "digits-1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Client(Settings(), connect=Desk(b"x")) as client, pytest.raises(ConfigError, match="--out"):
        result.fetch(client, "digits-1", tmp_path / "file" / "out")
