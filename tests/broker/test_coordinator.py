"""The coordinator as a process, against a real broker; agents are stand-ins that speak plain messages."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fog_common.bus.base import BrokerConfig, BusEvent, Connected, Received, Will
from fog_common.bus.mqtt import MqttBus
from fog_common.errors import ConfigError, FogError
from fog_common.runtime.effects import RESULT, Result
from fog_common.runtime.machine import Blob, RoundRecord
from fog_common.transfer.blobs import MemoryBlobs
from fog_common.transfer.endpoint import Acked, Address, Arrived, BlobMeta, Content, Endpoint, PublishFrame
from fog_common.wire import messages, topics
from fog_common.wire.messages import Announce, Desired, Presence, Profile
from fogctl.client import Client
from fogctl.fleet.broker import Broker
from fogctl.settings import Settings
from support.stand_ins import SPEC, StandIn
from support.wire_agents import WireAgent

FLEET = "main"
PATIENCE_S = 20.0


class Scene:
    """A coordinator process, agents, an operator."""

    def __init__(self, address: BrokerConfig, folder: Path) -> None:
        self.address, self.folder = address, folder
        self.agents: dict[str, WireAgent] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "fog_coordinator.shell.app", "run", "--broker", f"{self.address.host}:{self.address.port}"]
        with open(self.folder / "coordinator.log", "ab") as log:
            self.process = subprocess.Popen([*command, "--state-dir", str(self.folder / "state")], stderr=log)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(10)
        self.process = None
        return code

    def add(self, *nodes: StandIn) -> None:
        for node in nodes:
            self.agents[node.name] = WireAgent(self.address, node)

    def client(self) -> Client:
        return Client(Settings(FLEET, "operator", self.address), timeout_s=PATIENCE_S)

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        with self.client() as client:
            return client.request(verb, **arguments)

    def until(self, good: Callable[[dict[str, Any]], bool], verb: str = "job.status", **arguments: Any) -> dict[str, Any]:
        """The answer, once it is good."""
        end, body = time.monotonic() + PATIENCE_S, {}
        with self.client() as client:
            while time.monotonic() < end:
                for agent in self.agents.values():
                    agent.pump()
                body = client.request(verb, **arguments)
                if good(body):
                    return body
        raise AssertionError(f"not within {PATIENCE_S:g} s; last: {body}; log: {(self.folder / 'coordinator.log').read_text()[-2000:]}")

    def running(self) -> dict[str, Any]:
        return self.until(lambda body: body["state"] == "running" and all(task["live"] for task in body["tasks"]), job="digits")

    def close(self) -> None:
        for agent in self.agents.values():
            agent.bus.close()
        if self.process is not None:
            self.stop(signal.SIGKILL)


@pytest.fixture
def scene(broker: Any, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(BrokerConfig(host=broker.host, port=broker.port), tmp_path)
    scene.add(StandIn("cloud-1", "cloud", "cloud"), StandIn("pi-1"), StandIn("pi-2"))
    try:
        scene.until(lambda body: sum(node["state"] == "online" for node in body["nodes"]) == 3, "node.list")
        yield scene
    finally:
        scene.close()


def result_letter(scene: Scene, content: bytes, digest: str, node: str = "cloud-1", task: str = "server") -> tuple[Endpoint, MemoryBlobs, Content]:
    blobs = MemoryBlobs()
    blobs.put(digest, content)
    agent = scene.agents[node].node
    history = (RoundRecord(1, 1.0, 2, 20, {"accuracy": 0.8}),)
    result = Result("digits", task, {"accuracy": 0.9}, {"weights": Blob(digest, len(content))}, history)
    endpoint = Endpoint(Address(node, agent.site, agent.tier, "bulk~digits"), FLEET, "digits", 1, blobs)
    return endpoint, blobs, Content(task, RESULT, messages._encoder.encode(result), (BlobMeta(digest, len(content)),))


def exchange(bus: MqttBus, events: queue.SimpleQueue[BusEvent], endpoint: Endpoint, done: Callable[[Any], bool]) -> Any:
    """Run an endpoint over a bus until one of its outputs is the one."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for output in endpoint.take():
            if isinstance(output, PublishFrame):
                bus.publish(output.topic, output.payload)
            elif done(output):
                return output
        with contextlib.suppress(queue.Empty):
            event = events.get(timeout=0.05)
            if isinstance(event, Received):
                endpoint.on_frame(time.monotonic(), topics.parse(event.topic), event.payload)
        endpoint.on_timer(time.monotonic())
    raise AssertionError("the letter did not arrive")


def line(scene: Scene, user: str, filters: list[str]) -> tuple[MqttBus, queue.SimpleQueue[BusEvent]]:
    events: queue.SimpleQueue[BusEvent] = queue.SimpleQueue()
    bus = MqttBus(scene.address, f"{user}_bulk", events.put)
    bus.subscribe(*filters)
    bus.start()
    while not isinstance(events.get(timeout=PATIENCE_S), Connected):
        pass
    return bus, events


# -- the life of a job over the wire ---------------------------------------------------------


def test_a_job_runs_is_cancelled_and_leaves_nothing(scene: Scene):
    assert scene.ask("job.submit", spec=SPEC, token="t")["repeated"] is False
    assert scene.ask("job.submit", spec=SPEC, token="t")["repeated"] is True
    scene.running()
    assert scene.ask("job.cancel", job="digits")["state"] == "cancelled"
    scene.until(lambda body: not any(agent.node.jobs for agent in scene.agents.values()), job="digits")


def test_errors_reach_the_operator_with_their_exit_code(scene: Scene):
    with pytest.raises(ConfigError, match="rounds"):
        scene.ask("job.submit", spec={**SPEC, "train": {"rounds": 0}})
    with pytest.raises(FogError, match="unknown request") as caught:
        scene.ask("job.destroy")
    assert caught.value.exit_code == 2


def test_kill_9_of_the_coordinator_changes_nothing_for_the_job(scene: Scene):
    scene.ask("job.submit", spec=SPEC)
    before = scene.running()
    scene.stop(signal.SIGKILL)
    for agent in scene.agents.values():
        agent.pump()
    scene.start()
    after = scene.running()
    assert (after["view"], after["started_at"]) == (before["view"], before["started_at"])
    scene.until(lambda body: all(node["state"] == "online" for node in body["nodes"]), "node.list")
    assert scene.running()["view"] == before["view"]


def test_a_will_makes_a_task_leave(scene: Scene):
    scene.ask("job.submit", spec=SPEC)
    view = scene.running()["view"]
    scene.agents["pi-2"].node.up = False
    scene.agents["pi-2"].bus.close(
        Will(topic=topics.PRESENCE.at(fleet=FLEET, node="pi-2"), payload=messages.encode(scene.agents["pi-2"].node.kill()))
    )
    body = scene.until(lambda body: body["view"] > view, job="digits")
    assert "trainer-1 waits for pi-2: offline" in body["line"]
    scene.agents["pi-2"].connect()
    assert scene.running()["view"] > body["view"]


def test_sigterm_ends_it_in_order(scene: Scene):
    assert scene.stop(signal.SIGTERM) == 0


# -- brokers that take small packets only ----------------------------------------------------


def test_two_thousand_rounds_are_reported_and_read_over_a_broker_with_small_packets(tmp_path: Path):
    """The root's heartbeat goes in parts, and so does the status with the whole history."""
    with Broker.start("mosquitto", config="max_packet_size 131072", log=tmp_path / "small.log") as broker:
        scene = Scene(BrokerConfig(host=broker.host, port=broker.port), tmp_path)
        try:
            scene.add(StandIn("cloud-1", "cloud", "cloud"), StandIn("pi-1"), StandIn("pi-2"))
            scene.until(lambda body: sum(node["state"] == "online" for node in body["nodes"]) == 3, "node.list")
            scene.ask("job.submit", spec={**SPEC, "train": {"rounds": 5000}})
            task = next(task for task in scene.running()["tasks"] if task["role"] == "server")
            root = scene.agents[task["node"]].node
            root.disk["digits"][task["task"]] = [2000]
            scene.until(lambda body: len(messages.encode(root.heartbeat(time.monotonic()))) > 131_072, job="digits")  # its task is live
            body = scene.until(lambda body: len(body["history"]) == 2000, job="digits")
            assert [entry["round"] for entry in body["history"]] == list(range(1, 2001))
        finally:
            scene.close()


# -- results ----------------------------------------------------------------------------------


def finish(scene: Scene, content: bytes) -> str:
    from blake3 import blake3

    digest = blake3(content).hexdigest()
    endpoint, _, letter = result_letter(scene, content, digest)
    bus, events = line(scene, "cloud-1", topics.inbox_filters(FLEET, "cloud", "cloud-1", "bulk~digits"))
    endpoint.connected(time.monotonic())
    endpoint.send(time.monotonic(), Address("coordinator", "cloud", "cloud", "bulk~digits"), letter, "result")
    exchange(bus, events, endpoint, lambda output: isinstance(output, Acked))
    bus.close()
    return digest


def test_the_result_is_stored_and_can_be_fetched(scene: Scene):
    scene.ask("job.submit", spec=SPEC)
    scene.running()
    content = os.urandom(700_000)
    digest = finish(scene, content)
    body = scene.until(lambda body: body["state"] == "finished", job="digits")
    assert body["metrics"] == {"accuracy": 0.9}
    assert (scene.folder / "state" / "results" / "digits.safetensors").read_bytes() == content
    scene.stop(signal.SIGKILL)
    scene.start()  # the journal knows that it is finished, the folder has the weights
    with scene.client() as client:
        kind = f"bulk~{client.session}"
        bus, events = line(scene, "operator", [topics.TO.filter(fleet=FLEET, site="cloud", node="operator", kind=kind)])
        blobs = MemoryBlobs()
        endpoint = Endpoint(Address("operator", "cloud", "cloud", kind), FLEET, client.session, 1, blobs)
        endpoint.connected(time.monotonic())
        assert client.request("job.result", job="digits")["digest"] == digest
        arrived = exchange(bus, events, endpoint, lambda output: isinstance(output, Arrived))
        assert arrived.letter.content.to == "@result"
        assert bytes(blobs[digest]) == content
        bus.close()


# -- what must not be acted on ----------------------------------------------------------------


def test_bad_messages_are_dropped_and_the_job_goes_on(scene: Scene):
    scene.ask("job.submit", spec=SPEC)
    view = scene.running()["view"]
    bus, _ = line(scene, "mallory", [])
    inbox = topics.to_coordinator(FLEET, "mallory")
    cloud = scene.agents["cloud-1"].node
    for payload in (b"", b"\xff" * 100, os.urandom(2000), b"\x91" * 5000, b"\x00" * 1_500_000, messages.encode(Presence("pi-1", "x", False))):
        for topic in (
            inbox,
            topics.REQUEST.at(fleet=FLEET, sender="mallory", kind="request~1"),
            topics.to_coordinator(FLEET, "mallory", "bulk~digits"),
        ):
            bus.publish(topic, payload, qos=1)
    bus.publish(topics.PRESENCE.at(fleet=FLEET, node="mallory"), messages.encode(Presence("pi-1", scene.agents["pi-1"].node.nonce, False)), qos=1)
    bus.publish(inbox, messages.encode(cloud.heartbeat(0.0)), qos=1)
    bus.publish(inbox, messages.encode(Desired(1, "x")), qos=1)
    bus.publish(inbox, messages.encode(cloud.goodbye()), qos=1)
    for profile in (Profile("cloud", "a/b"), Profile("moon", "home")):
        bus.publish(inbox, messages.encode(Announce("mallory", "n", profile)), qos=1)
    cloud.draining = False
    bus.publish(
        topics.REQUEST.at(fleet=FLEET, sender="mallory", kind="request~1"), messages.encode(messages.Request("1", "job.status", {"job": 5})), qos=1
    )
    body = scene.until(lambda body: True, job="digits")
    scene.until(lambda body: all(node["state"] == "online" and not node["draining"] for node in body["nodes"]), "node.list")
    assert (body["state"], body["view"]) == ("running", view)
    bus.close()
