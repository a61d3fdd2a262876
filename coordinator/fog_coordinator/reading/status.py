"""Status of jobs for a person. Pure; changes nothing."""

from __future__ import annotations

import msgspec

from fog_common.errors import ConfigError
from fog_common.wire.api.jobs import Energy, Figure, JobStatus, JobSummary, RoundShown, SentBytes, TaskShown, WaitShown
from fog_common.wire.api.plans import StepBytes
from fog_common.wire.api.states import ENDED, PLACED, QUEUED, RUNNING, WAITING
from fog_common.wire.messages import WorkerState
from fog_coordinator.accounts import budgets
from fog_coordinator.core import Core
from fog_coordinator.placement.eligible import worker_of
from fog_coordinator.reading import plans
from fog_coordinator.reading.headline import figures
from fog_coordinator.reading.nodes import ago
from fog_coordinator.reading.waits import Said, root_state, waits
from fog_coordinator.state.history import ClosedRound
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.troubles import merged
from fog_learning.job.sections import Budgets

MAX_ROUNDS = 2000
"""Rounds of the history in one reply; ask again with `after` for more."""


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
        headline=figures(core.book[job.id]),
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
        waits=tuple(_wait(said, now) for said in waits(core, now, job)),
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
    state = root_state(core, job)
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


def _sentence(wait: Said, now: float) -> str:
    if wait.until is None:
        return wait.what + ago(now, wait.since)
    return f"{wait.what} {max(0.0, wait.until - now):.0f} s at the latest"


def _wait(said: Said, now: float) -> WaitShown:
    return WaitShown(
        what=said.what,
        who=said.who,
        since=said.since,
        until=said.until,
        since_s=max(0.0, now - said.since),
        until_s=None if said.until is None else max(0.0, said.until - now),
        minor=said.minor,
    )


def _troubles(core: Core, job: Job) -> list[str]:
    """Problems that workers report while they run (a full disk), the same one of several nodes once."""
    if job.state in ENDED:
        return []
    found: list[tuple[str, str]] = []
    for name in sorted(job.participants()):
        worker = worker_of(job, core.registry.get(name))
        if worker is not None and worker.problems and worker.phase != "exited" and worker.waited_s is None:
            found += [(name, text) for text in worker.problems if f"{name}: {text}" not in job.problems]
    return merged(found)


def notes(core: Core, job: Job) -> dict[str, str]:
    """Notes of a job's tasks on how they work; '' = no notes."""
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
