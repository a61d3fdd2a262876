"""The simulator against a real fleet, and how fast it is.

The demo's job runs live, three times. With the first and the last run the models of nodes and links are calibrated: seconds of ops, of
Saves, of the way to the broker, and what is left. Then it runs in virtual time and is compared with the one in between: weights must be the same bit for bit, bytes per
plane the same but for acknowledgements (whether two share a frame is a matter of microseconds), round times alike.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from msgspec.structs import replace

from fog_learning.job.reading import job_from
from fog_learning.job.sections import JobFile
from fog_sim.costs import Costs, standin_backend, torch_backend
from fog_sim.links import Fleet, LinkModel, NodeModel
from fog_sim.world import Simulation
from fogctl.client import Client
from fogctl.fleet.local_fleet import CLOUD_NODE, LocalFleet
from fogctl.verbs.demo import spec_of

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
    """sim_bytes: bytes that differ / bytes of the live run, over all planes. sim_round: |median simulated round / median live round - 1|.

    The fleet runs the job three times: the models are calibrated with the first and the last run, and must foretell the one in between.
    """
    spec = spec_of(DIGITS, None)
    spec["train"] = {**spec["train"], "rounds": rounds}
    ((first, seconds, saves), (between, _, _), (last, _, _)), rtt_s = _live(spec)
    model = calibrated(spec, rounds, seconds, saves, rtt_s)
    calibrating_s = statistics.fmean([_round_s(first), _round_s(last)])
    model = with_overhead(spec, model, calibrating_s)
    simulated = _simulated(spec, model)
    apart = {plane: simulated["bytes"][plane] - first["bytes"][plane] for plane in PLANES}  # of the one that has the same name: it is in each letter
    ours, theirs = (_round_s(status) for status in (simulated, between))
    return {
        "sim_bytes": {
            "value": sum(abs(each) for each in apart.values()) / first["bytes"]["total"],
            **{f"live_{plane}": first["bytes"][plane] for plane in PLANES},
            **{f"apart_{plane}": apart[plane] for plane in PLANES},
            "weights_equal": {simulated["digest"]} == {run["digest"] for run in (first, between, last)},
        },
        "sim_round": {
            "value": abs(ours / theirs - 1.0),
            "simulated_s": ours,
            "live_s": theirs,
            "calibrating_s": calibrating_s,
            "node_mflop_s": model.node.flops / 1e6,
            "cloud_mflop_s": model.cloud.flops / 1e6,
            "node_save_s": model.node.save_s,
            "cloud_save_s": model.cloud.save_s,
            "overhead_s": model.node.op_overhead_s,
            "one_way_s": model.link.latency_s,
            "rounds": rounds - WARMUP,
        },
    }


def _simulated(spec: dict[str, Any], model: Fleet) -> dict[str, Any]:
    world = Simulation(NODES, model, torch_backend)
    return world.run(world.submit(spec), LIMIT_S)


def with_overhead(spec: dict[str, Any], model: Fleet, round_s: float) -> Fleet:
    """The seconds beside ops, Saves and links (codecs, threads, a machine that all nodes share), as a constant of each op, so that a
    round takes round_s: it grows with that constant in a straight line."""

    def given(overhead_s: float) -> Fleet:
        return replace(model, node=replace(model.node, op_overhead_s=overhead_s), cloud=replace(model.cloud, op_overhead_s=overhead_s))

    short = {**spec, "train": {**spec["train"], "rounds": 2 * WARMUP}}
    without, probe_s = _round_s(_simulated(short, given(0.0))), 0.01
    slope = (_round_s(_simulated(short, given(probe_s))) - without) / probe_s
    return given(max(0.0, (round_s - without) / slope))


Run = tuple[dict[str, Any], dict[str, float], dict[str, float]]
"""(last status, seconds of ops by family over all nodes, seconds of a Save by node)"""


def _live(spec: dict[str, Any]) -> tuple[list[Run], float]:
    """(three runs, round trip over the broker)."""
    with (
        tempfile.TemporaryDirectory(prefix="foglearn-bench-") as folder,
        LocalFleet(Path(folder), NODES, broker="mosquitto") as fleet,
        fleet.client() as client,
    ):
        fleet.wait_for_nodes(client, NODES + 1)
        rtt_s = _round_trip(client)
        return [_run(fleet, client, spec) for _ in range(3)], rtt_s


def _run(fleet: LocalFleet, client: Client, spec: dict[str, Any]) -> Run:
    job = client.request("job.submit", spec=spec)["job"]
    until = time.monotonic() + LIMIT_S
    saves: dict[str, float] = {}
    while (status := client.request("job.status", job=job))["state"] != "finished":
        if status["state"] in ("failed", "cancelled") or time.monotonic() > until:
            raise SystemExit(f"bench: the job did not finish: {status['state']}: {status['why'] or status['line']}")
        saves |= {node: took for node in (CLOUD_NODE, *fleet.agents) if (took := _save_seconds(client, node, job))}
        time.sleep(0.5)
    return status, _op_seconds(fleet, job), saves


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


def calibrated(spec: dict[str, Any], rounds: int, seconds: dict[str, float], saves: dict[str, float], rtt_s: float) -> Fleet:
    """Nodes and links as this machine's in that run: speed from the seconds that ops and Saves took, latency from the broker."""
    job = job_from(spec, "digits")
    costs = _costs(job)
    train = rounds * NODES * costs.flops("train", {"steps": job.method["local_steps"]})
    cloud = rounds * ((NODES + 2) * costs.flops("accumulate", {}) + costs.flops("evaluate", {}))
    node_save_s = statistics.fmean([took for node, took in saves.items() if node != CLOUD_NODE])
    return Fleet(
        link=LinkModel(up_bytes_s=200e6, down_bytes_s=200e6, latency_s=rtt_s / 2),
        cloud_link=LinkModel(up_bytes_s=200e6, down_bytes_s=200e6, latency_s=rtt_s / 2),
        node=NodeModel(flops=train / seconds["train"], op_overhead_s=0.0, save_s=node_save_s, disk_bytes_s=1e12),
        cloud=NodeModel(flops=cloud / (seconds["average"] + seconds["evaluate"]), op_overhead_s=0.0, save_s=saves[CLOUD_NODE], disk_bytes_s=1e12),
    )


def _costs(job: JobFile) -> Costs:
    _, costs = torch_backend(job, {f"trainer-{slot}": slot for slot in range(NODES)}, NODES)
    return costs


def _save_seconds(client: Client, node: str, job: str) -> float | None:
    """Mean seconds of a durable Save there, copies for others included; None while there was none."""
    for worker in client.request("node.show", node=node)["workers"]:
        if worker["job"] == job and worker["counters"].get("saves"):
            return float(worker["counters"]["save_seconds"] / worker["counters"]["saves"])
    return None


def _round_s(status: dict[str, Any]) -> float:
    ends = [record["wall_s"] for record in status["history"]]
    return float(statistics.median([later - earlier for earlier, later in itertools.pairwise(ends)][WARMUP:]))


# -- how fast ------------------------------------------------------------------------------------


def _timed(nodes: int, rounds: int, bench: Callable[..., tuple[Any, Costs]]) -> dict[str, Any]:
    """FedAvg of a small model on digits, one core."""
    spec = {
        "name": "many",
        "method": {"name": "fedavg", "local_steps": 5},
        "model": {"name": "mlp", "hidden": [8]},
        "data": {"name": "digits"},
        "train": {"rounds": rounds},
    }
    began = time.process_time()
    world = Simulation(nodes, Fleet(link=LinkModel(up_bytes_s=3e6, down_bytes_s=4e6, latency_s=0.004), spread=0.3), bench)
    status = world.run(world.submit(spec), 86_400.0)
    took = time.process_time() - began
    if status["state"] != "finished" or any(record["updates"] != nodes for record in status["history"]):
        raise SystemExit(f"bench: the simulated job did not end as it should: {status['state']}: {status['line']}")
    return {"value": took, "events": world.kernel.events, "events_s": world.kernel.events / took, "simulated_s": status["wall_s"]}


def events() -> dict[str, Any]:
    """Events per second of CPU time: the simulator alone, with stand-in ops."""
    timed = _timed(100, 10, standin_backend)
    return {**timed, "value": timed["events_s"], "cpu_s": timed["value"], "nodes": 100, "rounds": 10}


def thousand() -> dict[str, Any]:
    """Seconds of CPU time for 1 000 nodes and 20 rounds, torch included."""
    torch.set_num_threads(1)
    return {**_timed(1000, 20, torch_backend), "nodes": 1000, "rounds": 20}
