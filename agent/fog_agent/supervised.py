"""One job on this node as its agent sees it, and its state in the heartbeat. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from fog_common.wire.messages import DesiredJob, WorkerState


class Slot(Struct):
    """One job on this node. running: a process exists or is being started, and its exit was not reported."""

    job: str
    desired: DesiredJob | None
    """None: the job is not wanted any more, and its process ends."""
    incarnation: int = 0
    running: bool = False
    started_at: float = 0.0
    since: float = 0.0
    """Without a process: time at which the last one ended, or the job came."""
    state: WorkerState | None = None
    """Last report of this incarnation, received at `state_at`."""
    state_at: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""
    """Reason for which the last worker ended, or none is started."""
    refused: bool = False
    stop_by: float | None = None
    """Time at which the worker is killed, if it has not ended by then; None: it was not asked to end."""
    killed: bool = False


def worker_state(slot: Slot, now: float) -> WorkerState:
    """State of one job in the heartbeat: the worker's own report while it runs, otherwise the agent's."""
    if slot.running:
        return WorkerState(slot.job, slot.incarnation, "starting") if slot.state is None else replace(slot.state, age_s=max(0.0, now - slot.state_at))
    if slot.refused:
        problems = slot.state.problems if slot.state is not None and slot.state.problems else (slot.reason,)
        return WorkerState(slot.job, slot.incarnation, "refused", problems=problems)
    waited_s = max(0.0, now - slot.since)
    if slot.retry_at > now:
        return WorkerState(slot.job, slot.incarnation, "exited", problems=(slot.reason,), waited_s=waited_s, retry_s=slot.retry_at - now)
    return WorkerState(slot.job, slot.incarnation, "queued", problems=(slot.reason,) if slot.reason else (), waited_s=waited_s)


def memory_need_mb(desired: DesiredJob | None) -> int:
    """Memory of a worker by the job file, in MB; 0 if the file does not give it."""
    resources: Any = {} if desired is None else desired.spec.get("resources", {})
    need = resources.get("memory_mb") if isinstance(resources, dict) else None
    return need if isinstance(need, int) else 0


def exit_reason(code: int, hint: str = "") -> str:
    """'exit code 3: disk full', 'killed by signal 9 (out of memory?)'."""
    text = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{text}: {hint}" if hint else f"{text} (out of memory?)" if code == -9 else text
