"""The whole fleet on one screen: the body of the verb `top`. Pure; changes nothing."""

from __future__ import annotations

from typing import Any, Final

from fog_coordinator.core import Core
from fog_coordinator.reading import status
from fog_coordinator.state.jobs import ENDED, Job
from fog_coordinator.state.nodes import Node

LINGER_S: Final = 300.0
"""Ended jobs are shown this long."""
MAX_JOBS: Final = 50
ROUNDS: Final = 40
"""Rounds of the accuracy that is drawn."""
GAUGES: Final = ("cpu_ratio", "memory_used_bytes", "temperature_celsius", "battery_ratio", "power_watts", "rtt_seconds", "bandwidth_bytes_per_second")


def overview(core: Core, now: float) -> dict[str, Any]:
    """Nodes by name, jobs newest first."""
    jobs = [job for job in core.book.jobs if job.state not in ENDED or job.ended_at is None or now - job.ended_at < LINGER_S]
    jobs.sort(key=lambda job: -job.order)
    return {
        "now": now,
        "nodes": [_node(core, node) for node in core.registry],
        "jobs": [_job(core, now, job) for job in jobs[:MAX_JOBS]],
        "jobs_hidden": max(0, len(jobs) - MAX_JOBS),
    }


def _node(core: Core, node: Node) -> dict[str, Any]:
    known = node.measured if node.online else {}
    return {
        "node": node.node,
        "state": node.state,
        "tier": node.profile.tier,
        "site": node.profile.site,
        "since": node.since,
        "draining": node.leaving,
        "jobs": sorted(name for name in node.workers if (entry := core.book.get(name)) is not None and entry.job.state not in ENDED)
        if node.online
        else [],
        **{name: known.get(name) for name in GAUGES},
    }


def _job(core: Core, now: float, job: Job) -> dict[str, Any]:
    history = core.book[job.id].history
    recent = [history.rounds[number].record.numbers for number in sorted(history.rounds)[-ROUNDS:]]
    sent = job.sent()
    return {
        **status.summary(core, now, job),
        "accuracy": [numbers.get("accuracy") for numbers in recent],
        "bytes": {"up": sent.up, "down": sent.down, "d2d": sent.d2d, "cast": sent.cast},
        "energy_j": status.energy(job),
        "budgets": [use.body() for use in status.uses(core, job, now)],
    }
