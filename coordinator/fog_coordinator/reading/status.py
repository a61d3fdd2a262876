"""What a person reads of jobs and nodes: the bodies of fog_coordinator.api. Pure; changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from fog_common.errors import ConfigError
from fog_common.wire.messages import WorkerState
from fog_coordinator.accounts import budgets
from fog_coordinator.core import Core
from fog_coordinator.placement.eligible import worker_of
from fog_coordinator.reading import plans
from fog_coordinator.reading.waits import Said, root_state, waits
from fog_coordinator.state.history import ClosedRound
from fog_coordinator.state.jobs import ENDED, PLACED, QUEUED, RUNNING, WAITING, Job, Seat
from fog_coordinator.state.nodes import OFFLINE, Node
from fog_coordinator.state.troubles import merged
from fog_learning.job.sections import Budgets

MAX_ROUNDS = 2000
"""Rounds of the history in one reply; ask again with `after` for more."""


# -- jobs ----------------------------------------------------------------------------------


def summary(core: Core, now: float, job: Job) -> dict[str, Any]:
    return {
        "job": job.id,
        "name": job.name,
        "method": job.method,
        "state": shown_state(core, job),
        "line": line(core, now, job),
        "round": current_round(core, job),
        "rounds": job.rounds,
        "nodes": len(job.roster),
        "submitted_at": job.submitted_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "why": job.why,
    }


def shown_state(core: Core, job: Job) -> str:
    """A job whose workers are just ending is shown as running: its figures are not complete."""
    return RUNNING if job.id in core.ending else job.state


def status(core: Core, now: float, job: Job, after: int = 0) -> dict[str, Any]:
    sent = job.sent()
    return {
        **summary(core, now, job),
        "now": now,
        "view": job.view,
        "user": job.user,
        "wall_s": 0.0 if job.started_at is None else max(0.0, (job.ended_at if job.ended_at is not None else now) - job.started_at),
        "refused": job.refused,
        "problems": [*job.problems, *_troubles(core, job)],
        "waits": [_wait(said, now) for said in waits(core, now, job)],
        "watching": [name for name in job.watching if (node := core.registry.get(name)) and node.online] if job.state in PLACED else [],
        "tasks": [_task(core, job, seat) for seat in job.seats],
        "history": [_round(job, item) for item in core.book[job.id].history.after(after)[:MAX_ROUNDS]],
        "metrics": _metrics(core, job),
        "bytes": {
            "up": sent.up,
            "down": sent.down,
            "d2d": sent.d2d,
            "cast": sent.cast,
            "ctl": sent.ctl,
            "total": sent.payload,
            "ideal": job.ideal_bytes(),
        },
        "energy_j": energy(job),
        "step_bytes": _step_bytes(core, job),
        "plan": plans.report(job, core.book[job.id].history),
        "budgets": [use.body() for use in uses(core, job, now)],
        "buddies": dict(job.buddies),
        "digest": job.digest,
    }


def _step_bytes(core: Core, job: Job) -> dict[str, Any] | None:
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
        return wait.what + _ago(now, wait.since)
    return f"{wait.what} {max(0.0, wait.until - now):.0f} s at the latest"


def _wait(said: Said, now: float) -> dict[str, Any]:
    left = None if said.until is None else max(0.0, said.until - now)
    return {
        "what": said.what,
        "who": list(said.who),
        "since": said.since,
        "until": said.until,
        "since_s": max(0.0, now - said.since),
        "until_s": left,
        "minor": said.minor,
    }


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
    """What the tasks of a job say of how they work; '' = nothing."""
    return {seat.task: str(_task(core, job, seat)["note"]) for seat in job.seats}


def _task(core: Core, job: Job, seat: Seat) -> dict[str, Any]:
    worker: WorkerState | None = None if job.state in ENDED else worker_of(job, core.registry.get(seat.node))
    state = next((state for state in worker.tasks if state.task == seat.task), None) if worker is not None else None
    return {
        "task": seat.task,
        "role": seat.role,
        "slot": seat.slot,
        "parent": seat.parent,
        "node": seat.node,
        "site": seat.site,
        "tier": seat.tier,
        "live": seat.incarnation > 0 and job.state not in ENDED,
        "incarnation": seat.incarnation,
        "since": seat.since,
        "round": state.round if state is not None else 0,
        "labels": list(state.labels) if state is not None else [],
        "note": state.note if state is not None else "",
        "phase": worker.phase if worker is not None else "",
        "rss_bytes": worker.gauges.get("rss_bytes") if worker is not None else None,
    }


def _round(job: Job, item: ClosedRound) -> dict[str, Any]:
    record = item.record
    return {
        "accuracy": None,
        "loss": None,
        **record.numbers,
        "round": record.round,
        "wall_s": record.closed_at,
        "updates": record.updates,
        "examples": record.examples,
        "bytes": item.bytes,
        "joules": item.joules,
    }


def _metrics(core: Core, job: Job) -> dict[str, float]:
    last: dict[str, float] = {}
    for item in core.book[job.id].history.after(0):
        last.update(item.record.numbers)
    return {**last, **job.numbers}


def uses(core: Core, job: Job, now: float) -> list[budgets.Use]:
    return budgets.uses(job, msgspec.convert(job.spec.get("budgets", {}), Budgets), core.book[job.id].tally, now)


def energy(job: Job) -> dict[str, Any]:
    """Joules of the job's nodes while they had a worker of it. The label is that of the least certain part."""
    if not job.energy_j:
        return {"value": None, "source": ""}
    order = ("measured", "fitted", "modelled")
    named = [source for source in job.energy_j if source in order]
    source = max(named, key=order.index) if named else sorted(job.energy_j)[0]
    return {"value": sum(job.energy_j[name] for name in sorted(job.energy_j)), "source": source}


# -- nodes ---------------------------------------------------------------------------------


def node_summary(core: Core, now: float, node: Node) -> dict[str, Any]:
    profile = node.profile
    return {
        "node": node.node,
        "state": node.state,
        "since": node.since,
        "tier": profile.tier,
        "site": profile.site,
        "draining": node.leaving,
        "jobs": [job.id for job in core.book.jobs if job.state not in ENDED and node.node in job.participants()],
        "cores": profile.cores,
        "memory_bytes": profile.memory_bytes,
        "memory_free_bytes": profile.memory_free_bytes,
        "torch": profile.torch,
        "datasets": list(profile.datasets),
        "version": profile.version,
        "note": _note(core, now, node),
    }


def _note(core: Core, now: float, node: Node) -> str:
    if node.state == OFFLINE:
        return f"offline{_ago(now, node.since)}: {node.why}"
    if node.leaving:
        moving, finishing = tasks_on(core, node.node), _finishing_on(core, node.node)
        left = [f"{', '.join(tasks)} to {what}" for tasks, what in ((moving, "move"), (finishing, "finish the round")) if tasks]
        return f"draining: {'; '.join(left)}" if left else "drained: nothing of any job runs here"
    return ""


def tasks_on(core: Core, name: str) -> list[str]:
    """'server of digits': movable tasks that are placed there."""
    return _tasks(core, lambda seat: seat.movable and (seat.node == name or (seat.fetch == name and not seat.fetched)))


def _finishing_on(core: Core, name: str) -> list[str]:
    """Tasks with data that are still live there."""
    return _tasks(core, lambda seat: not seat.movable and seat.node == name and seat.incarnation > 0)


def _tasks(core: Core, wanted: Callable[[Seat], bool]) -> list[str]:
    return [f"{seat.task} of {job.id}" for job in core.book.jobs if job.state not in ENDED for seat in job.seats if wanted(seat)]


def _ago(now: float, since: float) -> str:
    """' for 12 s', for a person; '' for what has only begun."""
    seconds = max(0.0, now - since)
    if seconds < 1:
        return ""
    if seconds < 120:
        return f" for {seconds:.0f} s"
    return f" for {seconds / 60:.0f} min" if seconds < 7200 else f" for {seconds / 3600:.1f} h"
