"""Builders for single calls of the agent's core."""

from __future__ import annotations

from typing import Any

from fog_agent.core import AgentCore
from fog_agent.effects import Say, Speak
from fog_agent.supervisor import AgentLimits
from fog_common.wire.messages import (
    Desired,
    DesiredJob,
    Heartbeat,
    Placement,
    Profile,
    WorkerState,
)

COORDINATOR = "coordinator"
PROFILE = Profile(tier="edge", site="home")


def wanted(name: str, floor: int = 0, view: int = 1, memory_mb: int | None = None) -> DesiredJob:
    spec: dict[str, Any] = {"name": name}
    if memory_mb is not None:
        spec["resources"] = {"memory_mb": memory_mb}
    return DesiredJob(name, spec, Placement(name, view, "server", ()), floor)


def desired(number: int, *jobs: DesiredJob, nonce: str = "c1", release: bool = False) -> Desired:
    return Desired(number, nonce, jobs, release)


def fresh(connected: bool = True, incarnations: dict[str, int] | None = None, **limits: Any) -> AgentCore:
    core = AgentCore("pi-1", "n1", PROFILE, AgentLimits(**limits), incarnations, seed=1)
    if connected:
        core.on_connected(0.0)
        core.on_timer(1.0)
        core.take()
    return core


def kinds(effects: list[Any]) -> list[str]:
    return [
        type(effect.message).__name__ if isinstance(effect, Speak) else type(effect).__name__ for effect in effects if not isinstance(effect, Say)
    ]


def heartbeat(core: AgentCore, now: float) -> Heartbeat:
    """The next heartbeat, whenever it is due after `now`."""
    due = core.next_timer()
    assert due is not None
    core.on_timer(max(now, due))
    return next(effect.message for effect in core.take() if isinstance(effect, Speak) and isinstance(effect.message, Heartbeat))


def ready(job: str, incarnation: int, **fields: Any) -> WorkerState:
    return WorkerState(job, incarnation, "ready", **fields)
