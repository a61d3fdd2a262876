"""The coordinator's state, and the few acts by which events change it. Pure.

An act on a job writes its row and its log, and marks the job as touched: its table is brought up to date `coalesce_s` later, together
with all changes until then; the desk then tells the nodes whose `Desired` has changed.
"""

from __future__ import annotations

from fog_common.wire.api.states import ENDED, PLACED
from fog_coordinator.accounts.reports import Crashes, Ending
from fog_coordinator.moves.desired import Desk
from fog_coordinator.state.book import Book, Check
from fog_coordinator.state.effects import EffectQueue, Tables
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Registry
from fog_coordinator.state.rules import Rules


class Docket:
    """State of all jobs and nodes. next_timer: time at which the next touched job, or the next admission, is due."""

    def __init__(self, nonce: str, tables: Tables, rules: Rules, check: Check) -> None:
        """tables: of the journal. nonce: of this process of the coordinator."""
        self.rules = rules
        self.check = check
        self.registry = Registry(rules.silent_s, [body for _, body in tables.get("nodes", [])])
        self.book = Book(check, tables)
        self.out = EffectQueue()
        self.desk = Desk(nonce, self.registry, self.book, rules.resend_s)
        self.ending = Ending(rules.close_s)
        self.crashes = Crashes()
        self.admit_at: float | None = None
        """Time of the next admission; None: no change could let a waiting job start."""
        self._touched: dict[str, float] = {}  # job -> time at which its table is brought up to date
        for job in self.book.jobs:
            self.desk.index(job)
        for job in self.book.unreadable:
            self.write(job)

    # -- acts --------------------------------------------------------------------------------

    def log(self, now: float, job: Job, text: str) -> None:
        self.out.write(self.book[job.id].log.add(now, text))

    def write(self, job: Job) -> None:
        """The job's row; of an ended job the tally's row too."""
        self.out.write(job.row())
        if job.state in ENDED:
            self.out.write(self.book[job.id].tally.row(job.id))

    def keep(self) -> None:
        """Write all sums to the journal: now and then, at the end, and before they are shown (a shown sum never falls, even after a kill)."""
        for entry in self.book.placed:
            self.out.write(entry.job.row())
            self.out.write(entry.tally.row(entry.job.id))
        for node in self.registry:
            if node.spoke_at > node.kept_at:
                self.out.write(node.row())

    def index(self, job: Job) -> None:
        """The job's seats, state or view have changed."""
        self.book[job.id].index()
        self.desk.index(job)

    def raise_view(self, now: float, job: Job, text: str) -> None:
        """Raise the view after a change of the table; text: line for the log."""
        job.view += 1
        self.log(now, job, text)
        self.index(job)
        self.write(job)

    def touch(self, now: float, job: Job) -> None:
        """The job's table may have to change."""
        if job.state in PLACED:
            self._touched.setdefault(job.id, now + self.rules.coalesce_s)

    def admit_soon(self, now: float) -> None:
        """A waiting job may be able to start."""
        if self.admit_at is None:
            self.admit_at = now + self.rules.coalesce_s

    def end(self, now: float, job: Job, state: str, why: str = "") -> None:
        """End a job: its workers stop, its nodes are free. state: one of ENDED."""
        job.state, job.since, job.ended_at, job.why = state, now, now, why
        job.readings = {}
        self.log(now, job, f"{state}{': ' + why if why else ''}")
        self.write(job)
        self._touched.pop(job.id, None)
        self.index(job)
        self.crashes.forget(job.id)
        self.admit_soon(now)

    def prune(self) -> None:
        """Forget the oldest ended jobs beyond keep_jobs."""
        for row in self.book.prune(self.rules.keep_jobs):
            self.out.write(row)

    # -- time --------------------------------------------------------------------------------

    def due(self, now: float) -> list[Job]:
        """Touched jobs whose table is due to be brought up to date; each is returned once."""
        names = [name for name, at in self._touched.items() if at <= now]
        for name in names:
            del self._touched[name]
        return [self.book[name].job for name in names]

    @property
    def touched(self) -> set[str]:
        return set(self._touched)

    def next_timer(self) -> float | None:
        return min((time for time in (*self._touched.values(), self.admit_at) if time is not None), default=None)
