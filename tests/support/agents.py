"""Real agent daemons for tests, and the coordinator's side of the wire by hand."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fog_common.bus.base import BrokerConfig, BusEvent, Connected, Received
from fog_common.bus.mqtt import MqttBus
from fog_common.wire import messages, topics
from fog_common.wire.messages import Control, Desired, DesiredJob, Heartbeat, Placement, WorkerState
from fog_common.wire.parts import ControlCodec

FLEET = "main"
SITE = "home"
FAKE_WORKER = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]
PATIENCE_S = 15.0


def job(name: str, view: int = 1, floor: int = 0, **spec: Any) -> DesiredJob:
    return DesiredJob(name, {"name": name, **spec}, Placement(name, view, "server", ()), floor)


class Coordinator:
    """Hears what agents say, says what it is told to. Every wait has an end and tells what came instead."""

    def __init__(self, broker: BrokerConfig) -> None:
        self._events: queue.SimpleQueue[BusEvent] = queue.SimpleQueue()
        self.bus = MqttBus(broker, "coordinator", self._events.put)
        self.codec = ControlCodec("coordinator-1")
        self.number = 0

    def __enter__(self) -> Coordinator:
        filters = [*topics.inbox_filters(FLEET, topics.CLOUD_SITE, topics.COORDINATOR, topics.CONTROL), topics.PRESENCE.filter(fleet=FLEET)]
        self.bus.subscribe(*filters, qos=1)
        self.bus.start()
        connected = self.until(lambda event: isinstance(event, Connected), "a connection")
        assert isinstance(connected, Connected)
        self.codec.connected(connected.max_payload)
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.close()

    def until(self, good: Callable[[BusEvent], bool], what: str, patience_s: float = PATIENCE_S) -> BusEvent:
        end, seen = time.monotonic() + patience_s, []
        while (left := end - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                break
            if good(event):
                return event
            seen.append(_shown(event))
        raise AssertionError(f"no {what} within {patience_s:g} s; came: {seen[-12:]}")

    def hear(self, kind: type[Control], good: Callable[[Any], bool] = lambda message: True, patience_s: float = PATIENCE_S) -> Any:
        """The next message of that kind that is good; others are dropped."""

        def fits(event: BusEvent) -> bool:
            message = _message(event)
            return isinstance(message, kind) and good(message)

        return _message(self.until(fits, kind.__name__, patience_s))

    def worker(self, name: str, good: Callable[[WorkerState], bool], patience_s: float = PATIENCE_S) -> WorkerState:
        """The state of the worker of job `name`, once it is good."""

        def found(beat: Heartbeat) -> list[WorkerState]:
            return [state for state in beat.workers if state.job == name and good(state)]

        return found(self.hear(Heartbeat, lambda beat: bool(found(beat)), patience_s))[0]

    def say(self, node: str, message: Control) -> None:
        for payload in self.codec.payloads(message):
            self.bus.publish(topics.from_coordinator(FLEET, SITE, node), payload, qos=1)

    def want(self, node: str, *jobs: DesiredJob, release: bool = False) -> None:
        self.number += 1
        self.say(node, Desired(self.number, "c1", jobs, release))


class Agent:
    """`fog-agent run` as a process of its own."""

    def __init__(self, folder: Path, broker: BrokerConfig, node: str = "pi-1", **keys: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.node, self.state_dir, self.log = node, folder / "state", folder / "agent.log"
        self.config = folder / "agent.yaml"
        lines = {
            "node": node,
            "site": SITE,
            "fleet": FLEET,
            "state_dir": str(self.state_dir),
            "heartbeat_s": 0.5,
            "worker_command": FAKE_WORKER,
            "energy": {"reader": "model"},
            **keys,
        }
        lines = {key: value for key, value in lines.items() if value is not None}
        lines["broker"] = {"host": broker.host, "port": broker.port}
        self.config.write_text("".join(f"{key}: {_yaml(value)}\n" for key, value in lines.items()))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, program: list[str] | None = None, **environment: str) -> Agent:
        with open(self.log, "ab") as log:
            command = [*(program or [sys.executable, "-m", "fog_agent.app"]), "run", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **environment})
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def wait(self, timeout: float = PATIENCE_S) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        assert self.process is not None
        self.process.terminate()

    def __enter__(self) -> Agent:
        return self if self.process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


def alive(pid: int) -> bool:
    """A process that runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def gone(pid: int, patience_s: float = PATIENCE_S) -> bool:
    """Waits for the end of a process that is not our child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select

    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(patience_s * 1000)) or not alive(pid)
    finally:
        os.close(fd)


def _message(event: BusEvent) -> Control | None:
    return messages.decode(event.payload) if isinstance(event, Received) and event.payload else None


def _shown(event: BusEvent) -> str:
    message = _message(event)
    if isinstance(message, Heartbeat):
        return f"Heartbeat({[(state.job, state.incarnation, state.phase, state.problems) for state in message.workers]})"
    return str(message or event)[:200]


def _yaml(value: Any) -> str:
    """Flow style is JSON here."""
    import json

    return json.dumps(value)
