"""A real fleet on this machine, beside the raw loop on the same broker: round time, bytes, memory.

FedAvg with one optimiser step of one example is the nearest a job comes to a round without learning; hashing, the durable Saves and
evaluation-free averaging are all in it.
"""

from __future__ import annotations

import itertools
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import psutil

from bench import rawloop
from fog_common.bus.base import BrokerConfig, BusEvent, Received
from fog_common.bus.mqtt import MqttBus
from fogctl.client import Client
from fogctl.fleet.local_fleet import CLOUD_NODE, LocalFleet

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
        LocalFleet(Path(folder), NODES, broker="mosquitto", broker_lines="sys_interval 1") as fleet,
        fleet.client() as client,
        Meter(fleet.broker_config) as meter,
    ):
        fleet.wait_for_nodes(client, NODES + 1)
        port = fleet.broker_config.port
        before = rawloop.measure(port, NODES)
        daemon = _daemon_memory(fleet)
        wire_bytes = meter.read()
        worker, status = run(fleet, client, {**JOB, "train": {**JOB["train"], "rounds": rounds}})
        wire_bytes = meter.read() - wire_bytes
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
        "wire_ratio": {
            "value": wire_bytes / max(1, ideal),
            "wire_bytes": wire_bytes,
            "ideal_bytes": ideal,
            "payload_ratio": sum(planes.values()) / max(1, ideal),
            **planes,
        },
        "daemon_rss_mb": daemon,
        "worker_rss_mb": {**worker, "alone": _worker_alone()},
    }


class Meter:
    """All bytes that the broker has received, by mosquitto's own count: every packet whole, with its topic and headers, control
    messages, acknowledgements and what the bench itself asks included. A cast is received once, as it is in the ideal bytes."""

    def __init__(self, broker: BrokerConfig) -> None:
        self._events: queue.SimpleQueue[BusEvent] = queue.SimpleQueue()
        self._bus = MqttBus(broker, "bench-meter", self._events.put)
        self._bus.subscribe("$SYS/broker/bytes/received")

    def __enter__(self) -> Self:
        self._bus.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bus.close()

    def read(self) -> int:
        """As of now: of the counts that come from now on, the first may have been taken before."""
        while not self._events.empty():
            self._events.get()
        counts: list[int] = []
        while len(counts) < 2:
            event = self._events.get(timeout=20)
            if isinstance(event, Received) and not event.retain:
                counts.append(int(event.payload))
        return counts[-1]


def _worker_alone() -> float:
    """RSS in MB of a worker that its own daemon started, as on a real node: it shares no pages with another."""
    with (
        tempfile.TemporaryDirectory(prefix="foglearn-bench-") as folder,
        LocalFleet(Path(folder), 1, broker="mosquitto", agent_options={"spawner": ""}) as fleet,
        fleet.client() as client,
    ):
        fleet.wait_for_nodes(client, 2)
        found: list[float] = []

        def look() -> dict[str, Any]:
            found.extend(psutil.Process(pid).memory_info().rss / 1e6 for pid in fleet.workers_of("agent-1"))
            return {"seen": len(found)}

        run(fleet, client, JOB, look=look)
        return max(found)


def run(
    fleet: LocalFleet, client: Client, spec: dict[str, Any], limit_s: float = 300.0, look: Callable[[], dict[str, Any]] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(memory of the workers while the job ran, its last status). look: how to find it, if not as children of the spawner."""
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
            memory = look() if look else _worker_memory(fleet)
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
