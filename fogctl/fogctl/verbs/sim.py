"""`fogctl sim`: run a job on a simulated fleet, in virtual time. Machines, transfer and coordinator are the real ones; torch computes for real."""

from __future__ import annotations

import contextlib
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from fog_common.wire.api.jobs import JobStatus
from fog_common.wire.api.states import ENDED
from fog_common.wire.api.verbs import ReadJob
from fogctl.session import Session, command


class Level(StrEnum):
    """Unit that a simulated link carries at a time."""

    CHUNK = "chunk"
    MESSAGE = "message"


CHUNK_BYTES: Final = {Level.CHUNK: 256 * 1024, Level.MESSAGE: 1 << 31}


def register(app: typer.Typer) -> None:
    @command(app, "sim", connects=False)
    def sim(
        session: Session,
        job: Annotated[Path, typer.Argument(metavar="JOB", help="Job file.")],
        nodes: Annotated[int, typer.Option("--nodes", min=1, max=100_000, help="Nodes with data, beside one cloud node.")] = 4,
        topology: Annotated[
            Path | None, typer.Option("--topology", metavar="FILE", help="All nodes, their tiers and sites; instead of --nodes.")
        ] = None,
        links: Annotated[
            str, typer.Option("--links", metavar="NAME|FILE", help="lan, wifi, lte, fog, sites, or a YAML file of links and node models.")
        ] = "wifi",
        level: Annotated[
            Level,
            typer.Option("--level", help="chunk: frames as live, 256 KiB each; message: a message is one frame, for large models on many nodes."),
        ] = Level.CHUNK,
        faults: Annotated[Path | None, typer.Option("--faults", metavar="FILE", help="Fault schedule (YAML).")] = None,
        trace: Annotated[Path | None, typer.Option("--trace", metavar="FILE", help="Write the event log, one JSON object a line.")] = None,
        seed: Annotated[int, typer.Option("--seed", help="Seed of the fleet's spread, jitter and losses (the job has its own).")] = 0,
        limit: Annotated[float, typer.Option("--limit", min=1, metavar="SECONDS", help="Virtual seconds until the run is given up.")] = 86_400.0,
    ) -> None:
        """Run JOB in virtual time on modelled machines and links. All times, bytes and joules are simulated; accuracy is real."""
        from fogctl.show.watch import checked_end, summary_lines
        from fogctl.verbs.demo import broker_lines, spec_of, summary

        session.allow_methods()
        spec = spec_of(job, None)
        began = time.perf_counter()
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(trace, "w", encoding="utf-8")) if trace else None
            world, status = simulate(spec, _places(spec, nodes, topology), links, faults, file, seed, limit, level)
        wall = time.perf_counter() - began
        checked_end(status)
        data = summary(status, "simulated", len(world.nodes) - 1)
        data |= {"broker_bytes": world.broker.bytes}
        data |= {"simulated": True, "events": world.kernel.events, "real_s": round(wall, 3), "log_digest": world.digest.hexdigest()}
        lines = [
            "simulated:",
            *summary_lines(status),
            *broker_lines(world.broker.bytes),
            f"{world.kernel.events} events in {wall:.1f} s of real time; event log {data['log_digest']}",
        ]
        session.out.result(data, lines)


def _places(spec: dict[str, Any], nodes: int, topology: Path | None) -> Any:
    """The nodes of the topology file, or those that the job's own topology needs for `nodes` nodes with data."""
    from fog_learning.job.reading import job_from
    from fog_sim.shape import load_shape, shape_for

    return load_shape(topology) if topology else shape_for(job_from(spec, "the job"), nodes)


def simulate(
    spec: dict[str, Any], nodes: Any, links: str, faults: Path | None, trace: Any, seed: int, limit_s: float, level: Level = Level.CHUNK
) -> tuple[Any, JobStatus]:
    """(the simulation, STATUS of the job at its end). TimedOut after limit_s virtual seconds, with the job's state."""
    from fog_common.errors import TimedOut
    from fog_sim.costs import torch_backend
    from fog_sim.faults import load_schedule
    from fog_sim.links import fleet
    from fog_sim.world import Simulation

    schedule = load_schedule(faults) if faults else None
    world = Simulation(nodes, fleet(links), torch_backend, seed=seed, trace=trace, chunk_bytes=CHUNK_BYTES[level])
    name = world.submit(spec)
    if schedule is not None:
        world.inject(schedule)
    world.run(name, limit_s)
    status = world.coordinator.ask(ReadJob(name))
    if status.state not in ENDED:
        raise TimedOut(f"{name} is {status.state} after {limit_s:g} simulated seconds: {status.line}")
    return world, status
