"""`fogctl plan`: who would do what of a job, and what a step would cost. Nothing is submitted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fogctl.session import Session, command
from fogctl.show.output import aligned, duration, size


def register(app: typer.Typer) -> None:
    command(app, "plan")(plan)


def plan(session: Session, file: Annotated[Path, typer.Argument(metavar="JOB", help="A job file.")]) -> None:
    """A dry run: where the coordinator would put the job's tasks now, what a training step would cost, and the next best way."""
    from fog_learning.job.reading import load_job
    from fog_learning.job.sections import job_spec

    session.allow_methods()
    spec = job_spec(load_job(file))
    with session.client() as client:
        body = client.request("job.plan", spec=spec)
    session.out.result(body, list(_lines(body)))


def _lines(body: dict[str, Any]) -> Iterator[str]:
    chosen = body["choice"]
    why = f"by {body['objective']}" if body["automatic"] else "by tier (no `placement` section)"
    yield (
        f"{body['name']} ({body['method']}), placed {why}; all figures are modelled"
        if chosen
        else f"{body['name']} ({body['method']}): {body['note']}"
    )
    yield from (f"  {line}" for line in aligned(_tasks(body["tasks"])))
    if body["waits_for"]:
        yield f"  it would wait for {', '.join(body['waits_for'])}"
    if body.get("unknown"):
        yield f"  it would wait for {', '.join(body['unknown'])}, of which the coordinator has never heard: see `fogctl node list`"
    if not chosen:
        return
    plans = [("choice", chosen), *([("runner-up", body["runner_up"])] if body["runner_up"] else [])]
    columns = ("", "plan", "step", "bytes a step", "joules a step", f"all {body['rounds']} rounds")
    rows = [
        (name, item["title"], step_time(item["step_s"]), size(item["step_bytes"]), f"{item['step_joules']:.3g}", duration(item["total_s"]))
        for name, item in plans
    ]
    yield from (f"  {line}" for line in aligned([columns, *rows]))
    yield "  of a step: " + ", ".join(f"{part['what']} {step_time(part['seconds'])}" for part in chosen["parts"])
    if chosen["guessed"]:
        yield f"  not measured yet, guessed by tier: {'; '.join(chosen['guessed'])}"
    if chosen.get("assumed"):
        yield f"  joules are with assumed figures (an agent's `energy:` section says its own): {'; '.join(chosen['assumed'])}"


def _tasks(tasks: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Data tasks of one role in one line."""
    rows: list[tuple[str, str, str, str]] = [("task", "nodes", "tier", "site")]
    roles: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        roles.setdefault(task["role"], []).append(task)
    for role, members in roles.items():
        tiers, sites = (", ".join(sorted({member[key] for member in members})) for key in ("tier", "site"))
        nodes = [member["node"] for member in members]
        named = ", ".join(nodes[:6]) + (f" and {len(nodes) - 6} more" if len(nodes) > 6 else "")
        rows.append((role if len(members) == 1 else f"{role} x {len(members)}", named, tiers, sites))
    return rows


def step_time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def predicted_lines(plan: dict[str, Any] | None) -> list[tuple[str, str]]:
    """For a job's summary: ('step', '12.3 ms predicted (cut after c1, …), 14.0 ms measured: -12 %')."""
    if not plan:
        return []
    predicted, measured, error = plan["predicted"], plan["measured"], plan["error"]
    text = f"{step_time(predicted['step_s'])} predicted ({predicted['title']})"
    if measured and error is not None:
        text += f", {step_time(measured['step_s'])} measured: prediction {error:+.0%}"
    return [("step", text)]
