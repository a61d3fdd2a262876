"""Preflight of a placed job: nodes that have not answered yet, problems of those that have, and the decision to begin. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from fog_coordinator.lifecycle.alike import unequal
from fog_coordinator.placement.eligible import absent, worker_of
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Registry
from fog_coordinator.state.rules import READY, REFUSED
from fog_coordinator.state.troubles import merged
from fog_learning.job.sections import JobFile
from fog_learning.rounds.closing import needed


class Pending(Struct, frozen=True):
    """A node for whose answer a job waits. what: the reason, for a person; online: the node will answer by itself."""

    node: str
    what: str
    since: float
    online: bool = True


def preflight(job: Job, registry: Registry) -> tuple[list[Pending], list[str]]:
    """(nodes whose worker has not answered yet, problems of workers as lines for a person)."""
    pending: list[Pending] = []
    refusals: list[tuple[str, str]] = []
    for name in sorted(job.participants()):
        node = registry.get(name)
        gone = absent(node)
        if node is None or (gone is not None and gone.kind != "unheard"):
            since = node.since if node is not None else job.since
            pending.append(Pending(name, gone.text if gone is not None else "", since, online=False))
        elif node.held:
            pending.append(Pending(name, "not heard of yet", node.since))
        else:
            worker = worker_of(job, node)
            if worker is None:
                pending.append(Pending(name, "its worker is not started yet", job.since))
            elif worker.incarnation <= job.stale.get(name, -1):
                pending.append(Pending(name, "its worker starts anew, with another cut", job.since))
            elif worker.phase == REFUSED:
                refusals += [(name, text) for text in worker.problems or ("refused without a reason",)]
            elif worker.phase != READY:
                why = f": {'; '.join(worker.problems)}" if worker.problems else ""
                pending.append(Pending(name, f"worker {worker.phase}{why}", job.since))
    problems = merged(refusals)
    if not pending and not problems and (clash := unequal(job, registry)):
        problems.append(clash)
    return pending, problems


def missing(job: Job, file: JobFile, pending: Iterable[Pending]) -> tuple[str, ...] | None:
    """Nodes without which the job begins: with a quorum below 1, absent nodes that only own data. None: the job waits."""
    absent = list(pending)
    names = {item.node for item in absent}
    if not names:
        return ()
    needs_all = file.stragglers.quorum >= 1.0 or any(item.online for item in absent) or any(seat.movable and seat.node in names for seat in job.seats)
    passed = sum(name not in names for name in job.roster)
    if needs_all or not names <= {*job.roster} or passed < needed(file.stragglers.quorum, len(job.roster)):
        return None
    return tuple(sorted(names))
