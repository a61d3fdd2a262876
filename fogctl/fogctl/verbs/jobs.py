"""`fogctl submit` and `fogctl job`: submit jobs, watch them, end them, fetch their results."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fog_common.wire.api.jobs import JobSummary
from fog_common.wire.api.verbs import CancelJob, ListJobs, ReadJob, ReadLog, SubmitJob
from fogctl.session import Session, command
from fogctl.show.output import duration, number

if TYPE_CHECKING:
    from fogctl.client import Client

app = typer.Typer(no_args_is_help=True, help="The jobs of the fleet.")
Name = Annotated[str, typer.Argument(metavar="JOB", help="As `fogctl submit` printed it.")]
AtMost = Annotated[float | None, typer.Option(min=0.0, metavar="SECONDS", help="Stop waiting after this long (exit 5); the job goes on.")]


def register(root: typer.Typer) -> None:
    command(root, "submit")(submit)


def submit(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A job file.")],
    wait: Annotated[bool, typer.Option("--wait", help="Watch the job until it ends; the exit code tells its end.")] = False,
    token: Annotated[str | None, typer.Option(metavar="TEXT", help="Key that makes a repeated submit safe: one token submits one job.")] = None,
    at_most: AtMost = None,
) -> None:
    """Submit a job to the coordinator."""
    from fog_common.errors import ConfigError
    from fog_learning.job.reading import load_job
    from fog_learning.job.sections import job_spec

    session.allow_methods()
    spec = job_spec(load_job(file))
    if token is not None and not 0 < len(token) <= 64:
        raise ConfigError("--token: expected 1 to 64 characters")
    with session.client() as client:
        body = client.ask(SubmitJob(spec, token or secrets.token_hex(16)))
        again = " (submitted before, with this token)" if body.repeated else ""
        if not again and body.job != spec["name"]:
            again = f" (an ended job has the name {spec['name']}; the new job is called {body.job})"
        if not wait:
            session.out.result(body, [f"{body.job}: {body.state}{again}"])
            return
        session.out.note(f"{body.job}: submitted{again}")
        _follow(session, client, body.job, at_most)


@command(app, "list")
def list_(session: Session, active: Annotated[bool, typer.Option("--active", help="Only jobs that have not ended.")] = False) -> None:
    """All jobs, newest first."""
    with session.client() as client:
        body = client.ask(ListJobs(active))
    rows = [(job.job, job.method, job.state, f"{job.round}/{job.rounds}", str(job.nodes), _age(job, body.now), job.line) for job in body.jobs]
    session.out.table(body, ("job", "method", "state", "round", "nodes", "time", ""), rows, "no jobs: `fogctl submit FILE`")


@command(app, "status")
def status(session: Session, job: Name) -> None:
    """The state of a job and of its tasks, and the reasons for which it waits."""
    from fogctl.show.watch import details

    with session.client() as client:
        body = client.ask(ReadJob(job))
    session.out.result(body, details(body))


@command(app, "watch")
def watch(session: Session, job: Name, at_most: AtMost = None) -> None:
    """Watch a job until it ends; the exit code tells its end."""
    with session.client() as client:
        _follow(session, client, job, at_most)


@command(app, "cancel")
def cancel(session: Session, job: Name) -> None:
    """End a job. Its present model is lost."""
    with session.client() as client:
        body = client.ask(CancelJob(job))
    session.out.result(body, [f"{job}: {body.state}"])


@command(app, "logs")
def logs(session: Session, job: Name, lines: Annotated[int, typer.Option(min=1, max=500, help="Number of the newest events.")] = 100) -> None:
    """The events of a job, oldest first."""
    with session.client() as client:
        body = client.ask(ReadLog(job, lines))
    texts = [f"{duration(body.now - event.at)} ago  {event.text}" for event in body.events]
    session.out.result(body, texts or [f"{job}: nothing yet"])


@command(app, "result")
def result(
    session: Session,
    job: Name,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for JOB.safetensors and JOB.json; made if it is missing.")] = Path("."),
) -> None:
    """Fetch a finished job's weights and figures."""
    from fogctl.result import fetch

    with session.client() as client:
        written = fetch(client, job, out.expanduser())
    figures = ", ".join(f"{name} {number(value)}" for name, value in sorted(written["numbers"].items()))
    files = [f"{written[kind]}" for kind in ("weights", "metrics") if written[kind]]
    session.out.result(written, [f"{job}: {figures or 'no figures'}", *files])


@command(app, "plot")
def plot(
    session: Session,
    job: Name,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture: .png, .svg or .pdf.")],
) -> None:
    """Draw the headline numbers, bytes and energy of each round (needs the extra `plot`)."""
    from fogctl.show.plot import checked, draw
    from fogctl.show.watch import whole_status

    file = checked(out.expanduser())
    with session.client() as client:
        status = whole_status(client, job)
    draw(status, file)
    session.out.result({"job": job, "file": str(file), "rounds": len(status.history)}, [f"{file}"])


def _follow(session: Session, client: Client, job: str, at_most_s: float | None) -> None:
    from fogctl.show.watch import checked_end, follow, summary_lines

    try:
        end = follow(client, job, session.out, at_most_s=at_most_s)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{job} goes on; `fogctl job watch {job}` shows it, `fogctl job cancel {job}` ends it") from None
    session.out.result(checked_end(end), summary_lines(end))


def _age(job: JobSummary, now: float) -> str:
    return "-" if job.started_at is None else duration((job.ended_at if job.ended_at is not None else now) - job.started_at)
