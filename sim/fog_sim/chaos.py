"""Random fault schedules in virtual time, and what must hold whatever happens. `python -m fog_sim.chaos --schedules 5000`.

Ops are exact integers (the stand-in), so that what is counted can be checked, and not only that something comes out:

- no mean holds a slot twice, nor updates of two rounds;
- a job ends, or says what it waits for when time is up (which is a violation all the same: every fault ends);
- rounds are closed once each, in order;
- if every update was counted in every round, the final weights are those of the undisturbed run, bit for bit;
- no host holds more blobs than a few models' worth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from fog_learning.job import Job
from fog_sim.costs import Costs, standin_bench
from fog_sim.faults import Fault, Kind, Schedule, random_schedule
from fog_sim.links import Fleet, Link, NodeModel
from fog_sim.world import Simulation

JOB: dict[str, Any] = {
    "name": "chaos",
    "method": {"name": "fedavg", "local_steps": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "train": {"rounds": 8},
}
NODES = 4
LIMIT_S = 900.0
SLOW = Fleet(link=Link(up_bytes_s=1e5, down_bytes_s=1e5, latency_s=0.2), node=NodeModel(op_overhead_s=0.7))
"""A round takes about a second, so that faults hit every part of it."""
MAX_HOST_BYTES = 64_000


class Ledger:
    """The stand-in ops, with a book of whose update is in which sum."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench
        self._made: dict[bytes, tuple[int, int]] = {}  # bytes of an update -> (slot, round)
        self._sums: dict[int, tuple[Any, list[tuple[int, int]]]] = {}  # id of a sum -> (the sum, what is in it)
        self.violations: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bench, name)

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        before = self._sums.pop(id(inputs.get("sum")), (None, []))[1] if op == "accumulate" else []
        outputs, gives = self._bench.run(op, task, inputs, numbers)
        if op == "train":
            self._made[bytes(self._bench.encode(outputs["weights"]))] = (self._bench.slots[task], int(numbers["round"]))
        elif op == "accumulate":
            slot, round_ = self._made.get(bytes(self._bench.encode(inputs["add"])), (-1, -1))
            if slot >= 0:
                if slot in [other for other, _ in before]:
                    self.violations.append(f"slot {slot} is twice in the mean of round {round_}")
                if any(other != round_ for _, other in before):
                    self.violations.append(f"an update of round {round_} is in a mean with updates of another round")
            self._sums[id(outputs["sum"])] = (outputs["sum"], [*before, (slot, round_)])
        return outputs, gives


class Outcome(Struct, frozen=True):
    """One schedule's run."""

    seed: int
    faults: tuple[Fault, ...]
    state: str
    line: str
    wall_s: float
    """Virtual seconds."""
    whole: bool
    """Every round held every slot's update."""
    violations: tuple[str, ...]


def play(seed: int, schedule: Schedule, *, job: dict[str, Any] = JOB, nodes: int = NODES, reference: bytes | None = None) -> tuple[Outcome, bytes]:
    """(what happened, the final weights). reference: the undisturbed run's weights."""
    ledgers: list[Ledger] = []

    def bench(file: Job, slots: dict[str, int], roster_size: int) -> tuple[Any, Costs]:
        inner, costs = standin_bench(file, slots, roster_size)
        ledgers.append(Ledger(inner))
        return ledgers[-1], costs

    world = Simulation(nodes, SLOW, bench, seed=seed)
    name = world.submit(job)
    world.inject(schedule)
    status = world.run(name, LIMIT_S)
    weights = world.coordinator.results.get(name, b"")
    history = status["history"]
    rounds = job["train"]["rounds"]
    violations = [text for ledger in ledgers for text in ledger.violations]
    if status["state"] != "finished":
        violations.append(f"{status['state']} after {LIMIT_S:g} s: {status['line']}")
    elif [record["round"] for record in history] != list(range(1, rounds + 1)):
        violations.append(f"closed rounds {[record['round'] for record in history]}")
    whole = bool(history) and all(record["updates"] == nodes for record in history)
    if whole and reference is not None and status["state"] == "finished" and weights != reference:
        violations.append("every update was counted, and the weights differ from the undisturbed run's")
    for node in world.nodes.values():
        for worker in node.workers.values():
            held = worker.host.refs.blobs.size_bytes if worker.host else 0
            if held > MAX_HOST_BYTES:
                violations.append(f"{node.name} holds {held} B of blobs")
    return Outcome(seed, tuple(schedule.faults), status["state"], status["line"], status["wall_s"], whole, tuple(violations)), weights


def campaign(first: int, count: int, *, kinds: tuple[Kind, ...] = ()) -> list[Outcome]:
    """`count` seeded schedules of 1 to 4 faults each."""
    nodes = ["cloud-1", *(f"node-{index + 1}" for index in range(NODES))]
    _, reference = play(first, Schedule())
    outcomes = []
    for seed in range(first, first + count):
        schedule = random_schedule(seed, nodes, horizon_s=30.0, faults=1 + seed % 4, longest_s=25.0, kinds=kinds)
        outcomes.append(play(seed, schedule, reference=reference)[0])
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """Print one JSON line per violation and a closing line; 1 if there was one."""
    parser = argparse.ArgumentParser(prog="fog_sim.chaos", description=str(__doc__).splitlines()[0])
    parser.add_argument("--schedules", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    outcomes = campaign(options.first, options.schedules)
    bad = [outcome for outcome in outcomes if outcome.violations]
    for outcome in bad:
        faults = [f"{fault.at:g} {fault.kind} {fault.node} {fault.seconds:g}" for fault in outcome.faults]
        print(json.dumps({"seed": outcome.seed, "violations": outcome.violations, "line": outcome.line, "faults": faults}))  # noqa: T201
    walls = sorted(outcome.wall_s for outcome in outcomes)
    whole = sum(outcome.whole for outcome in outcomes)
    print(  # noqa: T201
        f"{len(outcomes)} schedules, {sum(len(outcome.faults) for outcome in outcomes)} faults: {len(bad)} with violations; "
        f"{whole} bit-equal to the undisturbed run; job time median {walls[len(walls) // 2]:.1f} s, worst {walls[-1]:.1f} s (simulated); "
        f"{time.perf_counter() - began:.0f} s real"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
