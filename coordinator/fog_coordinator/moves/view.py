"""The next view of a job's table: live tasks and their nodes, and the label to which a lockstep job goes back. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from fog_common.wire.api.states import PREPARING
from fog_coordinator.moves.live import leaves_in, still_live
from fog_coordinator.moves.moves import move
from fog_coordinator.placement.simple import buddies
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node, Registry
from fog_coordinator.state.rules import NOTHING, Rules


def settle(now: float, job: Job, registry: Registry, rules: Rules, busy: Mapping[str, str] = {}) -> tuple[bool, list[str]]:
    """Bring the job's table up to date; returns (whether its view was raised, lines for the log). busy: node -> another job that has it."""
    before = {seat.task: seat.peer() for seat in job.seats}, job.buddies
    for seat in job.seats:
        seat.leaves_in = leaves_in(job, seat, registry.get(seat.node))
    done = move(now, job, registry, rules, busy)
    for seat in job.seats:
        seat.incarnation = 0 if job.state == PREPARING else still_live(now, job, seat, registry.get(seat.node), rules)
    live = {seat.node for seat in job.seats if seat.incarnation and (seat.gone_since is None or now - seat.gone_since < rules.move_after_s)}
    if live:
        near = {name for name in job.buddies.values() if (node := registry.get(name)) and now - node.since < rules.move_after_s}
        job.buddies = buddies(job, live | near)
    if job.view and before == ({seat.task: seat.peer() for seat in job.seats}, job.buddies):
        return False, done
    job.view += 1
    returning: list[Seat] = []
    for seat in job.seats:
        if seat.fetched:
            seat.fetch, seat.fetched = "", False
        old = before[0].get(seat.task)
        if seat.incarnation and (seat.node, seat.incarnation) != seat.last:
            if seat.ran:
                returning.append(seat)
            seat.since, seat.last, seat.live_at = job.view, (seat.node, seat.incarnation), now
            seat.link = _link(registry.get(seat.node))
            done.append(f"view {job.view}: {seat.task} is live on {seat.node}, incarnation {seat.incarnation}")
        elif seat.incarnation and old is not None and not old.live:
            done.append(f"view {job.view}: {seat.task} is back on {seat.node}")
        elif not seat.incarnation and old is not None and old.live:
            done.append(f"view {job.view}: {seat.task} left {old.node}")
    if job.lockstep and returning:
        done += _rewind(job, returning)
    return True, done


def _link(node: Node | None) -> tuple[float, float, float]:
    if node is None:
        return 0.0, 0.0, 0.0
    return node.profile.bandwidth_bytes_s or 0.0, node.profile.rtt_s or 0.0, node.profile.byte_j or 0.0


def _rewind(job: Job, returning: list[Seat]) -> list[str]:
    """All tasks of a lockstep method go back to the newest label that all of them have."""
    labels = {seat.task: _labels(job, seat) for seat in job.seats if seat.incarnation}
    common = set.intersection(*labels.values())
    label = max(common, default=NOTHING)
    names = ", ".join(seat.task for seat in returning)
    if not common and any(labels.values()) and not any(seat.movable for seat in returning):
        had = {task: sorted(own) for task, own in labels.items()}
        return [f"view {job.view}: no Save that all tasks have ({had}); {names} must catch up"]
    job.rewind, job.rewind_view = label, job.view
    return [f"view {job.view}: back to {'the beginning' if label == NOTHING else f'label {label}'}, for {names}"]


def _labels(job: Job, seat: Seat) -> set[int]:
    """Labels with which the task can go on at its place."""
    saves = job.saves.get(seat.task, {})
    return {*saves.get(seat.node, ()), *(saves.get(seat.fetch, ()) if seat.fetch else ())}
