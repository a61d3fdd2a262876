"""Division of a node's joules between two heartbeats among the jobs that have a worker there. Pure.

Joules of computing are divided by the CPU seconds of the workers, those of sending and receiving by their bytes, idle ones and those of
unknown use equally. Within a worker, joules of computing are divided by the computing time of each role, the rest equally among its
roles. Every joule keeps its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import fsum, inf
from typing import Final

from fog_common.telemetry.metrics import SOURCES, UNDIVIDED, USES, joules
from fog_common.wire.messages import Heartbeat, WorkerState
from fog_coordinator.state.jobs import Job, Reading

NO_ROLE: Final = "none"
"""Role of a worker that only keeps copies."""
_WORK: Final = {"compute": 0, "send": 1, "receive": 2}
"""Use -> index of the number in Reading.work by which it is divided."""


def share_energy(jobs: list[Job], beat: Heartbeat, last: Reading | None = None) -> Reading:
    """Charge jobs for the joules since the last heartbeat, and return the node's reading at this one.

    jobs: placed jobs with a worker on the node; a job whose worker is new there pays from the last heartbeat on. last: the reading
    returned for the last heartbeat; without one a new job pays from now on.
    """
    workers = {worker.job: worker for worker in beat.workers}
    old = {job.id: job.readings.get(beat.node) for job in jobs}
    new = {job.id: _reading(beat, workers[job.id]) for job in jobs}
    work = {job.id: _worked(old[job.id], new[job.id]) for job in jobs}
    total = [sum(each[part] for each in work.values()) for part in range(3)]
    for job in jobs:
        before, now = old[job.id], new[job.id]
        job.readings[beat.node] = now
        before = before or last
        if before is None or not before.joules:
            continue
        part = {use: work[job.id][at] / total[at] if total[at] > 0 else 1 / len(jobs) for use, at in _WORK.items()}
        roles = sorted({seat.role for seat in job.seats if seat.node == beat.node}) or [NO_ROLE]
        computed = _normed({role: seconds for role, seconds in _grown(before.roles, now.roles, _same_worker(before, now)).items() if role in roles})
        evenly = dict.fromkeys(roles, 1 / len(roles))
        for source, grew in _grown(before.joules, now.joules, before.process == now.process).items():
            used = {use: grew * ratio * part.get(use, 1 / len(jobs)) for use, ratio in _by_use(source, before, now).items()}
            whole = grew if len(jobs) == 1 else fsum(used.values())
            job.energy_j[source] = job.energy_j.get(source, 0.0) + whole
            job.node_joules[beat.node] = job.node_joules.get(beat.node, 0.0) + whole
            for use, mine in used.items():
                for role, share in (computed if use == "compute" and computed else evenly).items():
                    key = f"{role}/{source}/{use}"
                    job.energy_by[key] = job.energy_by.get(key, 0.0) + mine * share
    return _reading(beat, WorkerState("", 0, ""))


def forget_readings(jobs: Iterable[Job], beat: Heartbeat) -> None:
    """Forget the readings of jobs without a worker on the node, which do not pay until they have one again."""
    working = {worker.job for worker in beat.workers}
    for job in jobs:
        if job.readings and job.id not in working:
            job.readings.pop(beat.node, None)


def _reading(beat: Heartbeat, worker: WorkerState) -> Reading:
    return Reading(
        process=beat.nonce,
        joules={source: value for source, value in beat.energy_j.items() if source in SOURCES and 0 <= value < inf},
        uses={name: value for name, value in beat.counters.items() if name.startswith("joules/") and 0 <= value < inf},
        incarnation=worker.incarnation,
        work=(worker.counters.get("cpu_seconds", 0.0), float(worker.sent.total), float(worker.received.total)),
        roles={name[len("role_") : -len("_seconds")]: value for name, value in worker.counters.items() if name.startswith("role_")},
    )


def _same_worker(old: Reading, new: Reading) -> bool:
    return old.incarnation == new.incarnation


def _worked(old: Reading | None, new: Reading) -> tuple[float, ...]:
    if old is None or not _same_worker(old, new):
        return new.work
    return tuple(max(0.0, after - before) for before, after in zip(old.work, new.work, strict=True))


def _grown(old: Mapping[str, float], new: Mapping[str, float], same: bool) -> dict[str, float]:
    """Growth of sums. same: both are of one process; a sum that fell, or of another process, began at 0."""
    return {name: value - old.get(name, 0.0) if same and value >= old.get(name, 0.0) else value for name, value in new.items()}


def _by_use(source: str, old: Reading, new: Reading) -> dict[str, float]:
    """Use -> its part of the joules of this source, 0 to 1; undivided if the agent reports no uses."""
    names = {joules(source, use): use for use in (*USES, UNDIVIDED)}
    grew = _grown(old.uses, new.uses, old.process == new.process)
    return _normed({use: grew[name] for name, use in names.items() if name in grew}) or {UNDIVIDED: 1.0}


def _normed(parts: Mapping[str, float]) -> dict[str, float]:
    total = sum(parts.values())
    return {name: value / total for name, value in parts.items() if value > 0} if total > 0 else {}
