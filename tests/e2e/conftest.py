"""A fleet of real processes on a real mosquitto, with the torch-free stand-in as op backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fog_common.errors import Unreachable
from fog_common.wire.api.shown import shown
from fog_common.wire.api.states import ENDED
from fogctl.client import Client
from fogctl.fleet.broker import find_mosquitto
from fogctl.fleet.local_fleet import LocalFleet
from fogctl.show.watch import whole_status
from support.broker import needs

PATIENCE_S = 60.0


class Fleet(LocalFleet):
    """With words for tests."""

    def submit(self, client: Client, **job: Any) -> str:
        spec = {"name": "toy", "method": {"name": "fedavg"}, "model": {"name": "mlp", "hidden": [8]}, "train": {"rounds": 20}, **job}
        return str(client.request("job.submit", spec=spec)["job"])

    def until(
        self, client: Client, job: str, good: Callable[[dict[str, Any]], bool], what: str, patience_s: float = PATIENCE_S, after: int = 0
    ) -> dict[str, Any]:
        """The first status for which `good` holds; asked again and again, because a status is all that a user has.

        after: its history begins behind that round. A coordinator that is away is asked again.
        """
        end = time.monotonic() + patience_s
        while True:
            try:
                status = client.request("job.status", job=job, after=after)
            except Unreachable:
                assert time.monotonic() < end, f"no {what}: no answer"
                continue
            if good(status):
                return status
            over = time.monotonic() > end or (status["state"] in ENDED and what != status["state"])
            assert not over, f"no {what}: {status['state']}, {status['line']}, {status['problems']}, {status['waits']}"

    def whole_round(self, client: Client, job: str, updates: int) -> dict[str, Any]:
        """The first round that begins from now on and is averaged from so many updates."""
        begun = client.request("job.status", job=job)["round"] + 1
        status = self.until(
            client, job, lambda status: any(record["updates"] == updates for record in status["history"]), f"round of {updates} updates", after=begun
        )
        return next(dict(record) for record in status["history"] if record["updates"] == updates)

    def cancel(self, client: Client, job: str) -> dict[str, Any]:
        """Its last status, with its whole history."""
        client.request("job.cancel", job=job)
        self.until(client, job, lambda status: status["state"] == "cancelled", "cancelled")
        return shown(whole_status(client, job))

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
