"""`fogctl plan`: show the placement of a job and the cost of a step, without a submit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from fog_common.wire.api.plans import DryRun, PlannedTask
from fog_common.wire.api.verbs import PlanJob
from fog_learning.costs.objectives import OBJECTIVES
from fogctl.session import Session, command
from fogctl.show.output import aligned, duration, size, step_time


def register(app: typer.Typer) -> None:
    rows = "; ".join(f"{row.name}: {row.help}" for row in OBJECTIVES.values())
    command(app, "plan", epilog=f"What `placement.objective` of the job makes small: {rows}.")(plan)


def plan(session: Session, file: Annotated[Path, typer.Argument(metavar="JOB", help="A job file.")]) -> None:
    """A dry run: the nodes on which the coordinator would place the job's tasks now, the cost of a training step, and the runner-up."""
    from fog_learning.job.reading import load_job
    from fog_learning.job.sections import job_spec

    session.allow_methods()
    spec = job_spec(load_job(file))
    with session.client() as client:
        body = client.ask(PlanJob(spec))
    session.out.result(body, list(_lines(body)))


def _lines(body: DryRun) -> Iterator[str]:
    why = f"by {body.objective}" if body.automatic else "by tier (no `placement` section)"
    yield f"{body.name} ({body.method}), placed {why}; all figures are modelled" if body.choice else f"{body.name} ({body.method}): {body.note}"
    yield from (f"  {line}" for line in aligned(_tasks(body.tasks)))
    if body.waits_for:
        yield f"  it would wait for {', '.join(body.waits_for)}"
    if body.unknown:
        yield f"  it would wait for {', '.join(body.unknown)}, of which the coordinator has never heard: see `fogctl node list`"
    if body.choice is None:
        return
    plans = [("choice", body.choice), *([("runner-up", body.runner_up)] if body.runner_up is not None else [])]
    columns = ("", "plan", "step", "bytes a step", "joules a step", f"all {body.rounds} rounds")
    rows = [
        (name, item.title, step_time(item.step_s), size(item.step_bytes), f"{item.step_joules:.3g}", duration(item.total_s)) for name, item in plans
    ]
    yield from (f"  {line}" for line in aligned([columns, *rows]))
    yield "  of a step: " + ", ".join(f"{part.what} {step_time(part.seconds)}" for part in body.choice.parts)
    if body.choice.guessed:
        yield f"  not measured yet, guessed by tier: {'; '.join(body.choice.guessed)}"
    if body.choice.assumed:
        yield f"  joules are with assumed figures (an agent's `energy:` section says its own): {'; '.join(body.choice.assumed)}"


def _tasks(tasks: Sequence[PlannedTask]) -> list[tuple[str, str, str, str]]:
    """Rows of a table, with the tasks of each role in one row."""
    rows: list[tuple[str, str, str, str]] = [("task", "nodes", "tier", "site")]
    roles: dict[str, list[PlannedTask]] = {}
    for task in tasks:
        roles.setdefault(task.role, []).append(task)
    for role, members in roles.items():
        tiers, sites = (", ".join(sorted(names)) for names in ({member.tier for member in members}, {member.site for member in members}))
        nodes = [member.node for member in members]
        named = ", ".join(nodes[:6]) + (f" and {len(nodes) - 6} more" if len(nodes) > 6 else "")
        rows.append((role if len(members) == 1 else f"{role} x {len(members)}", named, tiers, sites))
    return rows
