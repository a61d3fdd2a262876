"""The worker that runs a task now, and the time for a task with data to finish on a node that leaves. Pure."""

from __future__ import annotations

from fog_common.wire.api.states import OFFLINE
from fog_common.wire.messages import TaskState
from fog_coordinator.lifecycle.alike import misfit
from fog_coordinator.placement.eligible import worker_of
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node
from fog_coordinator.state.rules import READY, Rules


def _live_incarnation(job: Job, seat: Seat, node: Node | None) -> int:
    """Incarnation of the worker that runs this task now; 0 if no worker does."""
    if node is None or node.state == OFFLINE:
        return 0
    if node.held:  # a node without a heartbeat yet counts as running its tasks
        return seat.incarnation
    worker = node.workers.get(job.id)
    return worker.incarnation if worker is not None and worker.phase == READY and not misfit(job, worker) else 0


def still_live(now: float, job: Job, seat: Seat, node: Node | None, rules: Rules) -> int:
    """As _live_incarnation, but a task with data keeps its incarnation for `return_s` after its node or worker is gone.

    Such a task may have an update that no other task has. A new instance counts at once; a node that leaves in order keeps its task
    until the round is finished.
    """
    incarnation = _live_incarnation(job, seat, node)
    if node is not None and node.leaving and not seat.movable:
        seat.gone_since = None
        return incarnation if finishes(now, job, seat, node, rules) else 0
    if seat.movable or not seat.incarnation or node is None or (incarnation and not node.held):
        seat.gone_since = None
        return incarnation
    if incarnation and seat.gone_since is None:
        return incarnation  # a node without a heartbeat yet counts as running its tasks
    if seat.gone_since is None:
        seat.gone_since = min(now, node.gone_at) if node.state == OFFLINE else now
    if now < given_up_at(seat.gone_since, rules):
        return seat.incarnation
    seat.gone_since = None
    return 0


def given_up_at(gone_since: float, rules: Rules) -> float:
    """Time at which a task with data that is gone ceases to count as live."""
    return gone_since + rules.return_s


def finished_by(node: Node, rules: Rules) -> float:
    """Time at which a task with data must have left a draining node."""
    return node.leaving_since + rules.finish_s


def finishes(now: float, job: Job, seat: Seat, node: Node | None, rules: Rules) -> bool:
    """Whether a live task with data on a draining node is still in the round in which the drain began, and its update would be lost.

    The task has finished once a later report shows another round, or no computing, saving or sending.
    """
    state = _state_on_leaving(job, seat, node)
    if node is None or state is None or now >= finished_by(node, rules):
        return False
    return seat.leaves_in is None or (state.busy and state.round == seat.leaves_in)


def leaves_in(job: Job, seat: Seat, node: Node | None) -> int | None:
    """Round of a live task with data when its node began to drain; None if the node does not drain, or the round is not reported yet."""
    worker, state = worker_of(job, node), _state_on_leaving(job, seat, node)
    if node is None or worker is None or state is None:
        return None
    if seat.leaves_in is None and node.reported_at - worker.age_s >= node.leaving_since:
        return state.round
    return seat.leaves_in


def _state_on_leaving(job: Job, seat: Seat, node: Node | None) -> TaskState | None:
    """Last report of a live task with data, if its node drains; otherwise None."""
    worker = worker_of(job, node)
    if node is None or not node.online or not node.leaving or seat.movable or not seat.incarnation:
        return None
    if worker is None or worker.incarnation != seat.incarnation:
        return None
    return next((state for state in worker.tasks if state.task == seat.task and state.since == seat.since), None)
