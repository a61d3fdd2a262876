"""A fleet of real processes on a real mosquitto, with the torch-free stand-in as op backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fog_common.bus.broker import find_mosquitto
from fogctl.client import Client
from fogctl.local_fleet import LocalFleet
from support.broker import needs

PATIENCE_S = 60.0
ENDED = ("finished", "failed", "cancelled")


class Fleet(LocalFleet):
    """With words for tests."""

    def submit(self, client: Client, **job: Any) -> str:
        spec = {"name": "toy", "method": {"name": "fedavg"}, "model": {"name": "mlp", "hidden": [8]}, "train": {"rounds": 20}, **job}
        return str(client.request("job.submit", spec=spec)["job"])

    def until(
        self, client: Client, job: str, good: Callable[[dict[str, Any]], bool], what: str, patience_s: float = PATIENCE_S, after: int = 0
    ) -> dict[str, Any]:
        """The first status for which `good` holds; asked again and again, because a status is all that a user has. after: as in job.status."""
        end = time.monotonic() + patience_s
        while True:
            status = client.request("job.status", job=job, after=after)
            if good(status):
                return status
            over = time.monotonic() > end or (status["state"] in ENDED and what != status["state"])
            assert not over, f"no {what}: {status['state']}, {status['line']}, {status['problems']}, {status['waits']}"

    def finished(self, client: Client, job: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        return self.until(client, job, lambda status: status["state"] == "finished", "finished", patience_s)

    def in_round(self, client: Client, job: str, number: int) -> dict[str, Any]:
        return self.until(client, job, lambda status: status["round"] >= number, f"round {number}")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Three agents and the cloud's, started; their logs stay in tmp_path."""
    needs("mosquitto", find_mosquitto())
    with Fleet(tmp_path, 3, broker="mosquitto", backend="standin", log_level="INFO") as running:
        yield running


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    with fleet.client() as connected:
        fleet.wait_for_nodes(connected, 4)
        yield connected
