"""Facts of a job from heartbeats: places of its Saves, crashes, ends of workers. Pure."""

from __future__ import annotations

from fog_common.wire.messages import WorkerState
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Node


def note_saves(job: Job, node: str, old: WorkerState | None, new: WorkerState) -> None:
    """Replace the labels of the job's Saves on a node. old: the worker's last report; None if it is unknown."""
    before, after = (_labels(old) if old is not None else None), _labels(new)
    if before == after:
        return
    lost = before.keys() - after.keys() if before is not None else {task for task, places in job.saves.items() if node in places} - after.keys()
    for task in sorted(lost):
        job.saves.get(task, {}).pop(node, None)
    for task, labels in after.items():
        places = job.saves.setdefault(task, {})
        if labels:
            places[node] = labels
        else:
            places.pop(node, None)


def _labels(worker: WorkerState) -> dict[str, tuple[int, ...]]:
    labels = {state.task: state.labels for state in worker.tasks}
    for replica in worker.replicas:
        labels[replica.task] = tuple(sorted({*labels.get(replica.task, ()), *replica.labels}))
    return labels


class Crashes:
    """Number of times that a job's worker crashed on a node."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}

    def count(self, job: str, node: str, incarnation: int) -> int:
        """Count a crash; returns the number so far, or 0 if this incarnation is counted already."""
        last, count = self._seen.get((job, node), (0, 0))
        if incarnation == last:
            return 0
        self._seen[job, node] = (incarnation, count + 1)
        return count + 1

    def forget(self, job: str) -> None:
        self._seen = {key: value for key, value in self._seen.items() if key[0] != job}


class Ending:
    """Jobs with a result whose workers have not ended yet, and whose last figures still count.

    Such a job is shown as running for a moment, so that its bytes are complete and its nodes free when it is shown as finished.
    """

    def __init__(self, at_most_s: float) -> None:
        self._at_most_s = at_most_s
        self._jobs: dict[str, tuple[float, set[str]]] = {}

    def __contains__(self, job: object) -> bool:
        return job in self._jobs

    def add(self, now: float, job: str, nodes: set[str]) -> None:
        if nodes:
            self._jobs[job] = (now + self._at_most_s, nodes)

    def heard(self, node: Node) -> list[str]:
        """Ending jobs with a worker on this node; a job whose worker is gone does not wait for the node any more."""
        ending = [job for job, (_, nodes) in self._jobs.items() if node.node in nodes]
        for job in ending:
            if job not in node.workers:
                self.gone(job, node.node)
        return [job for job in ending if job in node.workers]

    def gone(self, job: str, node: str) -> None:
        _, nodes = self._jobs[job]
        nodes.discard(node)
        if not nodes:
            del self._jobs[job]

    def overdue(self, now: float) -> None:
        self._jobs = {job: (until, nodes) for job, (until, nodes) in self._jobs.items() if now < until}

    def nodes(self, job: str) -> tuple[str, ...]:
        return tuple(sorted(self._jobs[job][1])) if job in self._jobs else ()

    def until(self, job: str) -> float | None:
        return self._jobs[job][0] if job in self._jobs else None

    def next_timer(self) -> float | None:
        return min((until for until, _ in self._jobs.values()), default=None)
