"""Nodes as a person reads them. Pure; changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fog_common.wire.api.fleet import NodeDetails, NodeSummary, WorkerShown
from fog_common.wire.api.states import OFFLINE
from fog_coordinator.core import Core
from fog_coordinator.state.jobs import Seat
from fog_coordinator.state.nodes import Node


def node_summary(core: Core, now: float, node: Node) -> NodeSummary:
    profile = node.profile
    return NodeSummary(
        node=node.node,
        state=node.state,
        since=node.since,
        tier=profile.tier,
        site=profile.site,
        draining=node.leaving,
        jobs=tuple(entry.job.id for entry in core.book.live if node.node in entry.job.participants()),
        cores=profile.cores,
        memory_bytes=profile.memory_bytes,
        memory_free_bytes=profile.memory_free_bytes,
        torch=profile.torch,
        datasets=profile.datasets,
        version=profile.version,
        note=_note(core, now, node),
    )


def node_details(core: Core, now: float, node: Node) -> NodeDetails:
    workers = tuple(
        WorkerShown(
            job=worker.job,
            phase=worker.phase,
            incarnation=worker.incarnation,
            view=worker.view,
            problems=worker.problems,
            tasks=tuple(state.task for state in worker.tasks if state.since),
            gauges=worker.gauges,
            counters=worker.counters,
        )
        for worker in node.workers.values()
    )
    return NodeDetails(
        **msgspec.structs.asdict(node_summary(core, now, node)),
        now=now,
        profile=node.profile,
        workers=workers,
        gauges=node.gauges,
        counters=node.counters,
        energy_j=node.energy_j,
    )


def tasks_on(core: Core, name: str) -> list[str]:
    """'server of digits': movable tasks that are placed there."""
    return _tasks(core, lambda seat: seat.movable and (seat.node == name or (seat.fetch == name and not seat.fetched)))


def ago(now: float, since: float) -> str:
    """' for 12 s', for a person; '' below one second."""
    seconds = max(0.0, now - since)
    if seconds < 1:
        return ""
    if seconds < 120:
        return f" for {seconds:.0f} s"
    return f" for {seconds / 60:.0f} min" if seconds < 7200 else f" for {seconds / 3600:.1f} h"


def _note(core: Core, now: float, node: Node) -> str:
    if node.state == OFFLINE:
        return f"offline{ago(now, node.since)}: {node.why}"
    if node.leaving:
        moving, finishing = tasks_on(core, node.node), _finishing_on(core, node.node)
        left = [f"{', '.join(tasks)} to {what}" for tasks, what in ((moving, "move"), (finishing, "finish the round")) if tasks]
        return f"draining: {'; '.join(left)}" if left else "drained: nothing of any job runs here"
    return ""


def _finishing_on(core: Core, name: str) -> list[str]:
    """Tasks with data that are still live there."""
    return _tasks(core, lambda seat: not seat.movable and seat.node == name and seat.incarnation > 0)


def _tasks(core: Core, wanted: Callable[[Seat], bool]) -> list[str]:
    return [f"{seat.task} of {entry.job.id}" for entry in core.book.live for seat in entry.job.seats if wanted(seat)]
