"""The simulator against a real fleet, and how fast it is.

The demo's job runs live; the time of its ops and of a durable Save and the way to the broker are measured, and put into the models of
nodes and links. Then it runs in virtual time: weights must be the same bit for bit, bytes per plane the same but for acknowledgements
(whether two share a frame is a matter of microseconds), round times alike.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from fog_agent.store import JobStore
from fog_common.machine import Blob
from fog_common.saves import Record
from fog_learning.job import Job
from fog_learning.jobfile import job_from
from fog_sim.costs import Costs, standin_bench, torch_bench
from fog_sim.links import Fleet, Link, NodeModel
from fog_sim.world import Simulation
from fogctl.client import Client
from fogctl.demo import spec_of
from fogctl.local_fleet import LocalFleet

DIGITS: Final = Path(__file__).parents[1] / "examples" / "digits.yaml"
NODES: Final = 4
ROUNDS: Final = 60
WARMUP: Final = 10
LIMIT_S: Final = 600.0
PLANES: Final = ("up", "down", "d2d", "cast")


def measure() -> dict[str, dict[str, Any]]:
    """{sim_bytes, sim_round, sim_events, sim_thousand_s}, each with `value` and its parts."""
    return {**against_live(), "sim_events": events(), "sim_thousand_s": thousand()}


# -- against a real fleet ----------------------------------------------------------------------


def against_live(rounds: int = ROUNDS) -> dict[str, dict[str, Any]]:
    """sim_bytes: bytes that differ / bytes of the live run, over all planes. sim_round: |median simulated round / median live round - 1|."""
    spec = spec_of(DIGITS, None)
    spec["train"] = {**spec["train"], "rounds": rounds}
    live, seconds, rtt_s = _live(spec)
    model = calibrated(spec, rounds, seconds, rtt_s)
    world = Simulation(NODES, model, torch_bench)
    simulated = world.run(world.submit(spec), LIMIT_S)
    apart = {plane: simulated["bytes"][plane] - live["bytes"][plane] for plane in PLANES}
    ours, theirs = (_round_s(status) for status in (simulated, live))
    return {
        "sim_bytes": {
            "value": sum(abs(each) for each in apart.values()) / live["bytes"]["total"],
            **{f"live_{plane}": live["bytes"][plane] for plane in PLANES},
            **{f"apart_{plane}": apart[plane] for plane in PLANES},
            "weights_equal": simulated["digest"] == live["digest"],
        },
        "sim_round": {
            "value": abs(ours / theirs - 1.0),
            "simulated_s": ours,
            "live_s": theirs,
            "node_mflop_s": model.node.flops / 1e6,
            "cloud_mflop_s": model.cloud.flops / 1e6,
            "save_s": model.cloud.save_s,
            "one_way_s": model.link.latency_s,
            "rounds": rounds - WARMUP,
        },
    }


def _live(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float], float]:
    """(last status, seconds of ops by family over all nodes, round trip over the broker)."""
    with (
        tempfile.TemporaryDirectory(prefix="foglearn-bench-") as folder,
        LocalFleet(Path(folder), NODES, broker="mosquitto") as fleet,
        fleet.client() as client,
    ):
        fleet.wait_for_nodes(client, NODES + 1)
        rtt_s = _round_trip(client)
        job = client.request("job.submit", spec=spec)["job"]
        until = time.monotonic() + LIMIT_S
        while (status := client.request("job.status", job=job))["state"] != "finished":
            if status["state"] in ("failed", "cancelled") or time.monotonic() > until:
                raise SystemExit(f"bench: the job did not finish: {status['state']}: {status['why'] or status['line']}")
            time.sleep(0.5)
        return status, _op_seconds(fleet, job), rtt_s


def _round_trip(client: Client, times: int = 50) -> float:
    """Median seconds from publishing a message to having it back."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        id = client.echo("bench")
        took.append(client.hear({id}, {id}, 5.0)[id] - began)
    return statistics.median(took)


def _op_seconds(fleet: LocalFleet, job: str) -> dict[str, float]:
    with urllib.request.urlopen(fleet.metrics_url, timeout=10) as page:
        lines = page.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("fog_job_op_seconds_total{") and f'job="{job}"' in line:
            family = line.split('op="')[1].split('"')[0]
            found[family] = float(line.rsplit(" ", 1)[1])
    return found


def calibrated(spec: dict[str, Any], rounds: int, seconds: dict[str, float], rtt_s: float) -> Fleet:
    """Nodes and links as this machine's: speed from the seconds that ops took, Saves from the disk, latency from the broker."""
    job = job_from(spec, "digits")
    costs = _costs(job)
    train = rounds * NODES * costs.flops("train", {"steps": job.method["local_steps"]})
    cloud = rounds * ((NODES + 2) * costs.flops("accumulate", {}) + costs.flops("evaluate", {}))
    save_s = _save_seconds(4 * costs.parameters)
    return Fleet(
        link=Link(up_bytes_s=200e6, down_bytes_s=200e6, latency_s=rtt_s / 2),
        cloud_link=Link(up_bytes_s=200e6, down_bytes_s=200e6, latency_s=rtt_s / 2),
        node=NodeModel(flops=train / seconds["train"], op_overhead_s=0.0, save_s=save_s, disk_bytes_s=1e9),
        cloud=NodeModel(flops=cloud / (seconds["average"] + seconds["evaluate"]), op_overhead_s=0.0, save_s=save_s, disk_bytes_s=1e9),
    )


def _costs(job: Job) -> Costs:
    _, costs = torch_bench(job, {f"trainer-{slot}": slot for slot in range(NODES)}, NODES)
    return costs


def _save_seconds(size: int, times: int = 20) -> float:
    """Median of durable Saves with one blob of that size."""
    took = []
    with tempfile.TemporaryDirectory(prefix="foglearn-bench-") as folder:
        store = JobStore(folder, "bench")
        for label in range(times):
            content = bytes([label]) * size
            blob = Blob(f"{label:064x}", size)
            record = Record("server", "server", label, 0.0, b"", b"", b"", (blob,))
            began = time.perf_counter()
            store.write(record, False, lambda digest, content=content: memoryview(content))  # type: ignore[misc]
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def _round_s(status: dict[str, Any]) -> float:
    ends = [record["wall_s"] for record in status["history"]]
    return float(statistics.median([later - earlier for earlier, later in itertools.pairwise(ends)][WARMUP:]))


# -- how fast ------------------------------------------------------------------------------------


def _timed(nodes: int, rounds: int) -> dict[str, Any]:
    """FedAvg of a small model with stand-in ops: the simulator alone, one core."""
    spec = {
        "name": "many",
        "method": {"name": "fedavg", "local_steps": 5},
        "model": {"name": "mlp", "hidden": [8]},
        "data": {"name": "digits"},
        "train": {"rounds": rounds},
    }
    began = time.process_time()
    world = Simulation(nodes, Fleet(link=Link(up_bytes_s=3e6, down_bytes_s=4e6, latency_s=0.004), spread=0.3), standin_bench)
    status = world.run(world.submit(spec), 86_400.0)
    took = time.process_time() - began
    if status["state"] != "finished" or any(record["updates"] != nodes for record in status["history"]):
        raise SystemExit(f"bench: the simulated job did not end as it should: {status['state']}: {status['line']}")
    return {"value": took, "events": world.kernel.events, "events_s": world.kernel.events / took, "simulated_s": status["wall_s"]}


def events() -> dict[str, Any]:
    """Events per second of CPU time."""
    timed = _timed(100, 10)
    return {**timed, "value": timed["events_s"], "cpu_s": timed["value"], "nodes": 100, "rounds": 10}


def thousand() -> dict[str, Any]:
    """Seconds of CPU time for 1 000 nodes and 20 rounds."""
    return {**_timed(1000, 20), "nodes": 1000, "rounds": 20}
