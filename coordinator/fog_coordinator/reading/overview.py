"""The whole fleet on one screen: the reply to `top`. Pure; changes nothing."""

from __future__ import annotations

from typing import Final

import msgspec

from fog_common.wire.api.fleet import PlaneBytes, Top, TopJob, TopNode
from fog_common.wire.api.states import ENDED
from fog_coordinator.core import Core
from fog_coordinator.reading import status
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Node

LINGER_S: Final = 300.0
"""Ended jobs are shown this long."""
MAX_JOBS: Final = 50
ROUNDS: Final = 40
"""Rounds of the headline numbers that are drawn."""
GAUGES: Final = ("cpu_ratio", "memory_used_bytes", "temperature_celsius", "battery_ratio", "power_watts", "rtt_seconds", "bandwidth_bytes_per_second")


def overview(core: Core, now: float) -> Top:
    """Nodes by name, jobs newest first."""
    jobs = [job for job in core.book.jobs if job.state not in ENDED or job.ended_at is None or now - job.ended_at < LINGER_S]
    jobs.sort(key=lambda job: -job.order)
    live = {entry.job.id for entry in core.book.live}
    return Top(
        now=now,
        nodes=tuple(_node(live, node) for node in core.registry),
        jobs=tuple(_job(core, now, job) for job in jobs[:MAX_JOBS]),
        jobs_hidden=max(0, len(jobs) - MAX_JOBS),
    )


def _node(live: set[str], node: Node) -> TopNode:
    known = node.measured if node.online else {}
    return TopNode(
        node=node.node,
        state=node.state,
        tier=node.profile.tier,
        site=node.profile.site,
        since=node.since,
        draining=node.leaving,
        jobs=tuple(sorted(node.workers.keys() & live)) if node.online else (),
        **{name: known.get(name) for name in GAUGES},
    )


def _job(core: Core, now: float, job: Job) -> TopJob:
    history, sent = core.book[job.id].history, job.sent()
    rounds = [history.rounds[number].record.numbers for number in sorted(history.rounds)[-ROUNDS:]]
    summary = status.summary(core, now, job)
    return TopJob(
        **msgspec.structs.asdict(summary),
        recent={figure.name: tuple(numbers.get(figure.name) for numbers in rounds) for figure in summary.headline},
        bytes=PlaneBytes(up=sent.up, down=sent.down, d2d=sent.d2d, cast=sent.cast),
        energy_j=status.energy(job),
        budgets=tuple(use.body() for use in status.uses(core, job, now)),
    )
