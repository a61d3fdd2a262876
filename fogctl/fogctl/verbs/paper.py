"""`fogctl paper`: run experiments in the simulator that put the papers' figures beside ours (fog_sim.experiments)."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fog_common.wire.api.shown import shown
from fog_common.wire.api.verbs import SubmitJob
from fogctl.session import Session, command
from fogctl.show.output import aligned

app = typer.Typer(no_args_is_help=True, help="Experiments of the papers, our figures beside theirs.")


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="paper")


@command(app, "list", connects=False)
def list_(session: Session) -> None:
    """The experiments and the data sets that they need."""
    from fog_sim.experiments import EXPERIMENTS

    every = list(EXPERIMENTS.values())
    data = [{"name": one.name, "title": one.title, "source": one.source, "data": [list(group) for group in one.data]} for one in every]
    rows = [(one.name, one.title, one.source, ", ".join(group[0] for group in one.data) or "none") for one in every]
    session.out.table({"experiments": data}, ("name", "what", "source", "data"), rows, "no experiments")


@command(app, "run", connects=False)
def run(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `fogctl paper list`.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps, seeds and points: minutes on two cores.")] = False,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, max=100, metavar="K", help="Repetitions (default: as the experiment says).")] = None,
    live: Annotated[bool, typer.Option("--live", help="A small run on real processes and brokers of this machine, too.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write Markdown, JSON and plots there.")] = None,
) -> None:
    """Run one experiment: the paper's figures, ours with their standard deviation, bytes measured and by formula, all assumptions."""
    from fog_sim.experiments import EXPERIMENTS, ExperimentSettings, report, run_experiment

    began = time.monotonic()
    outcome = run_experiment(
        name, ExperimentSettings(quick=quick, seeds=seeds, say=session.out.note, live=partial(_on_a_fleet, session) if live else None)
    )
    flags = [*(["--quick"] if quick else []), *([f"--seeds {seeds}"] if seeds else []), *(["--live"] if live else [])]
    typed = " ".join(["fogctl paper run", name, *flags])
    data = report.as_json(
        EXPERIMENTS[name], outcome, quick=quick, took_s=time.monotonic() - began, command=typed, date=time.strftime("%Y-%m-%d", time.gmtime())
    )
    lines = [
        f"{name}: {data['title']} ({data['source']})",
        "",
        *aligned([("row", "column", "paper", "ours", "unit", "note"), *report.row_cells(outcome.rows)]),
    ]
    for table in outcome.tables:
        lines += ["", table.title, *aligned([list(table.columns), *(list(row) for row in table.rows)])]
    lines += ["", "setting: " + ", ".join(f"{key} {value}" for key, value in outcome.setting.items())]
    for title, sentences in (("what holds", outcome.findings), ("simulated", outcome.simulated), ("assumptions", outcome.assumptions)):
        lines += ["", title, *(f"- {sentence}" for sentence in sentences)]
    if out is not None:
        files, why = report.write(out, EXPERIMENTS[name], outcome, data)
        data["files"] = [str(file) for file in files]
        lines += ["", *(f"wrote {file}" for file in files)]
        if why:
            data["no_plots"] = why
            session.out.note(why)
    session.out.result(data, lines)


def _on_a_fleet(session: Session, spec: dict[str, Any], agents: int, sites: int) -> dict[str, Any]:
    """Run a job on a local fleet; returns its STATUS at the end, with `broker_bytes` and `stray_bytes` as in `fogctl demo --json`. JobFailed with
    the job's reason."""
    from fogctl.fleet.local_fleet import LocalFleet
    from fogctl.show.watch import checked_end, follow

    with (
        tempfile.TemporaryDirectory(prefix="foglearn-live-") as folder,
        LocalFleet(Path(folder), agents, sites=sites) as fleet,
        fleet.client() as client,
    ):
        fleet.wait_for_nodes(client, agents + 1)
        status = follow(client, client.ask(SubmitJob(spec)).job, session.out)
        checked_end(status)
        passed = {name: dict(tap.bytes) for name, tap in fleet.taps.items()}
        return {**shown(status), "broker_bytes": passed, "stray_bytes": sum(tap.strays for tap in fleet.taps.values())}
