"""May this node take this task? One answer for admission, newcomers, recovery, drain, relocation, tree heads, dry run and status. Pure.

`refusals` names every reason against, each of a fixed kind with its numbers and one text for a person; () is a yes. Whether a node is
there at all (`absent`) is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from fog_common.errors import ConfigError
from fog_common.wire.api.states import OFFLINE, ONLINE, PLACED
from fog_common.wire.messages import Profile, WorkerState
from fog_coordinator.lifecycle.alike import misfit
from fog_coordinator.placement import planner
from fog_coordinator.placement.free import worker_bytes
from fog_coordinator.placement.places import described
from fog_coordinator.state.jobs import Job, Refuser, Seat
from fog_coordinator.state.nodes import Node, Registry
from fog_coordinator.state.rules import READY, REFUSED, Rules
from fog_learning.costs.demands import WORKER_BYTES
from fog_learning.costs.place import Place
from fog_learning.job.sections import JobFile, Placing, Where
from fog_learning.methods.base import Method

Kind = Literal["unseen", "offline", "leaving", "unheard", "busy", "constraint", "memory", "refused", "data"]
Bound = Literal["slot", "free", "tree"]


class Refusal(Struct, frozen=True):
    """One reason why a node does not take a task."""

    kind: Kind
    text: str
    """For a person, without the node's name: 'offline: its connection ended'."""
    need: int = 0
    """memory: bytes that the task needs …"""
    free: int = 0
    """… and bytes that are free."""
    job: str = ""
    """busy: the job that has the node."""


class TaskNeeds(Struct, frozen=True):
    """Requirements of a task on its node."""

    role: str
    bound: Bound
    need: int = 0
    """Bytes of memory; 0 = unknown, or decided elsewhere."""
    where: Where | None = None
    """free, tree: what the job's `placement` section says of the role; None: it has none."""
    task: str = ""
    """Its id, if it is placed already: its own need does not count twice."""


def task_of(job: Job, seat: Seat) -> TaskNeeds:
    """A placed task. Its memory is what placement counted with."""
    section = job.spec.get("placement") if seat.bound != "slot" else None
    where = msgspec.convert(section, Placing).of(seat.role) if section is not None else None
    return TaskNeeds(seat.role, seat.bound, job.needs.get(seat.role, 0), where, seat.task)


def where_of(file: JobFile, role: str) -> Where | None:
    """Conditions of the job file for the tasks of a role; None: no conditions."""
    return file.placement.of(role) if file.placement is not None else None


# -- the answer ----------------------------------------------------------------------------


def absent(node: Node | None) -> Refusal | None:
    """Why a node takes nothing at all now; None: it is online and does not leave."""
    if node is None:
        return Refusal("unseen", "never seen")
    if node.state == OFFLINE:
        return Refusal("offline", f"offline: {node.why}")
    if node.leaving:
        return Refusal("leaving", "draining")
    return None if node.state == ONLINE else Refusal("unheard", "not heard of yet")


def is_there(node: Node | None) -> bool:
    return absent(node) is None


def refusals(node: Node | None, task: TaskNeeds, job: Job, busy: Mapping[str, str]) -> tuple[Refusal, ...]:
    """Why the node cannot take the task of the job; () = it can. busy: node -> job that has it."""
    gone = absent(node)
    if node is None or gone is not None:
        return (gone,) if gone is not None else ()
    return tuple(reason for reason in _reasons(node, task, job, busy) if reason is not None)


def eligible(nodes: Iterable[Node], task: TaskNeeds, job: Job, busy: Mapping[str, str]) -> list[Node]:
    """Nodes without a refusal, in the order given."""
    return [node for node in nodes if not refusals(node, task, job, busy)]


def _reasons(node: Node, task: TaskNeeds, job: Job, busy: Mapping[str, str]) -> Iterator[Refusal | None]:
    if node.node in busy:
        yield Refusal("busy", f"busy with {busy[node.node]}", job=busy[node.node])
    if task.where is not None and not admits(task.where, node):
        yield Refusal("constraint", f"not {described(task.where)} (placement)")
    yield short(node, task, job)
    yield refused(node, job)


def admits(where: Where, node: Node) -> bool:
    """Whether the `placement` section allows the node for tasks that are not bound to a slot."""
    profile = node.profile
    return (
        (not where.tier or profile.tier in where.tier)
        and (not where.site or profile.site in where.site)
        and (not where.names or node.node in where.names)
        and all(profile.labels.get(key) == wanted for key, wanted in where.labels.items())
    )


def short(node: Node, task: TaskNeeds, job: Job) -> Refusal | None:
    """Too little free memory for the task and for other tasks of the job that are on their way there; unknown memory is taken for enough.

    A worker of the job that runs there has its interpreter, and the memory of its live tasks, already.
    """
    free = node.free_bytes
    if not task.need or free is None:
        return None
    coming = [
        job.needs.get(seat.role) or WORKER_BYTES
        for seat in job.seats
        if seat.task != task.task and (seat.successor == node.node or (seat.node == node.node and not seat.incarnation))
    ]
    runs = worker_of(job, node) is not None
    need = worker_bytes([*coming, task.need, *([WORKER_BYTES] if runs else [])]) - (WORKER_BYTES if runs else 0)
    return Refusal("memory", f"{need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free", need=need, free=free) if need > free else None


# -- what workers found --------------------------------------------------------------------


def worker_of(job: Job, node: Node | None) -> WorkerState | None:
    return node.workers.get(job.id) if node is not None else None


def refused(node: Node, job: Job) -> Refusal | None:
    """The job's worker there has found that it cannot take part as it is, or found so when it was asked last."""
    worker = worker_of(job, node)
    if worker is not None and worker.phase == REFUSED:
        return Refusal("refused", "; ".join(worker.problems) or "refused without a reason")
    if worker is not None and (why := misfit(job, worker)):
        return Refusal("data", why)
    before = job.refusers.get(node.node)
    if before is not None and not _changed(before, node, worker):
        return Refusal("refused", before.text)
    return None


def note_refusal(node: Node, job: Job) -> None:
    """Remember a refusal beyond the life of the worker that found it; forget it once a newer worker is ready."""
    worker, found = worker_of(job, node), refused(node, job)
    if worker is None:
        return
    if found is not None:
        job.refusers[node.node] = Refuser(worker.incarnation, node.nonce, _made_of(node.profile), found.text)
    elif worker.phase == READY:
        job.refusers.pop(node.node, None)


def _changed(before: Refuser, node: Node, worker: WorkerState | None) -> bool:
    """The node may have been mended: another connection, another profile, or a newer worker. Each is asked once."""
    newer = worker is not None and worker.incarnation > before.incarnation
    return newer or node.nonce != before.nonce or _made_of(node.profile) != before.profile


def _made_of(profile: Profile) -> str:
    """Parts of a profile that only a repair changes; measured figures are left out."""
    names = ("tier", "site", "cores", "memory_bytes", "arch", "python", "version", "torch", "datasets", "labels")
    return msgspec.json.encode({name: getattr(profile, name) for name in names}, order="sorted").decode()


# -- busy nodes ----------------------------------------------------------------------------


def occupied(jobs: Iterable[Job], rules: Rules, but: str = "") -> dict[str, str]:
    """Nodes that have as many workers as they may -> a job that has one there."""
    count: dict[str, int] = {}
    by: dict[str, str] = {}
    for job in jobs:
        if job.state in PLACED and job.id != but:
            for node in sorted(job.participants()):
                count[node] = count.get(node, 0) + 1
                by[node] = job.id
    return {node: by[node] for node in sorted(count) if count[node] >= rules.jobs_per_node}


# -- memory --------------------------------------------------------------------------------


def role_needs(file: JobFile, method: Method) -> dict[str, int]:
    """role -> bytes of its worker before anything is placed, of the way that needs least; a role that is not named here is unknown."""
    if file.resources.memory_mb is not None:
        return {role.name: file.resources.memory_mb * 1_000_000 for role in method.roles}
    if not planner.can_plan(file):
        return {}
    try:
        options = planner.ways(file, max(1, len(file.nodes.select.names)))
    except ConfigError:
        return {}
    return {role.name: min(option.memory[role.name] for option in options) for role in method.roles if all(role.name in o.memory for o in options)}


def slot_task(file: JobFile, method: Method) -> TaskNeeds:
    """The data task that needs most memory."""
    roles = [role.name for role in method.roles if role.bound == "slot"]
    needs = role_needs(file, method)
    return TaskNeeds(max(roles, key=lambda name: needs.get(name, 0), default=""), "slot", max((needs.get(name, 0) for name in roles), default=0))


def short_of_memory(task: TaskNeeds, job: Job, registry: Registry, names: Collection[str]) -> str:
    """Why none of these nodes has room for the task, with the numbers; '' if one has, or nothing is known."""
    found = [node for name in sorted(names) if (node := registry.get(name)) is not None]
    if not found or any(short(node, task, job) is None for node in found):
        return ""
    return planner.short_of_memory(task.role, task.need, [Place(node.node, node.facts) for node in found])
