"""`fogctl topology`: show the tree of a job or of the fleet, in the terminal or as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fog_common.wire.api.shown import shown
from fog_common.wire.api.verbs import ReadTree
from fogctl.session import Session, command


def register(app: typer.Typer) -> None:
    @command(app, "topology")
    def topology(
        session: Session,
        job: Annotated[str | None, typer.Argument(metavar="JOB|FILE", help="A job, or a job file; without it the fleet.")] = None,
        out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write a picture: .svg, or .dot for Graphviz.")] = None,
    ) -> None:
        """The tree of a job, of a job file as it would be placed now, or of the whole fleet."""
        from fog_common.errors import ConfigError
        from fogctl.show import draw

        if out is not None and out.suffix not in {".svg", ".dot"}:
            raise ConfigError(f"--out {out}: the name must end in .svg or .dot")
        with session.client() as client:
            body = client.ask(_asked(job))
        title = f"job {body.job}" if body.job else "fleet"
        if out is not None:
            out.write_text((draw.svg if out.suffix == ".svg" else draw.dot)(body.nodes, title), encoding="utf-8")
            session.out.result({**shown(body), "file": str(out)}, [f"{title}: {len(body.nodes)} entries drawn in {out}"])
        else:
            session.out.result(body, draw.text(body.nodes) or ["no node matches; `fogctl node list` shows all nodes"])


def _asked(job: str | None) -> ReadTree:
    """The request: for a job file, if the argument is a file or has the suffix of one; otherwise for a job, or the fleet."""
    if job is None:
        return ReadTree()
    if Path(job).suffix in {".yaml", ".yml", ".json"} or Path(job).is_file():
        from fogctl.verbs.demo import spec_of

        return ReadTree(spec=spec_of(Path(job), None))
    return ReadTree(job)
