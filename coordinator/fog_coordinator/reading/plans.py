"""Plans as a person reads them: the dry run of a job, and what was predicted beside what was measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from fog_common.errors import ConfigError, Refused
from fog_common.runtime.machine import RoundRecord
from fog_common.wire.api.plans import DryRun, Measured, PlannedTask, PlanPart, PlanReport, PlanShown, StepBytes
from fog_common.wire.api.states import ENDED, FINISHED
from fog_coordinator.core import Core
from fog_coordinator.lifecycle import admission
from fog_coordinator.placement import choice, planner
from fog_coordinator.placement.eligible import TaskNeeds, eligible, occupied, where_of
from fog_coordinator.placement.free import free_tasks
from fog_coordinator.placement.planner import Plan
from fog_coordinator.state.history import History
from fog_coordinator.state.jobs import Job
from fog_learning.data.known import known_value_bytes
from fog_learning.job.sections import JobFile, Placing
from fog_learning.methods import resolve_method, rounds_of

LONG_S: Final = 30.0
"""Between two rounds, compared with which the time between heartbeats is short."""


def dry_run(core: Core, now: float, spec: Mapping[str, Any]) -> DryRun:
    """The body of `job.plan`: what the coordinator would do with this job now. ConfigError, or Refused if nothing could run it."""
    file, method = core.check(spec)
    planner.check(file, method)
    job = Job("plan", file.name, "", "", dict(spec), method.name, method.root, method.lockstep, rounds_of(file), now, 0)
    if admission.chosen_slots(job, file, method, core.registry, {}):
        _, job.why = admission.place(job, file, method, core.registry, {})
    if job.why:
        raise Refused(f"nobody could run it now: {job.why}")
    if job.plan is not None and job.runner_up is None:
        job.runner_up = _alternative(core, job)
    busy = occupied(core.book.jobs, core.rules)
    return DryRun(
        now=now,
        name=file.name,
        method=method.name,
        objective=(file.placement or Placing()).objective,
        automatic=planner.is_automatic(file),
        rounds=job.rounds,
        tasks=tuple(PlannedTask(task=seat.task, role=seat.role, node=seat.node, tier=seat.tier, site=seat.site) for seat in job.seats),
        choice=None if job.plan is None else plan_body(job.plan, job.rounds),
        runner_up=None if job.runner_up is None else plan_body(job.runner_up, job.rounds),
        waits_for=tuple(sorted({busy[seat.node] for seat in job.seats if seat.node in busy})),
        unknown=tuple(sorted({seat.node for seat in job.seats if core.registry.get(seat.node) is None})),
        note="" if job.plan is not None else f"the costs of {method.name} on this model are not known here: tasks are placed by tier",
    )


def _alternative(core: Core, job: Job) -> Plan | None:
    """The best plan beside the one of a job that leaves nothing to choose: what a `placement` section would gain."""
    file, method = core.check({**job.spec, "placement": {}})
    tasks = free_tasks(file, method)
    open_to = {task.task: eligible(core.registry, TaskNeeds(task.role.name, "free", where=where_of(file, task.role.name)), job, {}) for task in tasks}
    try:
        found = choice.choose(file, method, tasks, job.roster, {node.node: node for node in core.registry}, open_to, job.needs)
    except ConfigError:
        return None
    plans = [plan for plan in (found.plan, found.runner_up) if plan is not None and job.plan is not None and plan.title != job.plan.title]
    return plans[0] if plans else None


def plan_body(plan: Plan, rounds: int) -> PlanShown:
    return PlanShown(
        title=plan.title,
        settings=dict(plan.settings),
        places=dict(plan.places),
        step_s=plan.seconds,
        step_bytes=plan.bytes,
        step_joules=plan.joules,
        round_steps=plan.round_steps,
        total_s=plan.seconds * plan.round_steps * rounds,
        value=plan.value,
        parts=tuple(PlanPart(what=what, seconds=seconds) for what, seconds in plan.parts),
        guessed=plan.guessed,
        assumed=plan.assumed,
    )


def report(job: Job, history: History) -> PlanReport | None:
    """Predicted and measured; None for a job whose costs are not known."""
    if job.plan is None:
        return None
    measured = measure(job, history)
    return PlanReport(
        predicted=plan_body(job.plan, job.rounds),
        runner_up=None if job.runner_up is None else plan_body(job.runner_up, job.rounds),
        measured=measured,
        error=None if measured is None or not measured.step_s else (job.plan.seconds - measured.step_s) / measured.step_s,
    )


def measure(job: Job, history: History) -> Measured | None:
    """Of one training step, over all closed rounds but the first, in which everything begins. None until two rounds are closed.

    Bytes and joules come with heartbeats: after the end all bytes are known; before it, and of joules, what a long enough time shows.
    """
    rounds = history.after(0)
    if len(rounds) < 2 or job.plan is None:
        return None
    first, last = rounds[0], rounds[-1]
    steps = job.plan.round_steps * (last.record.round - first.record.round)
    if steps <= 0:
        return None
    sent: float | None = None
    joules: float | None = None
    if job.state in ENDED:
        sent = job.sent().payload / (job.plan.round_steps * last.record.round)
    elif last.at - first.at >= LONG_S:
        sent = (last.bytes - first.bytes) / steps
    if first.joules is not None and last.joules is not None and last.at - first.at >= LONG_S:
        joules = (last.joules - first.joules) / steps
    seconds = (last.record.closed_at - first.record.closed_at) / steps
    return Measured(step_s=seconds, steps=float(steps), step_bytes=sent, step_joules=joules)


def step_bytes(job: Job, file: JobFile, records: Sequence[RoundRecord]) -> StepBytes | None:
    """Bytes of a training step by formula beside those measured; None where the method has no formula or a fact of model or data is not
    known here. Measured once the job is finished: before, some bytes are still to be reported.

    error: (measured - formula) / formula; tensors: of what was measured, the tensors alone.
    """
    if not records or "import" in file.model:
        return None
    fixed = replace(file, method={**file.method, **job.settled})
    method, plan = resolve_method(fixed)
    if method.traffic is None:
        return None
    try:
        count = method.traffic(fixed, plan, planner.model_of(fixed), records, known_value_bytes(file.data.name))
    except ConfigError:
        return None
    if count is None:
        return None
    body = StepBytes(steps=count.steps, formula=count.formula / count.steps, paper=count.paper / count.steps)
    if job.state != FINISHED:
        return body
    measured = job.sent().payload
    error = (measured - count.formula) / count.formula if count.formula else None
    return replace(body, measured=measured / count.steps, tensors=job.ideal_bytes() / count.steps, error=error)
