"""Fault schedules on a fleet of real processes: what must hold, and how long it takes to recover.

    python -m bench.chaos [--minutes 20] [--first SEED] [--only kill_worker,freeze] [--mixed 15] [--out FILE] [--keep FOLDER]

One mosquitto, one coordinator, one cloud agent and three others live through all of it; each schedule (the simulator's format) hits
one job. Schedules of a single fault are measured, kind by kind; then mixed ones follow, seeded, of two to four faults each.
Ends with 1 if a job hung or a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, to_builtins

from bench.chaos import report, truth
from bench.chaos.fleet import ChaosFleet, memory_of
from bench.chaos.kinds import LENGTHS, MIXED, Case, cases
from bench.chaos.watch import Figures, Watch, figures
from fog_common.errors import FogError, Unreachable
from fog_common.wire.api.states import ENDED
from fog_sim.faults import Schedule, random_schedule
from fogctl.client import Client
from fogctl.fleet.local_fleet import CLOUD_NODE

AGENTS: Final = 3
SLOTS: Final = range(AGENTS)
PATIENCE_S: Final = 90.0
"""After the last fault is over; a job that is not finished then hangs."""
ENOUGH: Final = 50
"""Schedules without which a campaign says too little."""
MAX_DAEMON_MB: Final = 100.0
"""Resident, after everything: a daemon or the coordinator that holds more has piled something up."""
RESULTS: Final = Path(__file__).parents[1] / "results"


class Outcome(Struct, frozen=True):
    """One schedule on the live fleet."""

    name: str
    seed: int
    schedule: Schedule
    state: str
    line: str
    whole: bool
    """Every round held every update; then the weights are those of the undisturbed run."""
    took_s: float
    figures: Figures | None
    violations: tuple[str, ...]


class Runner:
    """Plays cases one after another on a running fleet."""

    def __init__(self, fleet: ChaosFleet, client: Client) -> None:
        self.fleet, self.client = fleet, client
        self._number = 0
        self._shown: dict[int, tuple[int, int]] = {}  # round -> (updates, examples), as the history of this job said it first
        self._taken_back: list[str] = []

    def play(self, case: Case) -> Outcome:
        """Submit a job, wait for its third round, let the schedule happen, wait for the end, put everything right again."""
        fleet, client = self.fleet, self.client
        self._number += 1
        name = f"chaos-{self._number}"
        stragglers = {"deadline_s": 600.0} if case.seed % 2 else {}
        spec = {
            "name": name,
            "method": {"name": "fedavg"},
            "model": {"name": "mlp", "hidden": [8]},
            "train": {"rounds": case.rounds},
            "stragglers": stragglers,
        }
        job = str(self._insist("job.submit", spec=spec, token=name)["job"])
        began = time.monotonic()
        self._shown, self._taken_back = {}, []
        with Watch(fleet.saves_of(job, "server")) as watch:
            status = self._until_round(job, watch, 3)
            fault_at = time.monotonic() + min((fault.at for fault in case.schedule.faults), default=0.0)
            status = self._let_happen(case.schedule, job, status)
        ended = time.monotonic()
        found: list[str] = []
        if status["state"] != "finished":
            found.append(f"{status['state']} {PATIENCE_S:.0f} s after the last fault: {status['line']}; {status['problems']}")
            log_tail = [event["text"] for event in self._insist("job.logs", job=job)["events"]][-12:]
            found.append(f"its log: {log_tail}")
            with contextlib.suppress(FogError):
                client.request("job.cancel", job=job)
        else:
            found += truth.violations(status, case.rounds, SLOTS)
        found += self._taken_back
        whole = status["state"] == "finished" and truth.whole(status, SLOTS)
        try:
            fleet.heal_all(client)
            self._nothing_is_left()
        except FogError as error:
            found.append(f"the fleet did not come back: {error}")
        measured = figures(watch.closings, fault_at, ended) if case.schedule.faults else figures(watch.closings, _middle(watch), ended)
        return Outcome(case.name, case.seed, case.schedule, status["state"], status["line"], whole, ended - began, measured, tuple(found))

    # -- parts -----------------------------------------------------------------------------------

    def _let_happen(self, schedule: Schedule, job: str, status: dict[str, Any]) -> dict[str, Any]:
        """Strikes and heals at their times, then the job's end or the end of our patience; its last status."""
        order = itertools.count()
        began = time.monotonic()
        due = [(began + fault.at, next(order), self.fleet.strike, fault) for fault in schedule.faults]
        due += [(began + fault.at + fault.seconds, next(order), self.fleet.heal, fault) for fault in schedule.faults]
        heapq.heapify(due)
        give_up = max((at for at, *_ in due), default=began) + PATIENCE_S
        while time.monotonic() < give_up:
            while due and due[0][0] <= time.monotonic():
                _, _, do, fault = heapq.heappop(due)
                do(fault, self.client)
            if not due and status["state"] in ENDED:
                break
            left = (due[0][0] if due else give_up) - time.monotonic()
            if left <= 0.3:
                time.sleep(max(0.0, left))  # a fault falls when it is due: that is the schedule, nothing is waited for
                continue
            with contextlib.suppress(Unreachable):  # nobody may be there to answer: that is the test
                self.client.timeout_s = min(3.0, left - 0.05)
                status = self.client.request("job.status", job=job)
                self._look(status)
            self.client.timeout_s = 3.0
            left = (due[0][0] if due else give_up) - time.monotonic()
            time.sleep(min(0.2, max(0.0, left - 0.1)))
        return status

    def _look(self, status: dict[str, Any]) -> None:
        """A round that was shown as closed stays as it was, whatever falls back."""
        now = {record["round"]: (record["updates"], record["examples"]) for record in status["history"]}
        self._taken_back += [
            f"round {number} was shown with {was}, then with {now.get(number)}" for number, was in self._shown.items() if now.get(number) != was
        ]
        self._shown |= now

    def _until_round(self, job: str, watch: Watch, number: int) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        status = self._insist("job.status", job=job)
        while watch.round < number and time.monotonic() < until:
            time.sleep(0.02)
            if watch.round == 0:
                status = self._insist("job.status", job=job)
                if status["state"] in ENDED:
                    break
        return status

    def _insist(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """A request that is repeated while nobody answers, for a minute."""
        until = time.monotonic() + 60.0
        while True:
            try:
                return self.client.request(verb, **arguments)
            except Unreachable:
                if time.monotonic() > until:
                    raise

    def _nothing_is_left(self) -> None:
        """Workers of ended jobs end. FogError names those that do not."""
        until = time.monotonic() + 30.0
        while left := {node: pids for node in (CLOUD_NODE, *self.fleet.agents) if (pids := self.fleet.workers_of(node))}:
            if time.monotonic() > until:
                raise FogError(f"workers of ended jobs still run: {left}")
            time.sleep(0.05)


def _middle(watch: Watch) -> float:
    return watch.closings[len(watch.closings) // 2].at if watch.closings else time.monotonic()


def campaign(first: int, singles: int, mixed: int, only: set[str]) -> Iterator[Case]:
    """Cases of single faults, kind after kind, `singles` times; then mixed ones."""
    for seed in range(first, first + singles):
        yield from (case for case in cases(seed) if not only or case.name in only)
    nodes = [CLOUD_NODE, *(f"agent-{number}" for number in range(1, AGENTS + 1))]
    for seed in range(first, first + mixed):
        schedule = random_schedule(seed, nodes, horizon_s=6.0, faults=2 + seed % 3, longest_s=8.0, kinds=MIXED)
        yield Case("mixed", seed, LENGTHS["mixed"], schedule)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="no schedule begins after this time")
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedules")
    parser.add_argument("--singles", type=int, default=2, help="times that each kind of fault is played and measured")
    parser.add_argument("--mixed", type=int, default=12, help="seeded schedules of two to four faults")
    parser.add_argument("--only", default="", help="kinds, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS / "chaos.json")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the fleet's state and logs; kept")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s")
    began = time.monotonic()
    outcomes: list[Outcome] = []
    cut_short = False
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foglearn-chaos-")))
        fleet = stack.enter_context(ChaosFleet(folder, AGENTS))
        client = stack.enter_context(fleet.client(timeout_s=3.0))
        fleet.heal_all(client)
        runner = Runner(fleet, client)
        before = memory_of(fleet)
        for case in campaign(options.first, options.singles, options.mixed, {kind for kind in options.only.split(",") if kind}):
            if time.monotonic() - began > 60 * options.minutes:
                cut_short = True
                break
            outcomes.append(runner.play(case))
            sys.stdout.write(report.line(outcomes[-1], time.monotonic() - began) + "\n")
            sys.stdout.flush()
        small_disks, after = fleet.small_disks, memory_of(fleet)
    real_s = time.monotonic() - began
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"real_s": real_s, "outcomes": [to_builtins(outcome) for outcome in outcomes]}, indent=1) + "\n")
    sys.stdout.write(report.table(outcomes, real_s, small_disks) + report.memory(before, after))
    grown = [name for name, megabytes in after.items() if megabytes > MAX_DAEMON_MB]
    if grown:
        sys.stdout.write(f"VIOLATION more than {MAX_DAEMON_MB:g} MB resident: {', '.join(grown)}\n")
    if cut_short:
        sys.stdout.write(f"cut short after {options.minutes:g} minutes and {len(outcomes)} schedules\n")
    return 1 if grown or (cut_short and len(outcomes) < ENOUGH) or any(outcome.violations for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
