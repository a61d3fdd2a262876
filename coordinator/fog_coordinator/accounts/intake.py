"""Intake of heartbeats: reports of nodes and their workers enter the sums, the histories and the tables. Pure."""

from __future__ import annotations

from typing import Final

from fog_common.runtime.machine import RoundRecord
from fog_common.wire.api.states import FAILED, PLACED, PREPARING, RUNNING
from fog_common.wire.messages import Heartbeat, WorkerState
from fog_coordinator.accounts.energy import forget_readings, share_energy
from fog_coordinator.accounts.reports import note_saves
from fog_coordinator.accounts.spending import spend
from fog_coordinator.lifecycle.docket import Docket
from fog_coordinator.lifecycle.watchdog import Watchdog
from fog_coordinator.state.book import Entry
from fog_coordinator.state.nodes import Node
from fog_coordinator.state.rules import READY

MAX_CRASHES: Final = 5
"""Ends of a worker before it is ready that fail its job."""
HISTORY_LAG: Final = 4
"""Rounds that a root repeats in its heartbeats before a Desired acknowledges them."""


class Intake:
    def __init__(self, docket: Docket, watchdog: Watchdog) -> None:
        self._docket, self._watchdog = docket, watchdog

    def heartbeat(self, now: float, beat: Heartbeat) -> Node | None:
        """Take in a heartbeat and return its node; None for a node that must announce itself first."""
        docket = self._docket
        book, registry = docket.book, docket.registry
        known = registry.get(beat.node)
        was = (known.online, known.held, known.goodbye) if known else (False, True, False)
        counting = known.totals.process if known else ""
        node = registry.heartbeat(now, beat)
        if node is None:
            return None
        before, node.workers = node.workers, {worker.job: worker for worker in beat.workers}
        placed = [entry for name in node.workers if (entry := book.get(name)) is not None and entry.job.state in PLACED]
        forget_readings(book.jobs, beat)
        node.reading = share_energy([entry.job for entry in placed], beat, node.reading)
        node.energy_j = dict(beat.energy_j)
        if counting not in ("", node.totals.process):
            docket.out.write(node.row())
        for entry in placed:
            self._worker(now, entry, node, before.get(entry.job.id), node.workers[entry.job.id])
        for name in docket.ending.heard(node):
            book[name].job.meter(node.node, node.workers[name])
            book[name].tally.update(node.node, node.workers[name])
            docket.write(book[name].job)
        if was != (True, False, node.goodbye):
            self._watchdog.node_changed(now, node)
        if node.goodbye and not was[2]:
            node.leaving_since = now
            docket.desk.changed(node.node)
        for name in before.keys() - node.workers.keys():
            if name in book:
                docket.touch(now, book[name].job)
        if (tell := docket.desk.tell(now, node)) is not None:
            docket.out.emit(tell)
        return node

    def history(self, now: float, entry: Entry, records: tuple[RoundRecord, ...]) -> None:
        """Take in closed rounds that the root reports."""
        job = entry.job
        joules = sum(job.energy_j.values()) if job.energy_j else None
        rows = entry.history.add(now, records, job.sent().payload, joules)
        for row in rows:
            self._docket.out.write(row)
        if rows:
            self._docket.write(job)

    def _worker(self, now: float, entry: Entry, node: Node, old: WorkerState | None, new: WorkerState) -> None:
        job, docket = entry.job, self._docket
        job.meter(node.node, new)
        entry.tally.update(node.node, new)
        job.top = max(job.top, new.incarnation)
        if old is None or (old.phase, old.incarnation, old.problems) != (new.phase, new.incarnation, new.problems):
            docket.touch(now, job)
            if new.phase == "exited":
                self._crashed(now, entry, node, new)
        if new.phase == READY:
            note_saves(job, node.node, old if old is not None and old.phase == READY else None, new)
        for state in new.tasks:
            seat = entry.seats.get(state.task) if state.since else None
            if seat is None or (seat.node, seat.since, seat.incarnation) != (node.node, state.since, new.incarnation):
                continue
            if seat.fetch and not seat.fetched:
                seat.fetched = True  # the task runs, so that the source of its Save may leave
                if not state.labels:
                    docket.log(now, job, f"{seat.task} begins anew on {node.node}: {seat.fetch} has no Save of it, and its buddy neither")
                docket.index(job)
            if state.history:
                self.history(now, entry, state.history)
                if len(state.history) > HISTORY_LAG:
                    docket.desk.changed(node.node, renew=True)
            if state.finished and state.why and job.state == RUNNING:
                docket.end(now, job, FAILED, f"{state.task} on {node.node}: {state.why}")
        if node.leaving:
            docket.touch(now, job)
        spend(now, entry, docket)

    def _crashed(self, now: float, entry: Entry, node: Node, worker: WorkerState) -> None:
        job = entry.job
        count = self._docket.crashes.count(job.id, node.node, worker.incarnation)
        if not count:
            return
        why = "; ".join(worker.problems) or "no reason given"
        self._docket.log(now, job, f"the worker on {node.node} ended: {why}")
        if job.state == PREPARING and count >= MAX_CRASHES:
            job.problems = [f"{node.node}: its worker ended {count} times: {why}"]
            self._docket.end(now, job, FAILED, job.problems[0])
