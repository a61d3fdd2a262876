"""Moves of a job's tasks. Pure.

A task with data waits for its node. Any other task moves: in order (its node drains; the successor's worker is prepared first), or
to a copy of its newest Save when its node is gone for `move_after_s`. If all copies are gone it waits for its node; if none was
ever made, it begins anew elsewhere after `orphan_after_s`.
"""

from __future__ import annotations

from collections.abc import Mapping

from fog_common.wire.api.states import OFFLINE, RUNNING
from fog_coordinator.lifecycle.alike import misfit
from fog_coordinator.moves.live import finishes
from fog_coordinator.moves.recovery import holders, inherited_at, newest, recovery
from fog_coordinator.placement import tree
from fog_coordinator.placement.eligible import eligible, is_there, note_refusal, refusals, refused, task_of, worker_of
from fog_coordinator.placement.simple import best
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node, Registry
from fog_coordinator.state.rules import READY, Rules

# -- places --------------------------------------------------------------------------------


def move(now: float, job: Job, registry: Registry, rules: Rules, busy: Mapping[str, str]) -> list[str]:
    """Give new places to tasks that need them; returns lines for the log. busy: node -> another job that has it."""
    done: list[str] = []
    for seat in job.seats:
        node = registry.get(seat.node)
        if node is None or node.state == OFFLINE:
            seat.away_since = seat.away_since if seat.away_since is not None else (node.since if node else now)
        else:
            seat.away_since = None
            if (seat.site, seat.tier) != (node.profile.site, node.profile.tier):
                moved = seat.site != node.profile.site
                seat.site, seat.tier = node.profile.site, node.profile.tier
                if moved and seat.slot >= 0:
                    done += _rehome(job, seat)
                    if node.held or seat.gone_since is not None:
                        seat.incarnation = 0  # an instance does not continue at another site
        if not seat.movable:
            if seat.heir:
                done += _hand_over(now, job, seat, registry, rules)
            if seat.heir and seat.fetch and not seat.fetched:
                done += _other_source(now, job, seat, registry, rules)
            continue
        for place in (node, registry.get(seat.successor)):
            if place is not None and job.state == RUNNING:
                note_refusal(place, job)
        if seat.away_since is not None:
            seat.successor = ""
            done += _recover(now, job, seat, registry, rules, busy)
        elif node is not None and job.state == RUNNING and not node.held and refused(node, job):
            done += _recover(now, job, seat, registry, rules, busy)
        elif node is not None and (node.leaving or _is_wanted(job, seat, registry, busy)):
            done += _drain(job, seat, registry, busy)
        else:
            seat.successor = ""
        if seat.fetch and not seat.fetched:
            done += _other_source(now, job, seat, registry, rules)
    return done


def _rehome(job: Job, seat: Seat) -> list[str]:
    """Give a node with data that is at another site now a parent there, unless the job names its parent."""
    if not any(other.home[0] for other in job.seats) or (job.spec.get("topology") or {}).get("parents"):
        return []
    before, seat.parent = seat.parent, ""
    seat.parent = tree.cluster_of(job, seat.site, seat.tier, job.root)
    return [f"{seat.node} is at {seat.site} now: {seat.task} belongs to {seat.parent}"] if seat.parent != before else []


def _hand_over(now: float, job: Job, seat: Seat, registry: Registry, rules: Rules) -> list[str]:
    """Give the slot of a node that leaves or is gone for good to a peer of its site, with the newest Save if one can be fetched."""
    node = registry.get(seat.node)
    leaves = node is not None and node.online and node.leaving
    if leaves and finishes(now, job, seat, node, rules):
        return []
    taken_at = inherited_at(seat, seat.away_since, rules) if seat.away_since is not None else None
    if not leaves and (taken_at is None or now < taken_at):
        return []
    load: dict[str, int] = {}
    for other in job.seats:
        if other.role == seat.role and other.site == seat.site and other.node != seat.node and other.incarnation:
            load[other.node] = load.get(other.node, 0) + 1
    peers = eligible((peer for name in sorted(load) if (peer := registry.get(name)) is not None), task_of(job, seat), job, {})
    if not peers:
        return []
    target = min(peers, key=lambda peer: (load[peer.node], tree.connected(peer)))
    copies = holders(job, seat.task, registry, but=seat.node)
    source = seat.node if leaves else newest(copies)
    text = f"{seat.task} moves from {seat.node}, which {'leaves' if leaves else 'is gone'}, to its neighbour {target.node}, with its samples"
    job.roster[seat.slot] = target.node
    _place(seat, target, source if source != target.node else "")
    return [text]


def _is_wanted(job: Job, seat: Seat, registry: Registry, busy: Mapping[str, str]) -> bool:
    """Whether placement has found a better node that can still take the task."""
    node = registry.get(seat.wanted) if seat.wanted else None
    if node is None or node.node == seat.node or refusals(node, task_of(job, seat), job, busy):
        seat.wanted = ""
    return bool(seat.wanted)


def _target(job: Job, seat: Seat, registry: Registry, busy: Mapping[str, str], holder: str) -> Node | None:
    """New node of a task that must leave its node; None without one. holder: node with a copy of its Saves."""
    candidates = eligible((node for node in registry if node.node != seat.node), task_of(job, seat), job, busy)
    if wanted := [node for node in candidates if node.node == seat.wanted]:
        return wanted[0]
    return tree.successor(job, seat, candidates, holder) if seat.home[0] else best(candidates, _data_nodes(job), holder, seat.site)


def _data_nodes(job: Job) -> set[str]:
    return {seat.node for seat in job.seats if seat.slot >= 0}


def _recover(now: float, job: Job, seat: Seat, registry: Registry, rules: Rules, busy: Mapping[str, str]) -> list[str]:
    """Move a task whose node is gone or cannot run it."""
    way = recovery(job, seat, seat.away_since if seat.away_since is not None else now, registry, rules)
    if way.at is None or (seat.away_since is not None and now < way.at):
        return []
    target = _target(job, seat, registry, busy, way.source)
    if target is None:
        return []
    text = f"{seat.task} moves from {seat.node}, which {'is gone' if seat.away_since is not None else 'refuses it'}, to {target.node}"
    _place(seat, target, way.source if way.source != target.node else "")
    return [text + (f", from Save {way.label} on {way.source}" if way.source else ", from the beginning" if seat.ran else "")]


def _drain(job: Job, seat: Seat, registry: Registry, busy: Mapping[str, str]) -> list[str]:
    """Prepare a successor for a task whose node drains, and move the task when the successor's worker is ready."""
    why = f"{seat.wanted} is better placed" if seat.wanted else f"{seat.node} drains"
    successor = registry.get(seat.successor) if seat.successor else None
    if successor is None or not is_there(successor) or refused(successor, job):
        seat.successor = ""
        target = _target(job, seat, registry, busy, job.buddies.get(seat.task, ""))
        if target is None:
            return []
        if not seat.ran:
            text = f"{seat.task} is placed on {target.node}: {why}"
            _place(seat, target, "")
            return [text]
        seat.successor = target.node
        successor = target
        done = [f"{why}: {target.node} is prepared to take {seat.task}"]
    else:
        done = []
    worker = worker_of(job, successor)
    if worker is not None and worker.phase == READY and not misfit(job, worker) and not successor.held:
        done.append(f"{seat.task} moves from {seat.node} to {successor.node}: {why}")
        _place(seat, successor, seat.node)
    return done


def _other_source(now: float, job: Job, seat: Seat, registry: Registry, rules: Rules) -> list[str]:
    """Ask another node for the Save, if the one that was asked is gone."""
    source = registry.get(seat.fetch)
    if source is not None and (source.state != OFFLINE or now - source.since < rules.move_after_s):
        return []
    copies = holders(job, seat.task, registry, but=seat.fetch)
    if not copies and not seat.home[0] and not seat.heir:
        return []
    name = newest(copies)
    seat.fetch = name if name != seat.node else ""
    seat.last = ("", seat.last[1])  # a new instance: the host asks again
    how = f"is restored from {name}" if name else "begins anew"
    return [f"{seat.task} {how}: the node with its newest Save is gone"]


def _place(seat: Seat, node: Node, fetch: str) -> None:
    seat.node, seat.site, seat.tier = node.node, node.profile.site, node.profile.tier
    seat.incarnation, seat.successor, seat.wanted, seat.away_since, seat.gone_since = 0, "", "", None, None
    seat.fetch, seat.fetched = fetch, False


def take_over(job: Job, seat: Seat, node: Node, registry: Registry) -> None:
    """Give a task of a node that is gone for good to another node, with a copy of the newest Save if there is one."""
    copies = holders(job, seat.task, registry, but=seat.node)
    source = newest(copies)
    _place(seat, node, source if source != node.node else "")
