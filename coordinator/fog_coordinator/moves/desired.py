"""The `Desired` messages, which tell each node the jobs to run; level-triggered. Pure.

A Desired is sent when its content changes, and again (at most every resend_s) until the node's heartbeat confirms it.
"""

from __future__ import annotations

from fog_common.wire.messages import Desired, DesiredJob, Placement
from fog_coordinator.state.book import Book
from fog_coordinator.state.effects import Tell
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Node, Registry
from fog_coordinator.state.rules import READY


class Desk:
    def __init__(self, nonce: str, registry: Registry, book: Book, resend_s: float) -> None:
        self._nonce = nonce
        self._registry = registry
        self._book = book
        self._resend_s = resend_s
        self._number = 0
        self._wanted: dict[str, list[str]] = {}  # node -> its jobs, in the order in which they were placed there
        self._placements: dict[str, Placement] = {}
        self._stale: set[str] = set()  # nodes whose Desired may have changed
        self._renew: set[str] = set()  # nodes that get a Desired although tables and jobs are the same

    def index(self, job: Job) -> None:
        """Note the nodes that run this job now, and mark the nodes whose Desired changes."""
        nodes = {name for name in job.participants() if not self._released(job, name)}
        for name, jobs in self._wanted.items():
            if job.id in jobs and name not in nodes:
                jobs.remove(job.id)
                self._stale.add(name)
        for name in sorted(nodes):
            jobs = self._wanted.setdefault(name, [])
            if job.id not in jobs:
                jobs.append(job.id)
        self._stale |= nodes
        self._placements.pop(job.id, None)

    def changed(self, node: str, renew: bool = False) -> None:
        """Mark a node whose Desired may have changed. renew: it has changed beside its tables (an acknowledgement of rounds)."""
        self._stale.add(node)
        if renew:
            self._renew.add(node)

    def placement(self, job: Job) -> Placement:
        """The job's table for its nodes, the same until the next `index`."""
        table = self._placements.get(job.id)
        if table is None:
            places = {node.node: (node.profile.site, node.profile.tier) for node in self._registry}
            table = self._placements[job.id] = job.placement(places)
        return table

    def lags(self, node: Node) -> bool:
        """Whether the node has not applied its last Desired yet."""
        if node.desired_heard != node.number:
            return True
        for worker in node.workers.values():
            entry = self._book.get(worker.job)
            if entry is not None and worker.phase == READY and worker.view < entry.job.view and worker.job in self._wanted.get(node.node, ()):
                return True
        return False

    def due(self, now: float) -> list[Tell]:
        """Desired messages that changed since the last call."""
        stale, self._stale = sorted(self._stale), set()
        tells = []
        for name in stale:
            node = self._registry.get(name)
            if node is not None and not node.held and (tell := self.tell(now, node)) is not None:
                tells.append(tell)
        return tells

    def tell(self, now: float, node: Node) -> Tell | None:
        """The node's Desired if it is due now; otherwise None."""
        if not node.online:
            return None
        jobs = [self._book[name].job for name in self._wanted.get(node.node, ())]
        release = node.leaving and not jobs
        content = tuple((job.id, job.view) for job in jobs), release
        if content == node.told and node.node not in self._renew and (not self.lags(node) or now - node.told_at < self._resend_s):
            return None
        if content != node.told or node.node in self._renew:
            self._number += 1
            node.number, node.unsent = self._number, ""
        self._renew.discard(node.node)
        node.told, node.told_at = content, now
        return Tell(node.node, node.profile.site, Desired(node.number, self._nonce, tuple(self._job(now, job) for job in jobs), release))

    def _job(self, now: float, job: Job) -> DesiredJob:
        return DesiredJob(
            job=job.id,
            spec=job.told_spec,
            placement=self.placement(job),
            floor=job.top + 1,
            history_seen=self._book[job.id].history.seen,
            age_s=job.age_s(now),
        )

    def _released(self, job: Job, name: str) -> bool:
        """Whether a leaving node needs no worker of the job, because it has only tasks that wait for it."""
        node = self._registry.get(name)
        if node is None or not node.leaving:
            return False
        return not any((seat.node == name and (seat.movable or seat.incarnation)) or (seat.fetch == name and not seat.fetched) for seat in job.seats)
