"""Random fault schedules in virtual time, and what must hold whatever happens. `python -m fog_sim.campaign.chaos --schedules 5000`.

Ops are exact numbers (fog_sim.campaign.books), so that what is counted can be checked, and not only that something comes out:

- the final weights are those of the updates that the history names, round by round; no slot is counted twice;
- an update that a trainer's Save has made durable is counted, where the job takes late ones, unless the job was over before it came;
- a job ends, or says what it waits for when time is up (which is a violation all the same: every fault ends);
- rounds are closed once each, in order; one that was shown as closed stays as it was, unless two nodes were away at once; if every update was counted in every round, the weights are the undisturbed run's, bit for bit;
- nothing piles up: blobs, letters and events that a host holds are looked at every second;
- the states of the hosts and of the coordinator break none of their invariants, looked at every second.

Scenarios take turns: a star that drops late updates, one with a quorum that takes them and with a second cloud node, trees over sites with
brokers of their own, once averaged upwards and once from neighbour to neighbour.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from fog_common.config import read
from fog_common.runtime.saves import Record
from fog_learning.backend.base import Backend
from fog_learning.job.sections import JobFile
from fog_sim.campaign.books import StarBook, TreeBook, Verdict
from fog_sim.costs import Costs, nominal_costs
from fog_sim.faults import ON_FLEET, ON_NODES, Fault, Kind, Schedule, random_schedule
from fog_sim.links import Fleet, LinkModel, NodeModel
from fog_sim.shape import Group, NodePlace, places, uniform
from fog_sim.world import Simulation

JOBS: Final = Path(__file__).parent / "jobs"
JOB: Final[dict[str, Any]] = read(JOBS / "star.yaml").root
TREE: Final[dict[str, Any]] = read(JOBS / "tree.yaml").root
LIMIT_S: Final = 900.0
SLOW = Fleet(link=LinkModel(up_bytes_s=1e5, down_bytes_s=1e5, latency_s=0.2), node=NodeModel(op_overhead_s=0.7))
"""A round takes about a second, so that faults hit every part of it."""
SITES = Fleet(
    link=LinkModel(up_bytes_s=1e6, down_bytes_s=1e6, latency_s=0.005),
    d2d=LinkModel(up_bytes_s=1e6, down_bytes_s=1e6, latency_s=0.005),
    bridge=LinkModel(up_bytes_s=1e5, down_bytes_s=1e5, latency_s=0.1),
    node=NodeModel(op_overhead_s=0.3),
    cloud=NodeModel(op_overhead_s=0.3),
)
MAX_HOST_BYTES: Final = 64_000
"""Of blobs: about thirty models of the stand-in."""
MAX_BACKLOG: Final = 128
"""Letters and events that wait in one host."""
ON_ITS_WAY_S: Final = 30.0
"""An update that was made durable, or whose node was away, so shortly before the job's end need not have come."""


class Scenario(Struct, frozen=True):
    """A job on a fleet; schedules hit it."""

    name: str
    job: dict[str, Any]
    nodes: tuple[NodePlace, ...]
    fleet: Fleet
    book: Callable[[JobFile, dict[str, int], int], Any]
    kinds: tuple[Kind, ...] = (*ON_NODES, *ON_FLEET)
    slots: int = 4
    max_bytes: int = MAX_HOST_BYTES

    @property
    def sites(self) -> list[str]:
        return sorted({place.site for place in self.nodes if place.tier == "thing"})


CLOUD_2 = NodePlace("cloud-2", "cloud", "cloud")
CAMPUS = tuple(places([Group("thing", 2, 3), Group("edge", 2, 2)]))
STAR = Scenario("star", JOB, tuple(uniform(4)), SLOW, StarBook)
LATE = Scenario(
    "late",
    {**JOB, "train": {"rounds": 24}, "stragglers": {"quorum": 0.5, "late": "accept", "late_rounds": 24}},
    (*uniform(4), CLOUD_2),
    SLOW,
    StarBook,
    max_bytes=300_000,  # a new server is sent all spools at once: 4 slots, 24 rounds, 2 kB each, and what it has itself
)
UPWARDS = Scenario(
    "upwards", {**TREE, "method": {**TREE["method"], "mode": "vertical"}}, CAMPUS, SITES, TreeBook, (*ON_NODES, *ON_FLEET, "cut_site"), slots=6
)
SIDEWAYS = Scenario(
    "sideways", {**TREE, "method": {**TREE["method"], "mode": "d2d"}}, CAMPUS, SITES, TreeBook, (*ON_NODES, *ON_FLEET, "cut_site"), slots=6
)
SCENARIOS: Final = (STAR, LATE, UPWARDS, SIDEWAYS)
STORY_LINES: Final = 20
"""Of each host."""
CORE_LINES: Final = 60
"""Of the coordinator."""


class Played(Struct, frozen=True):
    """One schedule's run."""

    seed: int
    scenario: str
    faults: tuple[Fault, ...]
    state: str
    line: str
    wall_s: float
    """Virtual seconds."""
    whole: bool
    """Every round held every slot's update."""
    violations: tuple[str, ...]
    story: tuple[str, ...] = ()
    """Last stimuli of the coordinator and of the hosts, if there was a violation."""


class Inspector:
    """Observations while a job runs: the most that a host held, which updates were made durable and when, which rounds were shown as closed, and
    which invariants were broken."""

    def __init__(self, world: Simulation, job: str, max_bytes: int) -> None:
        self.world, self.job, self.max_bytes = world, job, max_bytes
        self.shown: dict[int, tuple[int, int]] = {}  # round -> (updates, examples)
        self.taken_back: dict[int, str] = {}
        self.durable: dict[tuple[int, int], float] = {}  # (slot, round) -> virtual seconds
        self.too_much: dict[str, str] = {}
        self.unsound: dict[str, str] = {}  # violation -> its text with the time
        world.on_saved = self.saved

    def saved(self, node: str, record: Record, replica: bool) -> None:
        role, _, slot = record.task.partition("-")
        if role == "trainer" and not replica and record.label > 0:
            self.durable.setdefault((int(slot), record.label), self.world.kernel.now)

    def second(self) -> None:
        core = self.world.coordinator.core
        for wrong in core.validate_state() if core is not None else ():
            self.unsound.setdefault(wrong, f"coordinator at {self.world.kernel.now:.1f} s: {wrong}")
        rounds = core.book[self.job].history.rounds if core is not None and self.job in core.book else {}
        for number, item in rounds.items():
            now = (item.record.updates, item.record.examples)
            if self.shown.setdefault(number, now) != now:
                self.taken_back[number] = f"round {number} was shown with (updates, examples) {self.shown[number]}, then with {now}"
        for node in self.world.nodes.values():
            for worker in node.workers.values():
                if worker.core.host is None:
                    continue
                host = worker.core.host
                held, waiting = host.refs.blobs.size_bytes, host.backlog
                for wrong in host.validate():
                    self.too_much[wrong] = f"{node.name}: {wrong}"
                if held > self.max_bytes or waiting > MAX_BACKLOG:
                    self.too_much[node.name] = f"{node.name} holds {held} B of blobs, {waiting} letters and events"

    def story(self) -> tuple[str, ...]:
        core = self.world.coordinator.core
        lines = core.story(self.job)[-CORE_LINES:] if core is not None and self.job in core.book else []
        hosts = [(node.name, worker.core.host) for node in self.world.nodes.values() for worker in node.workers.values()]
        heard = [f"{name} {line}" for name, host in hosts if host is not None for line in list(host.story())[-STORY_LINES:]]
        return (*(f"coordinator {line}" for line in lines), *heard)


def play(seed: int, schedule: Schedule, scenario: Scenario = STAR, reference: bytes | None = None) -> tuple[Played, bytes]:
    """(what happened, the final weights). reference: the undisturbed run's weights."""
    books: list[Any] = []

    def backend(file: JobFile, slots: dict[str, int], roster_size: int) -> tuple[Backend, Costs]:
        books.append(scenario.book(file, slots, roster_size))
        return books[-1], nominal_costs(file, 256)

    world = Simulation(scenario.nodes, scenario.fleet, backend, seed=seed)
    name = world.submit(scenario.job)
    look = Inspector(world, name, scenario.max_bytes)
    began = world.kernel.now
    world.inject(schedule)
    status = world.run(name, LIMIT_S, look.second)
    weights = world.coordinator.results.get(name, b"")
    numbers, rounds = [record["round"] for record in status["history"]], scenario.job["train"]["rounds"]
    violations, whole = [*look.too_much.values(), *look.unsound.values()], False
    if _one_at_a_time(schedule):  # else both nodes with the newest Save may be away at once
        violations += look.taken_back.values()
    if status["state"] != "finished":
        violations += [text for book in books for text in book.violations]
        violations.append(f"{status['state']} after {LIMIT_S:g} s: {status['line']}")
    elif numbers != list(range(1, rounds + 1)):
        violations.append(f"closed rounds {numbers}")
    else:
        verdict: Verdict = books[-1].verify(status, weights, range(scenario.slots))
        violations, whole = [*violations, *verdict.violations], verdict.whole
        if scenario is LATE and not verdict.violations:
            violations += _lost(look.durable, verdict, schedule, began, world.kernel.now, status)
        if whole and scenario is STAR and reference is not None and weights != reference:
            violations.append("every update was counted, and the weights differ from the undisturbed run's")
    story = look.story() if violations else ()
    outcome = Played(seed, scenario.name, tuple(schedule.faults), status["state"], status["line"], status["wall_s"], whole, tuple(violations), story)
    return outcome, weights


def _one_at_a_time(schedule: Schedule) -> bool:
    """No two nodes are away at the same time, nor just after each other."""
    spans = [(fault.at, fault.at + fault.seconds + ON_ITS_WAY_S, fault.node) for fault in schedule.faults]
    return not any(a[2] != b[2] and a[0] < b[1] and b[0] < a[1] for a in spans for b in spans)


def _lost(
    durable: dict[tuple[int, int], float], verdict: Verdict, schedule: Schedule, began: float, ended: float, status: dict[str, Any]
) -> list[str]:
    """Updates that were on a disk and are in no round, though there was time for them to come."""
    away = {fault.node for fault in schedule.faults if began + fault.at + fault.seconds + ON_ITS_WAY_S > ended}
    nodes = {int(task["task"].partition("-")[2]): task["node"] for task in status["tasks"] if task["role"] == "trainer"}
    return [
        f"the update of slot {slot} in round {number} was durable at {at - began:.1f} s and is in no round"
        for (slot, number), at in sorted(durable.items())
        if (slot, number) in verdict.trained - verdict.counted and at + ON_ITS_WAY_S < ended and nodes[slot] not in away and number <= status["round"]
    ]


def campaign(first: int, count: int, *, kinds: tuple[Kind, ...] = (), scenarios: tuple[Scenario, ...] = SCENARIOS) -> list[Played]:
    """`count` seeded schedules of 1 to 4 faults each; the scenarios take turns."""
    references = {scenario.name: play(first, Schedule(), scenario)[1] for scenario in scenarios}
    outcomes = []
    for seed in range(first, first + count):
        scenario = scenarios[seed % len(scenarios)]
        nodes = ["cloud-1", *(place.name for place in scenario.nodes)]
        allowed = kinds or scenario.kinds
        faults = 1 + seed // len(scenarios) % 4
        schedule = random_schedule(seed, nodes, horizon_s=30.0, faults=faults, longest_s=25.0, kinds=allowed, sites=scenario.sites)
        try:
            outcomes.append(play(seed, schedule, scenario, references[scenario.name])[0])
        except Exception as error:  # a machine or host that raises would end its worker: the worst of violations, and no reason to stop
            where = traceback.extract_tb(error.__traceback__)[-1]
            found = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            outcomes.append(Played(seed, scenario.name, tuple(schedule.faults), "crashed", "", 0.0, False, (found,)))
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """Print one JSON line per violation and a closing line; 1 if there was one."""
    parser = argparse.ArgumentParser(prog="fog_sim.campaign.chaos", description=str(__doc__).splitlines()[0])
    parser.add_argument("--schedules", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    outcomes = campaign(options.first, options.schedules)
    bad = [outcome for outcome in outcomes if outcome.violations]
    for outcome in bad:
        faults = [f"{fault.at:g} {fault.kind} {fault.node} {fault.seconds:g}" for fault in outcome.faults]
        said = {"seed": outcome.seed, "scenario": outcome.scenario, "violations": outcome.violations, "line": outcome.line, "faults": faults}
        said["story"] = outcome.story
        print(json.dumps(said))  # noqa: T201
    for scenario in SCENARIOS:
        some = [outcome for outcome in outcomes if outcome.scenario == scenario.name]
        walls = sorted(outcome.wall_s for outcome in some) or [0.0]
        print(  # noqa: T201
            f"{scenario.name}: {len(some)} schedules, {sum(len(outcome.faults) for outcome in some)} faults, "
            f"{sum(bool(outcome.violations) for outcome in some)} with violations, {sum(outcome.whole for outcome in some)} with every update in every "
            f"round; job time median {walls[len(walls) // 2]:.1f} s, worst {walls[-1]:.1f} s (simulated)"
        )
    print(f"{len(outcomes)} schedules: {len(bad)} with violations; {time.perf_counter() - began:.0f} s real")  # noqa: T201
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
