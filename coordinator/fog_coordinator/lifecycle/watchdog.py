"""Watch over time and absence: silent nodes, overdue tasks and moves, free slots, budgets. Pure."""

from __future__ import annotations

from typing import Final

from fog_common.wire.api.states import PLACED, PREPARING, QUEUED, RUNNING, WAITING
from fog_coordinator.accounts.spending import spend
from fog_coordinator.lifecycle import join
from fog_coordinator.lifecycle.docket import Docket
from fog_coordinator.lifecycle.replan import relocate
from fog_coordinator.placement.eligible import is_there, occupied
from fog_coordinator.state.book import Entry
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Node, Registry

LOOK_AGAIN: Final = 10
"""Number of sweeps after which every table is settled again, even without a change."""


class Watchdog:
    """Sweeps every `sweep_s`. Silence of nodes does not count while the bus is down (`connected`)."""

    def __init__(self, docket: Docket) -> None:
        self._docket = docket
        self.connected = True
        self.sweep_at: float | None = None
        """Time of the next sweep; None before the first event."""
        self._sweeps = 0

    def sweep(self, now: float) -> None:
        """Check for silent nodes, overdue tasks, budgets, free slots, and nodes whose Desired is unconfirmed."""
        docket, rules = self._docket, self._docket.rules
        self.sweep_at = now + rules.sweep_s
        if self.connected:
            for node in docket.registry.silent(now):
                self.node_changed(now, node)
        self._sweeps += 1
        again = self._sweeps % LOOK_AGAIN == 0
        for entry in docket.book:
            job = entry.job
            if job.state == PREPARING or again or (job.state == RUNNING and overdue(job, docket.registry)):
                docket.touch(now, job)
            spend(now, entry, docket)
            if again and job.state == RUNNING:
                self._relocate(now, entry)
            if again or join.vacant(entry.job, entry.file, docket.registry, rules, now):
                self.join(now, entry)
        for node in docket.registry:
            if node.online and node.number and docket.desk.lags(node):
                docket.desk.changed(node.node)
        if any(job.state in {WAITING, QUEUED} for job in docket.book.jobs):
            docket.admit_soon(now)

    def node_changed(self, now: float, node: Node) -> None:
        """Touch the jobs of a node that came, went, began to drain, or announced other facts."""
        for job in self._docket.book.jobs:
            if job.state in PLACED and (any(seat.node == node.node for seat in job.seats) or overdue(job, self._docket.registry)):
                self._docket.touch(now, job)
            elif job.state in {WAITING, QUEUED}:
                self._docket.admit_soon(now)

    def leaving(self, now: float, node: Node) -> None:
        """The node begins or ends a drain."""
        node.leaving_since = now
        self.node_changed(now, node)
        self._docket.desk.changed(node.node, renew=True)  # its workers answer with their present round

    def join(self, now: float, entry: Entry, came: str = "") -> None:
        """Give free slots to nodes without one. came: the node that announced itself; the log tells if no slot is free for it."""
        job, docket = entry.job, self._docket
        if job.state not in PLACED or not job.view:
            return
        taken = occupied(docket.book.jobs, docket.rules, but=job.id)
        claimed = {name: other.id for other in docket.book.jobs if other.state in {WAITING, QUEUED} for name in other.roster}
        for node in join.newcomers(job, entry.file, entry.method, docket.registry, {**claimed, **taken}):
            text = join.join(now, job, entry.file, entry.method, node, docket.registry, docket.rules)
            if text:
                docket.raise_view(now, job, text)
                docket.touch(now, job)
            elif node.node == came and came not in job.watching:
                job.watching = [*(name for name in job.watching if docket.registry.get(name)), came]
                docket.log(now, job, f"{came} is here, but no slot is free: it watches, and takes the next one")
                docket.write(job)

    def _relocate(self, now: float, entry: Entry) -> None:
        """Move the job's free tasks, in order, to places that have been clearly better for long enough."""
        job, docket = entry.job, self._docket
        taken = occupied(docket.book.jobs, docket.rules, but=job.id)
        if text := relocate(now, job, entry.file, entry.method, docket.registry, taken):
            docket.log(now, job, text)
            docket.touch(now, job)


def overdue(job: Job, registry: Registry) -> bool:
    """Whether a node of the job is gone or leaves, so that a task or copy may have to move, or a round to go on without a task."""
    if any(seat.gone_since is not None or seat.leaves_in is not None for seat in job.seats):
        return True
    if any(
        (seat.movable or seat.heir) and (seat.away_since is not None or seat.successor or (seat.fetch and not seat.fetched)) for seat in job.seats
    ):
        return True
    return any(not is_there(registry.get(name)) for name in (*job.buddies.values(), *(seat.node for seat in job.seats if seat.movable)))
