"""When a task whose node is gone goes on elsewhere, and from which Save. Pure; `moves` acts by it, `waits` explains by it."""

from __future__ import annotations

from msgspec import Struct

from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node, Registry
from fog_coordinator.state.rules import Rules


class Recovery(Struct, frozen=True):
    """The way back of a free or tree task."""

    at: float | None
    """Seconds of the coordinator's clock; None: never elsewhere, its only Save is on the node that is gone."""
    source: str = ""
    """Node with the newest Save; '' = the task begins anew."""
    label: int = 0
    """Of that Save."""


def holders(job: Job, task: str, registry: Registry, but: str = "") -> dict[str, int]:
    """Online nodes with a copy of the task's Saves -> newest label."""
    found = {}
    for name, labels in sorted(job.saves.get(task, {}).items()):
        node = registry.get(name)
        if labels and name != but and node is not None and node.online:
            found[name] = labels[-1]
    return found


def newest(copies: dict[str, int]) -> str:
    """The node with the newest Save; '' if there is none."""
    return max(copies, key=lambda name: (copies[name], name), default="")


def recovery(job: Job, seat: Seat, since: float, registry: Registry, rules: Rules) -> Recovery:
    """since: when the task's node was gone.

    A head may begin anew at once: its members still have what they gave it. Another task that ran waits for a copy of its Save, or, if none
    was ever made, `orphan_after_s`.
    """
    head = seat.bound == "tree"
    if seat.ran and any(job.saves.get(seat.task, {}).values()):
        copies = holders(job, seat.task, registry, but=seat.node)
        source = newest(copies)
        if not source and not head:
            return Recovery(None)
        return Recovery(since + rules.move_after_s, source, copies.get(source, 0))
    return Recovery(since + (rules.orphan_after_s if seat.ran and not head else rules.move_after_s))


def inherited_at(seat: Seat, since: float, rules: Rules) -> float | None:
    """When a neighbour goes on with a data task whose node is gone; None: its samples stay where they are."""
    return since + rules.orphan_after_s if seat.heir else None


def gone_since(seat: Seat, node: Node) -> float:
    """Since when the node of a task is gone, as its seat has it, else as the node has it."""
    return seat.away_since if seat.away_since is not None else node.since
