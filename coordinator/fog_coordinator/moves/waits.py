"""Waits of a running job's tasks: kind, subject and timer, without texts. Pure.

`moves` and `live` act by the timers that `waits` explains (`recovery`, `finished_by`, `given_up_at`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from msgspec import Struct

from fog_coordinator.lifecycle.alike import misfit
from fog_coordinator.moves.live import finished_by, given_up_at
from fog_coordinator.moves.recovery import gone_since, inherited_at, recovery
from fog_coordinator.placement.eligible import absent, refusals, task_of, worker_of
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node, Registry
from fog_coordinator.state.rules import READY, Rules
from fog_coordinator.state.troubles import merged

MOST_REASONS: Final = 4
WaitKind = Literal[
    "successor",  # the node drains, and another node is prepared
    "no successor",  # the node drains, and no other node may take the task
    "round end",  # the node drains, and the task finishes its round there
    "node back",  # the node is gone, and the round goes on without the task at `until`
    "word",  # no message of the node came since the coordinator's start
    "worker back",  # the worker is gone, and the round goes on without the task at `until`
    "first sight",  # the node was never seen
    "only save",  # the node is gone, with the only Save
    "recovery",  # the node is gone, and the task moves at `until`
    "heir",  # the node is gone, and a neighbour takes the samples over at `until`
    "node",  # the node is gone, and the task stays with it
    "no taker",  # the node is gone, the time is over, and no other node may take the task
    "drain",  # the node drains, and the data task stays with it
    "start",  # the worker is not started yet
    "next view",  # the worker is ready
    "worker",  # the worker is not ready: see its phase and problems
]


class Wait(Struct, frozen=True):
    """Wait of one task. Times are seconds of the coordinator's clock."""

    kind: WaitKind
    task: str
    node: str
    """Node of the task."""
    since: float
    until: float | None = None
    """Time at which a timer ends the wait; None without one."""
    other: str = ""
    """successor: the node that is prepared."""
    reasons: tuple[str, ...] = ()
    """no successor, no taker: reasons for which other nodes do not take the task, one line each."""


def waits_of(now: float, job: Job, registry: Registry, rules: Rules, busy: Mapping[str, str]) -> Iterator[Wait]:
    """Waits of all waiting tasks, in the order of the table. busy: node -> another job that has it."""
    for seat in job.seats:
        node = registry.get(seat.node)
        wait = _of_live(job, seat, node, registry, rules, busy) if seat.incarnation else _of_absent(now, job, seat, node, registry, rules, busy)
        if wait is not None:
            yield wait


def _of_live(job: Job, seat: Seat, node: Node | None, registry: Registry, rules: Rules, busy: Mapping[str, str]) -> Wait | None:
    if node is not None and node.leaving:
        since = node.leaving_since or node.since
        if not seat.movable:
            return Wait("round end", seat.task, seat.node, node.leaving_since, finished_by(node, rules))
        if seat.successor:
            return Wait("successor", seat.task, seat.node, since, other=seat.successor)
        return Wait("no successor", seat.task, seat.node, since, reasons=_against(job, seat, registry, busy))
    if node is None or node.held:
        if node is not None and seat.gone_since is not None:
            return Wait("node back", seat.task, seat.node, seat.gone_since, given_up_at(seat.gone_since, rules))
        since = node.since if node is not None else job.since
        return Wait("word", seat.task, seat.node, since, since + rules.silent_s)
    if seat.gone_since is not None:
        return Wait("worker back", seat.task, seat.node, seat.gone_since, given_up_at(seat.gone_since, rules))
    return None


def _of_absent(now: float, job: Job, seat: Seat, node: Node | None, registry: Registry, rules: Rules, busy: Mapping[str, str]) -> Wait:
    gone = absent(node)
    if node is None:
        return Wait("first sight", seat.task, seat.node, job.since)
    if gone is not None and gone.kind == "offline":
        return _of_lost(now, job, seat, node, registry, rules, busy)
    if node.leaving and not seat.movable:
        return Wait("drain", seat.task, seat.node, node.leaving_since or node.since)
    worker = worker_of(job, node)
    if worker is None or node.held:
        return Wait("start", seat.task, seat.node, node.since)
    if worker.phase == READY and not misfit(job, worker):
        return Wait("next view", seat.task, seat.node, node.heard_at)
    since, retry = node.reported_at - (worker.waited_s or 0.0), worker.retry_s
    return Wait("worker", seat.task, seat.node, since, None if retry is None else node.reported_at + retry)


def _of_lost(now: float, job: Job, seat: Seat, node: Node, registry: Registry, rules: Rules, busy: Mapping[str, str]) -> Wait:
    """Wait of a task whose node is offline."""
    lost = gone_since(seat, node)
    until = recovery(job, seat, lost, registry, rules).at if seat.movable else inherited_at(seat, lost, rules)
    if until is None:
        return Wait("only save" if seat.movable else "node", seat.task, seat.node, node.since)
    if until > now:
        return Wait("recovery" if seat.movable else "heir", seat.task, seat.node, node.since, until)
    return Wait("no taker", seat.task, seat.node, node.since, reasons=_against(job, seat, registry, busy) if seat.movable else ())


def _against(job: Job, seat: Seat, registry: Registry, busy: Mapping[str, str]) -> tuple[str, ...]:
    """Reasons for which no other node takes the task, at most MOST_REASONS lines."""
    task = task_of(job, seat)
    reasons = ((node.node, reason.text) for node in registry if node.node != seat.node for reason in refusals(node, task, job, busy))
    return tuple(merged(reasons)[:MOST_REASONS])
