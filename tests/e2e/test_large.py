"""A 64 MB model, eight agents, default limits of the broker: windows and repair at work in real processes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from e2e.conftest import Fleet
from fogctl.fleet.broker import find_mosquitto
from support.broker import needs

LARGE: dict[str, Any] = {
    "name": "large",
    "method": {"name": "fedavg", "local_steps": 1},
    "model": {"name": "mlp", "hidden": [3900, 3900]},
    "train": {"rounds": 3, "lr": 0.01},
    "evaluation": {"every": 3},
}
MODEL_BYTES = 4 * (64 * 3900 + 3900 + 3900 * 3900 + 3900 + 3900 * 10 + 10)


@pytest.mark.slow
@pytest.mark.parametrize("frozen_s", [0.0, 20.0])
@pytest.mark.parametrize(("broker", "chunk_kib"), [("mosquitto", 256), ("mosquitto", 120), ("embedded", 256), ("embedded", 120)])
def test_eight_agents_train_64_mb(tmp_path: Path, broker: str, chunk_kib: int, frozen_s: float):
    if broker == "mosquitto":
        needs("mosquitto", find_mosquitto())
    options = {"chunk_bytes": chunk_kib * 1024, "heartbeat_s": 10.0, "spawner": ""}  # workers are the agents' own children: one can be frozen
    with Fleet(tmp_path, 8, broker=broker, agent_options=options) as fleet, fleet.client(timeout_s=60.0) as client:
        fleet.wait_for_nodes(client, 9)
        job = client.request("job.submit", spec=LARGE)["job"]
        if frozen_s:
            fleet.until(client, job, lambda status: status["state"] == "running", "training", 200.0)
            workers = [psutil.Process(pid) for pid in fleet.workers_of("agent-3")]
            assert workers
            for process in workers:
                process.suspend()
            threading.Timer(frozen_s, lambda: [process.resume() for process in workers]).start()
        status = fleet.finished(client, job, 500.0)
        assert [record["updates"] for record in status["history"]] == [8, 8, 8]
        assert status["bytes"]["ideal"] >= 3 * 9 * MODEL_BYTES * 0.99
        total = sum(status["bytes"][plane] for plane in ("up", "down", "d2d", "cast"))
        assert total <= 1.3 * status["bytes"]["ideal"]
