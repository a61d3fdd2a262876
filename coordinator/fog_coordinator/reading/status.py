"""What a person reads of jobs. Pure; changes nothing."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from fog_common.errors import ConfigError
from fog_common.wire.api.jobs import Energy, Figure, JobStatus, JobSummary, RoundShown, SentBytes, TaskShown, WaitShown
from fog_common.wire.api.plans import StepBytes
from fog_common.wire.api.states import ENDED, OFFLINE, PLACED, PREPARING, QUEUED, RUNNING, WAITING
from fog_common.wire.messages import TaskState, WorkerState
from fog_coordinator.accounts import budgets
from fog_coordinator.core import Core
from fog_coordinator.lifecycle.alike import misfit
from fog_coordinator.lifecycle.preflight import Pending, preflight
from fog_coordinator.moves.moves import holders
from fog_coordinator.placement.eligible import worker_of
from fog_coordinator.reading import plans
from fog_coordinator.reading.headline import headline
from fog_coordinator.reading.nodes import ago
from fog_coordinator.state.history import ClosedRound
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node
from fog_coordinator.state.rules import READY
from fog_learning.job.sections import Budgets

MAX_ROUNDS = 2000
"""Rounds of the history in one reply; ask again with `after` for more."""


class Wait(Struct, frozen=True):
    """What something waits for. Times are the coordinator's; until is None when nothing bounds it."""

    what: str
    who: tuple[str, ...] = ()
    since: float = 0.0
    until: float | None = None
    minor: bool = False
    """A task waits for another one that waits itself: told with the others, but not in the one line."""

    def body(self, now: float) -> WaitShown:
        left = None if self.until is None else max(0.0, self.until - now)
        return WaitShown(
            what=self.what, who=self.who, since=self.since, until=self.until, since_s=max(0.0, now - self.since), until_s=left, minor=self.minor
        )


# -- jobs ----------------------------------------------------------------------------------


def summary(core: Core, now: float, job: Job) -> JobSummary:
    return JobSummary(
        job=job.id,
        name=job.name,
        method=job.method,
        state=shown_state(core, job),
        line=line(core, now, job),
        round=current_round(core, job),
        rounds=job.rounds,
        nodes=len(job.roster),
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        why=job.why,
        headline=headline(core.book[job.id]),
    )


def shown_state(core: Core, job: Job) -> str:
    """A job whose workers are just ending is shown as running: its figures are not complete."""
    return RUNNING if job.id in core.ending else job.state


def status(core: Core, now: float, job: Job, after: int = 0) -> JobStatus:
    entry, sent = core.book[job.id], job.sent()
    short = summary(core, now, job)
    return JobStatus(
        **msgspec.structs.asdict(short),
        now=now,
        view=job.view,
        user=job.user,
        wall_s=0.0 if job.started_at is None else max(0.0, (job.ended_at if job.ended_at is not None else now) - job.started_at),
        refused=job.refused,
        problems=(*job.problems, *_troubles(core, job)),
        waits=tuple(wait.body(now) for wait in waits(core, now, job)),
        watching=tuple(name for name in job.watching if (node := core.registry.get(name)) and node.online) if job.state in PLACED else (),
        tasks=tuple(_task(core, job, seat) for seat in job.seats),
        history=tuple(_round(item, short.headline) for item in entry.history.after(after)[:MAX_ROUNDS]),
        metrics=_metrics(core, job),
        bytes=SentBytes(up=sent.up, down=sent.down, d2d=sent.d2d, cast=sent.cast, ctl=sent.ctl, total=sent.payload, ideal=job.ideal_bytes()),
        energy_j=energy(job),
        step_bytes=_step_bytes(core, job),
        plan=plans.report(job, entry.history),
        budgets=tuple(use.body() for use in uses(core, job, now)),
        buddies=dict(job.buddies),
        digest=job.digest,
    )


def _step_bytes(core: Core, job: Job) -> StepBytes | None:
    try:
        file = core.book[job.id].file
    except ConfigError:
        return None
    return plans.step_bytes(job, file, [item.record for item in core.book[job.id].history.after(0)])


def current_round(core: Core, job: Job) -> int:
    """The round that is open, or the last one that was closed."""
    newest = core.book[job.id].history.newest
    state = _root_state(core, job)
    return newest if state is None or job.state != RUNNING else max(newest, state[0].round)


def line(core: Core, now: float, job: Job) -> str:
    """One sentence: where the job is and what it waits for."""
    if job.id in core.ending:
        return waits(core, now, job)[0].what
    if job.state in ENDED:
        history = core.book[job.id].history
        rounds = f"after {history.newest} of {job.rounds} rounds"
        return f"{job.state} {rounds}{f': {job.why}' if job.why else ''}"
    found = waits(core, now, job)
    if job.state in {WAITING, QUEUED}:
        return found[0].what
    texts = [_sentence(wait, now) for wait in found if not wait.minor]
    if job.state == RUNNING:
        head = f"round {current_round(core, job)}: "
        return head + ("; ".join(texts) if texts else "computing")
    return "; ".join(texts) or job.state


def _sentence(wait: Wait, now: float) -> str:
    if wait.until is None:
        return wait.what + ago(now, wait.since)
    return f"{wait.what} {max(0.0, wait.until - now):.0f} s at the latest"


def waits(core: Core, now: float, job: Job) -> list[Wait]:
    """All that the job waits for now, the most telling first."""
    if job.id in core.ending:
        who = core.ending.nodes(job.id)
        return [Wait(f"the result is here; {_listed(who)} finish", who, job.since, core.ending.until(job.id))]
    if job.state in ENDED:
        return []
    if job.state == WAITING:
        return [Wait(f"waiting for nodes: {job.why}", since=job.since)]
    if job.state == QUEUED:
        return [Wait(f"queued: {job.why}", since=job.since)]
    if job.state == PREPARING:
        pending, problems = preflight(job, core.registry)
        same: dict[str, list[Pending]] = {}
        for item in pending:
            same.setdefault(item.what, []).append(item)
        found = []
        for what, items in same.items():
            who, since = tuple(item.node for item in items), min(item.since for item in items)
            found.append(Wait(f"waiting for {_listed(who)}: {what}", who, since))
        if not pending:
            found.append(Wait("preflight done, training is about to begin" if not problems else "; ".join(problems), since=job.since))
        return found
    found = []
    root = _root_state(core, job)
    if job.stop and not (root is not None and root[0].finished):
        seat = job.seat(job.root)
        who = (seat.node,) if seat is not None else ()
        found.append(Wait(f"{job.stop}; waiting for the model from {_listed(who)}", who, job.since))
    if root is not None and root[0].finished:
        found.append(Wait(f"the result is on its way from {root[1].node}", (root[1].node,), root[1].heard_at))
    elif root is not None and root[0].waiting is not None:
        found.append(_root_wait(job, *root))
    found += [wait for seat in job.seats if (wait := _seat_wait(core, now, job, seat)) is not None]
    found += _disk_waits(core, job)
    return sorted(found, key=lambda wait: wait.minor)


def _disk_waits(core: Core, job: Job) -> list[Wait]:
    """Nodes that cannot save: what they have done since leaves when they can."""
    found = []
    for name in sorted(job.participants()):
        node = core.registry.get(name)
        worker = worker_of(job, node)
        if node is not None and node.online and worker is not None and worker.phase == READY and worker.waited_s is not None:
            found.append(Wait(f"{name}: {'; '.join(worker.problems)}, tries again in", (name,), *_span(node, worker)))
    return found


def _span(node: Node, worker: WorkerState) -> tuple[float, float | None]:
    """(since, until) of what a worker waits for itself, in the coordinator's time."""
    heard = node.reported_at
    return heard - (worker.waited_s or 0.0), None if worker.retry_s is None else heard + worker.retry_s


def _root_state(core: Core, job: Job) -> tuple[TaskState, Node] | None:
    """What the root says of itself, if it is live where it is placed."""
    seat = job.seat(job.root)
    node = core.registry.get(seat.node) if seat is not None and seat.incarnation else None
    worker = worker_of(job, node)
    if seat is None or node is None or worker is None or worker.incarnation != seat.incarnation:
        return None
    return next(((state, node) for state in worker.tasks if state.task == seat.task and state.since == seat.since), None)


def _root_wait(job: Job, state: TaskState, node: Node) -> Wait:
    """The task's own words, its task ids as nodes, its job time as coordinator time."""
    waiting = state.waiting
    assert waiting is not None
    places = {seat.task: seat.node for seat in job.seats}
    who = tuple(dict.fromkeys(places.get(task, task) for task in waiting.who))
    text = f"{waiting.have} of {waiting.need} {waiting.what}" if waiting.need else waiting.what
    if who:
        text += f", waiting for {_listed(who)}"
    if waiting.until is not None:
        text += ", closes in"  # the sentence goes on with the seconds
    worker = worker_of(job, node)
    offset = node.reported_at - (worker.age_s if worker is not None else 0.0) - state.now
    return Wait(text, who, waiting.since + offset, None if waiting.until is None else waiting.until + offset)


def _seat_wait(core: Core, now: float, job: Job, seat: Seat) -> Wait | None:
    """Why a task does not run, or that it is about to move."""
    node = core.registry.get(seat.node)
    rules = core.rules
    if seat.incarnation:
        if node is not None and node.leaving and seat.movable:
            text = f"{seat.successor} is prepared to take it" if seat.successor else "no other node can take it"
            return Wait(
                f"{seat.task} is to leave {seat.node}, which drains: {text}", (seat.successor or seat.node,), node.leaving_since or node.since
            )
        if node is not None and node.leaving:
            text = f"{seat.task} finishes its round on {seat.node}, which drains, and leaves in"
            return Wait(text, (seat.node,), node.leaving_since, node.leaving_since + rules.finish_s)
        if node is None or node.held:
            who = (seat.node,)
            if seat.gone_since is not None and node is not None:
                why = node.why or "its connection ended"
                return Wait(
                    f"{seat.node} is gone, {why}; the round goes on without {seat.task} in", who, seat.gone_since, seat.gone_since + rules.return_s
                )
            since = node.since if node is not None else job.since
            return Wait(f"{seat.task} is taken to run on {seat.node}, which was not heard of yet", who, since, since + rules.silent_s)
        worker = worker_of(job, node)
        if seat.gone_since is not None:
            text = f"{seat.task} waits for {seat.node}: {_worker_text(job, worker)}; the round goes on without it in"
            return Wait(text, (seat.node,), seat.gone_since, seat.gone_since + rules.return_s)
        return _own_wait(job, seat, node, worker)
    if node is None:
        return Wait(f"{seat.task} waits for {seat.node}: never seen", (seat.node,), job.since)
    if node.state == OFFLINE:
        text, until = f"{seat.task} waits for {seat.node}: offline, {node.why}", None
        if seat.movable:
            saved = any(job.saves.get(seat.task, {}).values())
            copies = holders(job, seat.task, core.registry, but=seat.node)
            if seat.ran and saved and not copies:
                text += "; its only Save is there"
            else:
                until = node.since + (rules.move_after_s if copies or not seat.ran else rules.orphan_after_s)
                if until > now:
                    text += "; it moves to another node in"
                else:
                    text, until = text + "; no other node is there to take it", None
        elif seat.heir:
            until = (seat.away_since if seat.away_since is not None else node.since) + rules.orphan_after_s
            if until > now:
                text += "; a neighbour takes its samples over in"
            else:
                text, until = text + "; no neighbour is there to take its samples over", None
        return Wait(text, (seat.node,), node.since, until)
    if node.leaving and not seat.movable:
        return Wait(f"{seat.task} waits for {seat.node}: draining", (seat.node,), node.leaving_since or node.since)
    worker = worker_of(job, node)
    if worker is None or node.held:
        return Wait(f"{seat.task} waits for {seat.node}: its worker is not started yet", (seat.node,), node.since)
    if worker.phase == READY and not misfit(job, worker):
        return Wait(f"{seat.task} is about to join on {seat.node}", (seat.node,), node.heard_at)
    since, until = _span(node, worker)
    again = ", starts again in" if until is not None else ""
    return Wait(f"{seat.task} waits for {seat.node}: {_worker_text(job, worker)}{again}", (seat.node,), since, until)


def _worker_text(job: Job, worker: WorkerState | None) -> str:
    if worker is None:
        return "its worker is not started yet"
    if why := misfit(job, worker):
        return why
    return f"worker {worker.phase}" + (f": {'; '.join(worker.problems)}" if worker.problems else "")


def _own_wait(job: Job, seat: Seat, node: Node, worker: WorkerState | None) -> Wait | None:
    """What a live task itself waits for: its state from another node, or what its machine says."""
    state = None
    if worker is not None and worker.incarnation == seat.incarnation:
        state = next((state for state in worker.tasks if state.task == seat.task and state.since == seat.since), None)
    if state is None and seat.fetch and not seat.fetched:
        return Wait(f"{seat.task} is restored on {node.node} from {seat.fetch}", (seat.fetch,), seat.live_at)
    if state is None or state.waiting is None or state.finished or seat.task == job.root:
        return None
    said = _root_wait(job, state, node)
    verb = "has" if state.waiting.need else "waits for"
    return Wait(f"{seat.task} on {node.node} {verb} {said.what}", said.who or (node.node,), said.since, said.until, minor=True)


def _troubles(core: Core, job: Job) -> list[str]:
    """Problems that workers report while they run (a full disk)."""
    if job.state in ENDED:
        return []
    found = []
    for name in sorted(job.participants()):
        worker = worker_of(job, core.registry.get(name))
        if worker is not None and worker.problems and worker.phase != "exited" and worker.waited_s is None:
            found += [f"{name}: {text}" for text in worker.problems if f"{name}: {text}" not in job.problems]
    return found


def notes(core: Core, job: Job) -> dict[str, str]:
    """What the tasks of a job say of how they work; '' = nothing."""
    return {seat.task: _task(core, job, seat).note for seat in job.seats}


def _task(core: Core, job: Job, seat: Seat) -> TaskShown:
    worker: WorkerState | None = None if job.state in ENDED else worker_of(job, core.registry.get(seat.node))
    state = next((state for state in worker.tasks if state.task == seat.task), None) if worker is not None else None
    return TaskShown(
        task=seat.task,
        role=seat.role,
        slot=seat.slot,
        parent=seat.parent,
        node=seat.node,
        site=seat.site,
        tier=seat.tier,
        live=seat.incarnation > 0 and job.state not in ENDED,
        incarnation=seat.incarnation,
        since=seat.since,
        round=state.round if state is not None else 0,
        labels=state.labels if state is not None else (),
        note=state.note if state is not None else "",
        phase=worker.phase if worker is not None else "",
        rss_bytes=worker.gauges.get("rss_bytes") if worker is not None else None,
    )


def _round(item: ClosedRound, figures: tuple[Figure, ...]) -> RoundShown:
    record = item.record
    return RoundShown(
        round=record.round,
        wall_s=record.closed_at,
        updates=record.updates,
        examples=record.examples,
        bytes=item.bytes,
        joules=item.joules,
        numbers={**dict.fromkeys((figure.name for figure in figures), None), **record.numbers},
    )


def _metrics(core: Core, job: Job) -> dict[str, float]:
    last: dict[str, float] = {}
    for item in core.book[job.id].history.after(0):
        last.update(item.record.numbers)
    return {**last, **job.numbers}


def uses(core: Core, job: Job, now: float) -> list[budgets.Use]:
    return budgets.uses(job, msgspec.convert(job.spec.get("budgets", {}), Budgets), core.book[job.id].tally, now)


def energy(job: Job) -> Energy:
    """Joules of the job's nodes while they had a worker of it. The label is that of the least certain part."""
    if not job.energy_j:
        return Energy()
    order = ("measured", "fitted", "modelled")
    named = [source for source in job.energy_j if source in order]
    source = max(named, key=order.index) if named else sorted(job.energy_j)[0]
    return Energy(value=sum(job.energy_j[name] for name in sorted(job.energy_j)), source=source)


def _listed(names: tuple[str, ...], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
