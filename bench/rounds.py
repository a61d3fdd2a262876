"""A real fleet on this machine, beside the raw loop on the same broker: round time, bytes, memory.

FedAvg with one optimiser step of one example is the nearest a job comes to a round without learning; hashing, the durable Saves and
evaluation-free averaging are all in it.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil

from bench import rawloop
from fogctl.client import Client
from fogctl.local_fleet import CLOUD_NODE, LocalFleet

NODES: Final = 4
ROUNDS: Final = 40
WARMUP: Final = 5
PARAMETERS: Final = 1_000_567

JOB: Final[dict[str, Any]] = {
    "name": "bench",
    "method": {"name": "fedavg", "local_steps": 1},
    "model": {"name": "mlp", "hidden": [963, 963]},
    "data": {"name": "digits"},
    "train": {"rounds": ROUNDS, "batch_size": 1, "lr": 0.001},
    "evaluation": {"where": "none"},
}


def measure(rounds: int = ROUNDS) -> dict[str, dict[str, Any]]:
    """{round_ratio, wire_ratio, daemon_rss_mb, worker_rss_mb}, each with `value` and its parts."""
    with (
        tempfile.TemporaryDirectory(prefix="foglearn-bench-") as folder,
        LocalFleet(Path(folder), NODES, broker="mosquitto") as fleet,
        fleet.client() as client,
    ):
        fleet.wait_for_nodes(client, NODES + 1)
        port = fleet.broker_config.port
        before = rawloop.measure(port, NODES)
        daemon = _daemon_memory(fleet)
        worker, status = run(fleet, client, {**JOB, "train": {**JOB["train"], "rounds": rounds}})
        after = rawloop.measure(port, NODES)
    raw_s = statistics.median([*before["seconds"], *after["seconds"]])
    ends = [record["wall_s"] for record in status["history"]]
    seconds = [later - earlier for earlier, later in itertools.pairwise(ends)][WARMUP:]
    ours_s = statistics.median(seconds)
    planes = {plane: status["bytes"][plane] for plane in ("up", "down", "cast", "d2d")}
    ideal = status["bytes"]["ideal"]
    return {
        "round_ratio": {
            "value": ours_s / raw_s,
            "ours_s": ours_s,
            "ours_min_s": min(seconds),
            "raw_s": raw_s,
            "raw_before_s": before["median_s"],
            "raw_after_s": after["median_s"],
            "rounds": len(seconds),
            "nodes": NODES,
            "parameters": PARAMETERS,
            "raw_parameters": rawloop.PARAMETERS,
        },
        "wire_ratio": {"value": sum(planes.values()) / max(1, ideal), "ideal_bytes": ideal, **planes},
        "daemon_rss_mb": daemon,
        "worker_rss_mb": worker,
    }


def run(fleet: LocalFleet, client: Client, spec: dict[str, Any], limit_s: float = 300.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """(memory of the workers while the job ran, its last status)."""
    job = client.request("job.submit", spec=spec)["job"]
    memory: dict[str, Any] = {}
    until = time.monotonic() + limit_s
    while True:
        status = client.request("job.status", job=job)
        if status["state"] == "finished":
            break
        if status["state"] in ("failed", "cancelled") or time.monotonic() > until:
            raise SystemExit(f"bench: the job did not finish: {status['state']}: {status['why'] or status['line']}")
        if not memory and status["round"] >= WARMUP:
            memory = _worker_memory(fleet)
        time.sleep(0.2)
    return memory, _settled(client, job, status)


def _settled(client: Client, job: str, status: dict[str, Any]) -> dict[str, Any]:
    """The status once its byte counters rest: the last heartbeats come after the last round."""
    for _ in range(20):
        time.sleep(0.5)
        later = client.request("job.status", job=job)
        if later["bytes"] == status["bytes"]:
            return later
        status = later
    return status


def _daemon_memory(fleet: LocalFleet) -> dict[str, Any]:
    """Of idle daemons. MB of 10^6 bytes, the median of the agents on data nodes."""
    rss = [psutil.Process(fleet.processes[node].pid).memory_info().rss / 1e6 for node in fleet.agents]
    return {"value": statistics.median(rss), "max": max(rss), "cloud": psutil.Process(fleet.processes[CLOUD_NODE].pid).memory_info().rss / 1e6}


def _worker_memory(fleet: LocalFleet) -> dict[str, Any]:
    """rss counts the pages that forked workers share in each of them, pss divides them."""
    spawner = psutil.Process(fleet.processes["spawner"].pid)
    found = [child.memory_full_info() for child in spawner.children(recursive=True)]
    rss, pss = [info.rss / 1e6 for info in found], [info.pss / 1e6 for info in found]
    return {"value": statistics.median(rss), "max": max(rss), "pss": statistics.median(pss), "workers": len(found)}
