"""`fogctl demo`: train a model on a fleet of this machine, through a real broker, and show the costs."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer

from fog_common.errors import ConfigError
from fog_common.wire.api.jobs import JobStatus
from fog_common.wire.api.shown import shown
from fog_common.wire.api.verbs import SubmitJob
from fogctl.session import Session, command

JOBS: Final = Path(__file__).parents[1] / "jobs"
"""Job files of the package, equal to those of examples/ with the same names."""
DIGITS: Final = JOBS / "digits.yaml"
"""The default job."""
FOG: Final = JOBS / "fog.yaml"
"""The default job with --sites."""


def register(app: typer.Typer) -> None:
    @command(app, "demo", connects=False)
    def demo(
        session: Session,
        job: Annotated[Path | None, typer.Option("--job", metavar="FILE", help="Job file (default: the digits of examples/digits.yaml).")] = None,
        agents: Annotated[int, typer.Option("--agents", min=1, max=64, help="Nodes with data.")] = 4,
        seed: Annotated[int | None, typer.Option("--seed", help="Seed that replaces the job file's.")] = None,
        sites: Annotated[int, typer.Option("--sites", min=0, max=16, help="Sites with a broker of their own, bridged to the cloud's.")] = 0,
        broker: Annotated[str, typer.Option("--broker", help="auto, mosquitto or embedded.")] = "auto",
        details: Annotated[
            bool, typer.Option("--details", help="Add predicted figures, bytes by formula and by the paper's count to the closing table.")
        ] = False,
        keep: Annotated[bool, typer.Option("--keep", help="Leave the folder with state, logs and result.")] = False,
    ) -> None:
        """Train on several agents on this machine, through a real MQTT broker."""
        if broker not in {"auto", "mosquitto", "embedded"}:
            raise ConfigError(f"--broker: expected auto, mosquitto or embedded, got {broker!r}")
        folder = Path(tempfile.mkdtemp(prefix="foglearn-demo-"))
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            session.allow_methods()
            data, lines = run_demo(session, folder, spec_of(job or (FOG if sites else DIGITS), seed), agents, broker, sites, details)
            if keep:
                lines.append(f"kept in {folder}")
            session.out.result(data, lines)
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


def run_demo(
    session: Session, folder: Path, spec: dict[str, Any], agents: int, broker: str, sites: int = 0, details: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Run a job on a local fleet; returns (data for --json, closing table for a person). JobFailed with the job's reason, ConfigError for a
    job or options that the fleet cannot serve."""
    from fog_common.errors import ConfigError
    from fogctl.fleet.local_fleet import LocalFleet
    from fogctl.show.watch import checked_end, follow, summary_lines

    out = session.out
    began = time.monotonic()
    if sites > agents or (sites and broker == "embedded"):
        raise ConfigError(f"--sites {sites}: at least one agent for each, and mosquitto as the broker (the embedded one knows no bridges)")
    methods = {"methods": list(session.methods())}
    fleet = LocalFleet(folder, agents, broker=broker, sites=sites, agent_options=methods, coordinator_options=methods)
    check_nodes(spec, fleet.places())
    with fleet:
        assert fleet.broker is not None
        out.note(f"broker {fleet.broker.name}; coordinator; 1 cloud agent, {agents} agents; {fleet.metrics_url}")
        for site, own in fleet.site_brokers.items():
            out.note(f"{site}: broker {own.name}, bridged to it; {', '.join(name for name in fleet.agents if fleet.site_of(name) == site)}")
        with fleet.client() as client:
            fleet.wait_for_nodes(client, agents + 1)
            name = client.ask(SubmitJob(spec)).job
            status = follow(client, name, out)
            checked_end(status)
        label = fleet.broker.name
        passed = {name: dict(tap.bytes) for name, tap in fleet.taps.items()}
        strays = sum(tap.strays for tap in fleet.taps.values())
    data = summary(status, label, agents)
    data["total_s"] = round(time.monotonic() - began, 3)
    lines = ["", *summary_lines(status, details, ("broker", label)), *broker_lines(passed)]
    if passed:
        data |= {"broker_bytes": passed, "stray_bytes": strays}
        lines.append(f"{strays} bytes of a site's own traffic (d2d, casts of the site) were seen at another broker")
    return data, lines


def check_nodes(spec: dict[str, Any], places: dict[str, tuple[str, str]]) -> None:
    """ConfigError for a job whose `nodes` the demo's fleet can never provide. places: node -> (tier, site)."""
    from fog_common.errors import ConfigError

    nodes = spec["nodes"]
    names, tiers, sites, count = nodes["select"]["names"], nodes["select"]["tier"], nodes["select"]["site"], nodes["count"]
    there = ", ".join(f"{name} ({tier}, {site})" for name, (tier, site) in places.items())
    if unknown := sorted(set(names) - places.keys()):
        raise ConfigError(f"nodes.select.names: the demo has no {', '.join(unknown)}; it has {there}")
    fit = [name for name, (tier, site) in places.items() if (name in names if names else not tiers or tier in tiers) and (not sites or site in sites)]
    if not fit:
        raise ConfigError(f"nodes.select: the demo has no such node; it has {there}")
    if count is not None and count > len(fit):
        raise ConfigError(f"nodes.count: {count} nodes wanted, the demo has {len(fit)} that fit; say --agents {count}")


def broker_lines(counts: dict[str, dict[str, int]]) -> list[str]:
    """Payload bytes through each broker, by plane, as lines for a person; [] for a single broker."""
    from fogctl.show.output import aligned, size

    if len(counts) < 2:
        return []
    planes = ("d2d", "to", "cast", "node", "ctl")
    names = sorted(counts, key=lambda name: (name != "cloud", name))
    rows = [("bytes through", *planes), *((name, *(size(counts[name].get(plane, 0)) for plane in planes)) for name in names)]
    return ["", *aligned(rows if len(rows) <= 14 else [*rows[:12], (f"… {len(rows) - 12} more", *("" for _ in planes))])]


def summary(status: JobStatus, broker: str, nodes: int) -> dict[str, Any]:
    """Data of `fogctl demo --json` and `fogctl sim --json`, whose shape is stable, from a job's STATUS."""
    names = [figure.name for figure in status.headline]
    history = [
        {"round": entry.round, **{name: entry.numbers.get(name) for name in names}, "wall_s": entry.wall_s, "bytes": entry.bytes}
        for entry in status.history
    ]
    body = shown(status)
    return {
        "job": status.job,
        **{name: status.metrics.get(name) for name in names},
        "rounds": status.round,
        "nodes": nodes,
        "wall_s": status.wall_s,
        "bytes": {plane: body["bytes"][plane] for plane in ("up", "down", "cast", "d2d", "ideal")},
        "step_bytes": body["step_bytes"],
        "energy_j": body["energy_j"],
        "broker": broker,
        "history": history,
    }


def spec_of(path: Path, seed: int | None) -> dict[str, Any]:
    """The checked job file as builtins. seed: replaces the file's. ConfigError for an invalid file."""
    from fog_learning.job.reading import job_from, load_job
    from fog_learning.job.sections import job_spec

    spec = job_spec(load_job(path))
    return spec if seed is None else job_spec(job_from({**spec, "seed": seed}, "the demo's job"))


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
