"""Nodes that join late, and the slots that they may take. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from fog_common.wire.api.states import OFFLINE, PLACED
from fog_coordinator.moves.moves import take_over
from fog_coordinator.placement import simple, tree
from fog_coordinator.placement.eligible import eligible, slot_task
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Node, Registry
from fog_coordinator.state.rules import Rules
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import Method


def free_slot(job: Job, file: JobFile, registry: Registry, rules: Rules, now: float) -> int | None:
    """A slot whose node never came or is gone for long; None without one. A slot whose node owns its data stays, once its task has run."""
    if file.nodes.select.names:
        return None
    for slot, name in enumerate(job.roster):
        node = registry.get(name)
        gone = node is None or (node.state == OFFLINE and now - node.since >= rules.orphan_after_s)
        if gone and not (file.data.local and any(seat.ran for seat in job.seats if seat.slot == slot)):
            return slot
    return None


def vacant(job: Job, file: JobFile, registry: Registry, rules: Rules, now: float) -> bool:
    """Whether a placed job has a free slot."""
    return job.state in PLACED and free_slot(job, file, registry, rules, now) is not None


def newcomers(job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> list[Node]:
    """Eligible nodes without a slot of the job. taken: node -> job that has it."""
    others = (node for node in simple.matching(file.nodes, registry) if node.node not in job.roster)
    return eligible(others, slot_task(file, method), job, taken)


def join(now: float, job: Job, file: JobFile, method: Method, newcomer: Node, registry: Registry, rules: Rules) -> str:
    """Give a node a free slot, or a new one if nodes own their data. Returns a line for the log, '' without a slot; the caller raises the view."""
    slot = free_slot(job, file, registry, rules, now)
    if slot is not None:
        ran = any(seat.ran for seat in job.seats if seat.slot == slot)
        text = f"{newcomer.node} takes slot {slot} of {job.roster[slot]}, which {'is gone for good' if ran else 'never came'}"
        job.roster[slot] = newcomer.node
    elif file.data.local and file.nodes.count is None and not file.nodes.select.names:
        slot = len(job.roster)
        text = f"{newcomer.node} joins with its own data, slot {slot}"
        job.roster.append(newcomer.node)
        job.seats += [simple.data_seat(role.name, slot, newcomer.node, newcomer, role.stateful, "") for role in method.roles if role.bound == "slot"]
        job.seats.sort(key=lambda seat: (seat.slot, seat.role))
    else:
        return ""
    job.watching = [name for name in job.watching if name != newcomer.node]
    above = file.topology.parents.get(newcomer.node, "")
    head = next((seat.task for seat in job.seats if seat.home[0] and seat.node == above), "")
    for seat in [seat for seat in job.seats if seat.slot == slot]:
        take_over(job, seat, newcomer, registry)
        if seat.task != job.root:
            seat.parent = head or tree.cluster_of(job, newcomer.profile.site, newcomer.profile.tier, job.root)
    return text
