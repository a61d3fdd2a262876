"""Waits of a job as sentences. The decisions are data (moves.waits, lifecycle.preflight); this module words them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from fog_common.wire.api.states import ENDED, PREPARING, QUEUED, WAITING
from fog_common.wire.messages import TaskState, WorkerState
from fog_coordinator.core import Core
from fog_coordinator.lifecycle.alike import misfit
from fog_coordinator.lifecycle.preflight import Pending, preflight
from fog_coordinator.moves.waits import Wait, waits_of
from fog_coordinator.placement.eligible import occupied, worker_of
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node
from fog_coordinator.state.rules import READY
from fog_coordinator.state.troubles import listed


class Said(Struct, frozen=True):
    """One wait in words. Seconds of the coordinator's clock; with `until` the sentence goes on with the time that is left."""

    what: str
    who: tuple[str, ...] = ()
    since: float = 0.0
    until: float | None = None
    """None: nothing bounds it."""
    minor: bool = False
    """A task waits for another one that waits itself: told with the others, but not in the one line."""


def waits(core: Core, now: float, job: Job) -> list[Said]:
    """All that the job waits for now, the most telling first."""
    if job.id in core.ending:
        who = core.ending.nodes(job.id)
        return [Said(f"the result is here; {listed(who)} finish", who, job.since, core.ending.until(job.id))]
    if job.state in ENDED:
        return []
    if job.state == WAITING:
        return [Said(f"waiting for nodes: {job.why}", since=job.since)]
    if job.state == QUEUED:
        return [Said(f"queued: {job.why}", since=job.since)]
    if job.state == PREPARING:
        return [*_of_unsent(core, job), *_of_preflight(core, job)]
    found = list(_of_unsent(core, job))
    root = root_state(core, job)
    if job.stop and not (root is not None and root[0].finished):
        seat = job.seat(job.root)
        who = (seat.node,) if seat is not None else ()
        found.append(Said(f"{job.stop}; waiting for the model from {listed(who)}", who, job.since))
    if root is not None and root[0].finished:
        found.append(Said(f"the result is on its way from {root[1].node}", (root[1].node,), root[1].heard_at))
    elif root is not None and root[0].waiting is not None:
        found.append(_machine_wait(job, *root))
    found += _of_tasks(core, now, job)
    found += _of_disks(core, job)
    return sorted(found, key=lambda said: said.minor)


def _of_preflight(core: Core, job: Job) -> list[Said]:
    pending, problems = preflight(job, core.registry)
    same: dict[str, list[Pending]] = {}
    for item in pending:
        same.setdefault(item.what, []).append(item)
    found = []
    for what, items in same.items():
        who, since = tuple(item.node for item in items), min(item.since for item in items)
        found.append(Said(f"waiting for {listed(who)}: {what}", who, since))
    if not pending:
        found.append(Said("preflight done, training is about to begin" if not problems else "; ".join(problems), since=job.since))
    return found


def _of_tasks(core: Core, now: float, job: Job) -> Iterator[Said]:
    """In the order of the table: what the coordinator waits for, else what a live task says itself."""
    decided = {wait.task: wait for wait in waits_of(now, job, core.registry, core.rules, occupied(core.book.jobs, core.rules, but=job.id))}
    for seat in job.seats:
        node = core.registry.get(seat.node)
        wait = decided.get(seat.task)
        if wait is not None:
            yield _worded(job, seat, node, wait)
        elif node is not None and (own := _own_wait(job, seat, node)) is not None:
            yield own


def _worded(job: Job, seat: Seat, node: Node | None, wait: Wait) -> Said:
    """The sentence of each kind of wait."""
    task, name = wait.task, wait.node
    why = node.why if node is not None else ""
    against = f": {'; '.join(wait.reasons)}" if wait.reasons else ""
    taker = "no other node is there to take it" + against if seat.movable else "no neighbour is there to take its samples over"
    worker = worker_of(job, node)
    who, what = wait.other or name, ""
    match wait.kind:
        case "successor":
            what = f"{task} is to leave {name}, which drains: {wait.other} is prepared to take it"
        case "no successor":
            what = f"{task} is to leave {name}, which drains: no other node can take it{against}"
        case "round end":
            what = f"{task} finishes its round on {name}, which drains, and leaves in"
        case "node back":
            what = f"{name} is gone, {why or 'its connection ended'}; the round goes on without {task} in"
        case "word":
            what = f"{task} is taken to run on {name}, which was not heard of yet"
        case "worker back":
            what = f"{task} waits for {name}: {_worker_text(job, worker)}; the round goes on without it in"
        case "first sight":
            what = f"{task} waits for {name}: never seen"
        case "only save":
            what = f"{task} waits for {name}: offline, {why}; its only Save is there"
        case "recovery":
            what = f"{task} waits for {name}: offline, {why}; it moves to another node in"
        case "heir":
            what = f"{task} waits for {name}: offline, {why}; a neighbour takes its samples over in"
        case "node":
            what = f"{task} waits for {name}: offline, {why}"
        case "no taker":
            what = f"{task} waits for {name}: offline, {why}; {taker}"
        case "drain":
            what = f"{task} waits for {name}: draining"
        case "start":
            what = f"{task} waits for {name}: its worker is not started yet"
        case "next view":
            what = f"{task} is about to join on {name}"
        case "worker":
            what = f"{task} waits for {name}: {_worker_text(job, worker)}{', starts again in' if wait.until is not None else ''}"
    return Said(what, (who,), wait.since, wait.until)


def _worker_text(job: Job, worker: WorkerState | None) -> str:
    if worker is None:
        return "its worker is not started yet"
    if why := misfit(job, worker):
        return why
    return f"worker {worker.phase}" + (f": {'; '.join(worker.problems)}" if worker.problems else "")


# -- what tasks and workers say themselves ---------------------------------------------------


def root_state(core: Core, job: Job) -> tuple[TaskState, Node] | None:
    """State of the root and its node, if the root is live where it is placed."""
    seat = job.seat(job.root)
    node = core.registry.get(seat.node) if seat is not None and seat.incarnation else None
    state = _state_of(job, seat, node) if seat is not None and node is not None else None
    return (state, node) if state is not None and node is not None else None


def _state_of(job: Job, seat: Seat, node: Node) -> TaskState | None:
    """Last reported state of the live instance of a task."""
    worker = worker_of(job, node)
    if worker is None or worker.incarnation != seat.incarnation:
        return None
    return next((state for state in worker.tasks if state.task == seat.task and state.since == seat.since), None)


def _machine_wait(job: Job, state: TaskState, node: Node) -> Said:
    """The task's own words, its task ids as nodes, its job time as coordinator time."""
    waiting = state.waiting
    assert waiting is not None
    places = {seat.task: seat.node for seat in job.seats}
    who = tuple(dict.fromkeys(places.get(task, task) for task in waiting.who))
    text = f"{waiting.have} of {waiting.need} {waiting.what}" if waiting.need else waiting.what
    if who:
        text += f", waiting for {listed(who)}"
    if waiting.until is not None:
        text += ", closes in"
    worker = worker_of(job, node)
    offset = node.reported_at - (worker.age_s if worker is not None else 0.0) - state.now
    return Said(text, who, waiting.since + offset, None if waiting.until is None else waiting.until + offset)


def _own_wait(job: Job, seat: Seat, node: Node) -> Said | None:
    """Wait of a live task: for its state from another node, or as its machine reports."""
    if not seat.incarnation:
        return None
    state = _state_of(job, seat, node)
    if state is None and seat.fetch and not seat.fetched:
        return Said(f"{seat.task} is restored on {node.node} from {seat.fetch}", (seat.fetch,), seat.live_at)
    if state is None or state.waiting is None or state.finished or seat.task == job.root:
        return None
    said = _machine_wait(job, state, node)
    verb = "has" if state.waiting.need else "waits for"
    return Said(f"{seat.task} on {node.node} {verb} {said.what}", said.who or (node.node,), said.since, said.until, minor=True)


def _of_unsent(core: Core, job: Job) -> Iterator[Said]:
    """Nodes whose table is larger than a message may be: one sentence per text."""
    same: dict[str, list[str]] = {}
    for name in sorted(job.participants()):
        if (node := core.registry.get(name)) is not None and node.unsent:
            same.setdefault(node.unsent, []).append(name)
    for why, names in same.items():
        yield Said(f"{listed(tuple(names))} cannot be told what to run: {why}", tuple(names), job.since)


def _of_disks(core: Core, job: Job) -> Iterator[Said]:
    """Nodes that cannot save: what their tasks have done since leaves when they can."""
    for name in sorted(job.participants()):
        node = core.registry.get(name)
        worker = worker_of(job, node)
        if node is not None and node.online and worker is not None and worker.phase == READY and worker.waited_s is not None:
            since, until = node.reported_at - worker.waited_s, None if worker.retry_s is None else node.reported_at + worker.retry_s
            yield Said(f"{name}: {'; '.join(worker.problems)}, tries again in", (name,), since, until)
