"""Time and Save with which a task whose node is gone goes on elsewhere. Pure; `moves` acts by them, `waits` explains by them."""

from __future__ import annotations

from msgspec import Struct

from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node, Registry
from fog_coordinator.state.rules import Rules


class Recovery(Struct, frozen=True):
    """Recovery of a free or tree task."""

    at: float | None
    """Seconds of the coordinator's clock; None: only on its node, which has the only Save."""
    source: str = ""
    """Node with the newest Save; '' = the task begins anew."""
    label: int = 0
    """Label of that Save."""


def holders(job: Job, task: str, registry: Registry, but: str = "") -> dict[str, int]:
    """Online nodes with a copy of the task's Saves -> newest label."""
    newest_labels = {}
    for name, labels in sorted(job.saves.get(task, {}).items()):
        node = registry.get(name)
        if labels and name != but and node is not None and node.online:
            newest_labels[name] = labels[-1]
    return newest_labels


def newest(copies: dict[str, int]) -> str:
    """The node with the newest Save; '' if there is none."""
    return max(copies, key=lambda name: (copies[name], name), default="")


def recovery(job: Job, seat: Seat, since: float, registry: Registry, rules: Rules) -> Recovery:
    """Recovery of a task whose node is gone since `since`.

    A head may begin anew after `move_after_s`: its members keep the inputs that they gave it. Any other task that ran needs a copy of its
    Save; if none was ever made, it begins anew after `orphan_after_s`.
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
    """Time at which a neighbour takes over a task with data whose node is gone; None: its samples stay on the node."""
    return since + rules.orphan_after_s if seat.heir else None


def gone_since(seat: Seat, node: Node) -> float:
    """Time since which the node of a task is gone, from its seat, otherwise from the node."""
    return seat.away_since if seat.away_since is not None else node.since
