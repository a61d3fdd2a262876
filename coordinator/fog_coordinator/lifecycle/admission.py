"""Admission of jobs: slots, queue, places of all tasks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from fog_common.wire.api.states import PREPARING, QUEUED, WAITING
from fog_coordinator.placement import choice, planner, simple, tree
from fog_coordinator.placement.eligible import TaskNeeds, eligible, occupied, refusals, role_needs, short, short_of_memory, slot_task, where_of
from fog_coordinator.placement.free import FreeTask, free_tasks, worker_bytes
from fog_coordinator.placement.places import most_alike
from fog_coordinator.state.book import Book
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node, Registry
from fog_coordinator.state.rules import Rules
from fog_coordinator.state.troubles import merged
from fog_learning.costs.demands import WORKER_BYTES
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import Method


def admit(now: float, book: Book, registry: Registry, rules: Rules) -> Iterator[tuple[Job, str]]:
    """Start the jobs that can start, in the order of submission; a waiting job keeps its claim on the nodes that it needs.

    Yields each job whose state or reason has changed, with a line for its log.
    """
    taken = occupied(book.jobs, rules)
    for entry in sorted((entry for entry in book if entry.job.state in {WAITING, QUEUED}), key=lambda entry: entry.job.order):
        job, file, method = entry.job, entry.file, entry.method
        state, why = job.state, job.why
        if job.roster or chosen_slots(job, file, method, registry, taken):
            job.state, job.why = place(job, file, method, registry, taken)
        for node in [*job.roster, *(seat.node for seat in job.seats)]:
            taken.setdefault(node, job.id)
        if (job.state, job.why) != (state, why):
            job.since = now if job.state != state else job.since
            yield job, placed(job) if job.state == PREPARING else f"{job.state.replace('_', ' ')}: {job.why}"


def chosen_slots(job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> bool:
    """Give the job its slots; False: `job.why` names the lack. A method without data tasks needs none."""
    job.roster, job.why = roster(job, file, method, registry, taken)
    return bool(job.roster) or not job.why


def roster(job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> tuple[list[str], str]:
    """(nodes of the slots, reason without them), from nodes that may take a slot and nodes that the job names. ([], '') without slot roles."""
    if not any(role.bound == "slot" for role in method.roles):
        return [], ""
    matching, task = simple.matching(file.nodes, registry), slot_task(file, method)
    against = {node.node: refusals(node, task, job, {}) for node in matching}
    nodes, why = simple.roster(file.nodes, [node for node in matching if file.nodes.select.names or not against[node.node]], taken)
    if nodes:
        return nodes, why
    full = [name for name, reasons in against.items() if reasons and all(reason.kind == "memory" for reason in reasons)]
    return nodes, short_of_memory(task, job, registry, full) or why


def placed(job: Job) -> str:
    """'preparing: server on cloud-1; data on pi-1, pi-2'."""
    cloud = [f"{seat.task} on {seat.node}" for seat in job.seats if seat.movable]
    cut = [job.plan.title.split(",")[0]] if job.plan is not None and job.settled else []
    data = [f"data on {', '.join(job.roster)}"] if job.roster else []
    return "preparing: " + "; ".join([*cut, *cloud, *data])


def place(job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> tuple[str, str]:
    """Give all tasks seats if their nodes are free; returns (the job's new state, its reason to wait). taken: node -> job that has it."""
    known = {node.node: node for node in registry}
    tasks, needs = free_tasks(file, method), role_needs(file, method)
    named = tree.named_root(file.topology, known)
    layers = [role for role in method.roles if role.bound == "tree"]
    if why := _unfit_root(job, file, method, known, taken, named):
        return WAITING, why
    open_to, wanted = _open(job, file, method, tasks, registry, taken, named)
    blocked = [*(node for node in job.roster if node in taken), *wanted]
    if blocked:
        return QUEUED, _busy(blocked, taken)
    last_resort = next((known[name] for name in (named, *job.roster) if name in known), None)
    if (tasks or layers) and last_resort is None and not all(open_to.values()):
        return WAITING, f"no node is online that could run {tasks[0].role.name if tasks else layers[0].name}"
    chosen = choice.choose(file, method, tasks, job.roster, known, open_to, needs, last_resort)
    if chosen.why:
        return QUEUED, chosen.why
    slot = slot_task(file, method)
    full = [name for name in job.roster if name in known and short(known[name], slot, job) is not None]
    if lack := short_of_memory(slot, job, registry, full):
        return QUEUED, lack
    seats = simple.seats(method, tasks, job.roster, known, chosen.nodes)
    if layers:
        root = next((seat for seat in seats if seat.role == method.root), None)
        need = worker_bytes(needs[role.name] for role in layers if role.name in needs)
        heads = TaskNeeds(layers[0].name, "tree", need, where_of(file, layers[0].name))
        state, why, branches = _branches(job, file, registry, taken, heads, root.node if root is not None else "", held(seats, needs))
        if why:
            return state, why
        seats = tree.grow(seats, layers, branches, known, root.task if root is not None else method.root)
    job.plan, job.runner_up = chosen.plan, chosen.runner_up
    job.settled = dict(chosen.plan.settings) if chosen.plan is not None and planner.is_automatic(file) else {}
    job.needs = {**needs, **(chosen.plan.memory if chosen.plan is not None else {})}
    if file.privacy.share_samples and not file.data.local:  # every node can read every slot's part of the data set
        heritable = {role.name for role in method.roles if role.heritable}
        for seat in seats:
            seat.heir = seat.role in heritable
    job.seats = seats
    return PREPARING, ""


def _unfit_root(job: Job, file: JobFile, method: Method, known: Mapping[str, Node], taken: Mapping[str, str], named: str) -> str:
    """Why the node that the user wants for the root cannot take it; '' if it can, is only busy, or none is named. Its memory: see choice."""
    task = TaskNeeds(method.root, "free", where=where_of(file, method.root))
    reasons = refusals(known[named], task, job, taken) if named else ()
    why = merged((named, reason.text) for reason in reasons if reason.kind != "busy")
    return f"topology.parents: {'; '.join(why)}" if why else ""


def _open(
    job: Job, file: JobFile, method: Method, tasks: Sequence[FreeTask], registry: Registry, taken: Mapping[str, str], named: str
) -> tuple[dict[str, list[Node]], list[str]]:
    """(task -> nodes that may take it now, busy nodes that are worth waiting for). named: the node that the job names for the root; '' for any."""
    open_to: dict[str, list[Node]] = {}
    wanted: list[str] = []
    for task in tasks:
        asked = TaskNeeds(task.role.name, "free", where=where_of(file, task.role.name))  # choice checks the memory, which depends on the cut
        fit = eligible((node for node in registry if task.role.name != method.root or named in ("", node.node)), asked, job, {})
        open_to[task.task] = [node for node in fit if node.node not in taken]
        if file.placement is None:
            best, now = simple.best(fit, job.roster), simple.best(open_to[task.task], job.roster)
            if best is not None and best.profile.tier == "cloud" and (now is None or now.profile.tier != "cloud"):
                wanted.append(best.node)  # a better node, only busy
    return open_to, wanted


def _branches(
    job: Job, file: JobFile, registry: Registry, taken: Mapping[str, str], task: TaskNeeds, root: str, others: Mapping[str, Sequence[int]]
) -> tuple[str, str, tree.Tree]:
    """(state, reason to wait or '', the tree). task: needs of a head. others: node -> bytes of each task of the job there."""
    known = {node.node: node for node in registry}
    asked = {name: replace(task, need=worker_bytes([*others.get(name, ()), task.need]) if task.need else 0) for name in known}
    against = {name: refusals(node, asked[name], job, taken) for name, node in known.items()}
    fit = [name for name, reasons in against.items() if not reasons]
    limits = {name: most for name in fit if (most := most_alike(known[name], asked[name].need, task.need)) is not None}
    branches = tree.plan(file.topology, job.roster, known, fit, root, limits)
    if busy := [head.node for head in branches.heads if head.node in taken]:
        return QUEUED, _busy(busy, taken), branches
    if file.topology.parents:
        unfit = {head.node: against.get(head.node) or refusals(known.get(head.node), task, job, taken) for head in branches.heads}
        why = merged((name, reason.text) for name, reasons in unfit.items() for reason in reasons)
        return (WAITING, f"topology.parents: {'; '.join(why)}", branches) if why else (PREPARING, "", branches)
    if not branches.lacking:
        return PREPARING, "", branches
    tier = branches.lacking.on
    asked_for = [name for name, node in known.items() if name != root and (name in job.roster if tier == tree.MEMBER else node.profile.tier == tier)]
    unfit = {name: against[name] for name in asked_for}
    if busy := [name for name, reasons in unfit.items() if reasons and all(reason.kind == "busy" for reason in reasons)]:
        return QUEUED, _busy(busy, taken), branches
    if not file.nodes.select.names:
        job.roster = []  # nodes that join may make the layer possible
    why = merged((name, reason.text) for name, reasons in unfit.items() for reason in reasons)
    return WAITING, f"topology.{branches.lacking.text}{' (' + '; '.join(why) + ')' if why else ''}", branches


def held(seats: Sequence[Seat], needs: Mapping[str, int]) -> dict[str, list[int]]:
    """Node -> bytes of a worker for each task there. needs: role -> bytes; a role that is not named needs an interpreter at least."""
    found: dict[str, list[int]] = {}
    for seat in seats:
        found.setdefault(seat.node, []).append(needs.get(seat.role) or WORKER_BYTES)
    return found


def _busy(nodes: Sequence[str], taken: Mapping[str, str]) -> str:
    return f"{', '.join(dict.fromkeys(nodes))} busy with {', '.join(sorted({taken[node] for node in nodes}))}"
