"""A better plan for a placed job: before the start, from the workers' measurements; while it runs, if a better place lasts. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from fog_coordinator.placement import choice, planner
from fog_coordinator.placement.eligible import eligible, task_of, worker_of
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Node, Registry
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import Method


def replan(job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> str:
    """Replace the plan if another one is clearly better by the workers' measurements; returns a line for the log, '' if the plan stays.

    A job with a user's own module gets its first plan here, because a worker has reported its blocks by now.
    """
    if not job.blocks and "import" in file.model:
        workers = (worker_of(job, registry.get(name)) for name in sorted(job.participants()))
        job.blocks = next((worker.blocks for worker in workers if worker is not None and worker.blocks), ())
    if job.replanned or (job.plan is None and not planner.can_plan(file, job.blocks)):
        return ""
    job.replanned = True
    known = {node.node: node for node in registry}
    standing, better = choice.again(file, method, job, known, _open(job, registry, taken))
    job.plan = standing or job.plan
    if standing is None or better is None:
        return ""
    job.runner_up, job.plan = standing, better
    if job.settled and better.settings != job.settled:  # keys that the job file fixes are not in `settled`
        job.settled = dict(better.settings)
        job.stale = {name: worker.incarnation for name in sorted(job.participants()) if (worker := worker_of(job, registry.get(name))) is not None}
    job.needs = {**job.needs, **better.memory}
    for seat in job.seats:
        node = known.get(better.places.get(seat.task, ""))
        if seat.bound == "free" and node is not None:
            seat.node, seat.site, seat.tier = node.node, node.profile.site, node.profile.tier
    return f"measured: a step takes {standing.seconds * 1000:.1f} ms with {standing.title}; better: {better.title}, {better.seconds * 1000:.1f} ms"


def relocate(now: float, job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> str:
    """Mark tasks to move to a place that has been better for long enough; returns a line for the log, '' if none moves."""
    seats = [seat for seat in job.seats if seat.bound == "free"]
    if not seats or file.placement is None or not planner.can_plan(file, job.blocks):
        return ""
    if any(not seat.incarnation or seat.successor or seat.wanted for seat in seats):
        return ""
    known = {node.node: node for node in registry}
    if job.plan is not None and any(job.plan.places.get(seat.task) != seat.node for seat in seats):  # a task has moved: predict again
        job.plan = choice.priced(file, method, job, known) or job.plan
    moving = choice.elsewhere(now, file, method, job, known, _open(job, registry, taken))
    for seat in seats:
        seat.wanted = moving.get(seat.task, "")
    return "; ".join(f"{seat.task} would be better off on {seat.wanted}: it moves there" for seat in seats if seat.wanted)


def _open(job: Job, registry: Registry, taken: Mapping[str, str]) -> dict[str, list[Node]]:
    """Free task -> nodes that may take it, without regard to memory, which the plan counts."""
    return {seat.task: eligible(registry, replace(task_of(job, seat), need=0), job, taken) for seat in job.seats if seat.bound == "free"}
