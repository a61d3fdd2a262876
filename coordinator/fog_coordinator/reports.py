"""What heartbeats tell of a job: Saves and where they are, bytes, joules, crashes. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from fog_common.wire.messages import WorkerState
from fog_coordinator.jobs import Job


def note_saves(job: Job, node: str, old: WorkerState | None, new: WorkerState) -> None:
    """Which labels this node has of which tasks, in place of what it said before. old: None if that is not known."""
    before, found = (_labels(old) if old is not None else None), _labels(new)
    if before == found:
        return
    lost = before.keys() - found.keys() if before is not None else {task for task, places in job.saves.items() if node in places} - found.keys()
    for task in sorted(lost):
        job.saves.get(task, {}).pop(node, None)
    for task, labels in found.items():
        places = job.saves.setdefault(task, {})
        if labels:
            places[node] = labels
        else:
            places.pop(node, None)


def _labels(worker: WorkerState) -> dict[str, tuple[int, ...]]:
    found = {state.task: state.labels for state in worker.tasks}
    for replica in worker.replicas:
        found[replica.task] = tuple(sorted({*found.get(replica.task, ()), *replica.labels}))
    return found


def share_energy(jobs: list[Job], old: Mapping[str, float], new: Mapping[str, float]) -> None:
    """What a node used between two readings (joules since its agent began, by source) is shared by the jobs that have a worker there."""
    for source, joules in new.items():
        if source not in old:
            continue  # what came before the first reading is not ours to count
        used = joules - old[source] if joules >= old[source] else joules  # less: the agent began anew
        for job in jobs:
            job.energy_j[source] = job.energy_j.get(source, 0.0) + used / len(jobs)


class Crashes:
    """How often a job's worker ended on a node before its time."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}

    def count(self, job: str, node: str, incarnation: int) -> int:
        """0 if this end was counted before."""
        last, count = self._seen.get((job, node), (0, 0))
        if incarnation == last:
            return 0
        self._seen[job, node] = (incarnation, count + 1)
        return count + 1

    def forget(self, job: str) -> None:
        self._seen = {key: value for key, value in self._seen.items() if key[0] != job}
