"""`fogctl validate`: check a job file, without a connection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fogctl.session import Session, command


def register(app: typer.Typer) -> None:
    command(app, "validate", connects=False)(validate)


def validate(session: Session, file: Annotated[Path, typer.Argument(metavar="FILE", help="A job file.")]) -> None:
    """Check a job file completely, as far as that is possible without the nodes."""
    from fog_learning.job.reading import load_job
    from fog_learning.job.sections import job_spec
    from fog_learning.methods import rounds_of

    session.allow_methods()
    job = load_job(file, fit=True)
    where = "each node's own" if job.data.local else f"{job.data.partition.kind} partition of"
    line = f"{file}: ok: {job.name}, {job.method['name']} over {job.model.get('name', job.model.get('import'))}, {where} {job.data.name}, {rounds_of(job)} rounds"
    session.out.result({"file": str(file), "job": job_spec(job)}, [line])
