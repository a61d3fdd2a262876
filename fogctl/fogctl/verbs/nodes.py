"""`fogctl node`: list the nodes of the fleet, show one of them, drain it."""

from __future__ import annotations

from typing import Annotated

import typer

from fog_common.wire.api.fleet import NodeDetails
from fog_common.wire.api.states import ONLINE
from fog_common.wire.api.verbs import DrainNode, ListNodes, ReadNode
from fogctl.session import Session, command
from fogctl.show.output import duration, size

app = typer.Typer(no_args_is_help=True, help="The machines of the fleet.")
Name = Annotated[str, typer.Argument(metavar="NODE", help="Name of a node.")]


@command(app, "list")
def list_(session: Session) -> None:
    """All nodes that the coordinator knows."""
    with session.client() as client:
        body = client.ask(ListNodes())
    rows = [
        (
            node.node,
            "draining" if node.draining and node.state == ONLINE else node.state,
            node.tier,
            node.site,
            str(node.cores),
            size(node.memory_bytes or None),
            "yes" if node.torch else "no",
            ", ".join(node.jobs) or "-",
            duration(body.now - node.since),
            node.note,
        )
        for node in body.nodes
    ]
    columns = ("node", "state", "tier", "site", "cores", "memory", "torch", "jobs", "since", "note")
    session.out.table(body, columns, rows, "no nodes yet: start `fog-agent run --config FILE` on a machine")


@command(app, "show")
def show(session: Session, node: Name) -> None:
    """One node: its profile, its workers, its measurements."""
    with session.client() as client:
        body = client.ask(ReadNode(node))
    session.out.result(body, list(_lines(body)))


@command(app, "drain")
def drain(session: Session, node: Name, undo: Annotated[bool, typer.Option("--undo", help="Take tasks again.")] = False) -> None:
    """Move a node's tasks away and give it no new ones; those with data finish their round, then wait for the node."""
    with session.client() as client:
        body = client.ask(DrainNode(node, undo))
    moving = f", moving {', '.join(body.moving)}" if body.moving else ""
    session.out.result(
        body, [f"{node}: takes tasks again" if undo else f"{node}: draining{moving}; `fogctl node show {node}` says what it waits for"]
    )


def _lines(body: NodeDetails) -> list[str]:
    lines = [
        f"{body.node}: {body.state}, tier {body.tier}, site {body.site}{', draining' if body.draining else ''}",
        f"  {body.cores} cores, {size(body.memory_bytes or None)} memory ({size(body.memory_free_bytes or None)} free), "
        f"{body.profile.arch or 'unknown architecture'}, torch {'yes' if body.torch else 'no'}, foglearn {body.version or 'unknown'}",
    ]
    if body.note:
        lines.append(f"  {body.note}")
    if body.datasets:
        lines.append(f"  data sets: {', '.join(body.datasets)}")
    for worker in body.workers:
        tasks = ", ".join(worker.tasks)
        lines.append(f"  job {worker.job}: {worker.phase}, {tasks or 'no tasks'}, {size(worker.gauges.get('rss_bytes'))}")
        lines += [f"    {problem}" for problem in worker.problems]
    for source, joules in sorted(body.energy_j.items()):
        lines.append(f"  energy: {joules:.1f} J ({source})")
    return lines
