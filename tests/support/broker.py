"""Private brokers for tests, and an inbox that waits for what must come. No test waits for time to pass."""

from __future__ import annotations

import os
import queue
import shutil
import socket
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from fog_common.bus.base import BusEvent, Received
from fogctl.fleet.broker import Broker, find_mosquitto, start_process

PATIENCE_S = 20.0
"""How long something may take that must come. Reached only when a test fails."""
E = TypeVar("E", bound=BusEvent)


def needs(program: str, path: str | None) -> str:
    """The program's path. Without it: skip on a laptop, fail where CI is set."""
    if path:
        return path
    message = f"{program} is not installed (apt-get install {program})"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def nats_server() -> str:
    return needs("nats-server", shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin"))


def start_nats(folder: Path, port: int = 0) -> Broker:
    """Debian's nats-server with its MQTT listener: 3.1.1 only, and a broker that is not mosquitto."""
    program = nats_server()
    with socket.create_server(("127.0.0.1", port)) as mqtt, socket.create_server(("127.0.0.1", 0)) as own:
        port, own_port = mqtt.getsockname()[1], own.getsockname()[1]
    config = folder / "nats.conf"
    config.write_text(
        f'server_name: fog\nlisten: "127.0.0.1:{own_port}"\njetstream {{ store_dir: "{folder}/jetstream" }}\nmqtt {{ listen: "127.0.0.1:{port}" }}\n'
    )
    return start_process([program, "-c", str(config)], port, folder / "nats.log", "nats-server")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A private mosquitto on a free port; its log is kept in tmp_path."""
    needs("mosquitto", find_mosquitto())
    with Broker.start("mosquitto", log=tmp_path / "mosquitto.log") as running:
        yield running


class Inbox:
    """An on_event that keeps what comes."""

    def __init__(self) -> None:
        self._queue: queue.Queue[BusEvent] = queue.Queue()
        self.seen: list[BusEvent] = []

    def __call__(self, event: BusEvent) -> None:
        self._queue.put(event)

    def next(self, kind: type[E], where: Callable[[E], bool] = lambda event: True) -> E:
        """The next event of that kind for which `where` holds; others on the way are kept in `seen`."""
        while True:
            try:
                event = self._queue.get(timeout=PATIENCE_S)
            except queue.Empty:
                raise AssertionError(f"no such {kind.__name__} within {PATIENCE_S:.0f} s; before it came {self.seen[-5:]}") from None
            self.seen.append(event)
            if isinstance(event, kind) and where(event):
                return event

    def until(self, payload: bytes) -> list[bytes]:
        """Payloads that came before the one given, in order."""
        got: list[bytes] = []
        self.next(Received, lambda event: bool(event.payload == payload or got.append(event.payload)))
        return got

    def all_of(self, payloads: Collection[bytes]) -> None:
        """Wait until each of these has come, in whatever order."""
        while missing := set(payloads).difference(self.payloads()):
            self.next(Received, lambda event: event.payload in missing)

    def payloads(self) -> list[bytes]:
        """All that came so far."""
        while not self._queue.empty():
            self.seen.append(self._queue.get())
        return [event.payload for event in self.seen if isinstance(event, Received)]

    def count(self, kind: type[BusEvent]) -> int:
        self.payloads()
        return sum(isinstance(event, kind) for event in self.seen)
