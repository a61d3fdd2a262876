"""Which worker runs a task now, and how long a task with data may finish on a node that leaves. Pure."""

from __future__ import annotations

from fog_common.wire.api.states import OFFLINE
from fog_common.wire.messages import TaskState
from fog_coordinator.lifecycle.alike import misfit
from fog_coordinator.placement.eligible import worker_of
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node
from fog_coordinator.state.rules import READY, Rules


def _live_incarnation(job: Job, seat: Seat, node: Node | None) -> int:
    """Incarnation of the worker that runs this task now; 0 if none does."""
    if node is None or node.state == OFFLINE:
        return 0
    if node.held:  # not heard of yet: what ran there is taken to run on
        return seat.incarnation
    worker = node.workers.get(job.id)
    return worker.incarnation if worker is not None and worker.phase == READY and not misfit(job, worker) else 0


def still_live(now: float, job: Job, seat: Seat, node: Node | None, rules: Rules) -> int:
    """As _live_incarnation, but a task with data whose node or worker is only just gone keeps its place: it may have trained what only it has.

    A new instance counts at once. A node that leaves in order keeps its task until the round is finished. What was silent before it was given
    up has had its time.
    """
    found = _live_incarnation(job, seat, node)
    if node is not None and node.leaving and not seat.movable:
        seat.gone_since = None
        return found if finishes(now, job, seat, node, rules) else 0
    if seat.movable or not seat.incarnation or node is None or (found and not node.held):
        seat.gone_since = None
        return found
    if found and seat.gone_since is None:
        return found  # taken to run on
    if seat.gone_since is None:
        seat.gone_since = min(now, node.gone_at) if node.state == OFFLINE else now
    if now < given_up_at(seat.gone_since, rules):
        return seat.incarnation
    seat.gone_since = None
    return 0


def given_up_at(gone_since: float, rules: Rules) -> float:
    """When a data task that is gone stops to count as live."""
    return gone_since + rules.return_s


def finished_by(node: Node, rules: Rules) -> float:
    """When a data task must have left a node that drains."""
    return node.leaving_since + rules.finish_s


def finishes(now: float, job: Job, seat: Seat, node: Node | None, rules: Rules) -> bool:
    """A live task with data, on a node that drains, is still at the round that it was in then: what it trained would be lost.

    It has finished once a later report says that it is in another round, or that nothing of it is computed, saved or sent.
    """
    state = _state_on_leaving(job, seat, node)
    if node is None or state is None or now >= finished_by(node, rules):
        return False
    return seat.leaves_in is None or (state.busy and state.round == seat.leaves_in)


def leaves_in(job: Job, seat: Seat, node: Node | None) -> int | None:
    """The round that such a task was in when its node began to drain. None: it does not leave, or has not said yet what it was at."""
    worker, state = worker_of(job, node), _state_on_leaving(job, seat, node)
    if node is None or worker is None or state is None:
        return None
    if seat.leaves_in is None and node.reported_at - worker.age_s >= node.leaving_since:
        return state.round
    return seat.leaves_in


def _state_on_leaving(job: Job, seat: Seat, node: Node | None) -> TaskState | None:
    """What a live task with data last said, if its node drains."""
    worker = worker_of(job, node)
    if node is None or not node.online or not node.leaving or seat.movable or not seat.incarnation:
        return None
    if worker is None or worker.incarnation != seat.incarnation:
        return None
    return next((state for state in worker.tasks if state.task == seat.task and state.since == seat.since), None)
