"""One job on this node as its agent sees it, and what the heartbeat says about it. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from fog_common.wire.messages import DesiredJob, WorkerState


class Slot(Struct):
    """One job here. `running`: a process exists (or is being started) and its exit has not been seen."""

    job: str
    desired: DesiredJob | None
    """None: no longer wanted, the process is ending."""
    incarnation: int = 0
    running: bool = False
    started_at: float = 0.0
    since: float = 0.0
    """While no process runs: when the last one ended, or when the job came."""
    state: WorkerState | None = None
    """The last one of this incarnation, which came at `state_at`."""
    state_at: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""
    """Why the last worker ended, or why none is started."""
    refused: bool = False
    stop_by: float | None = None
    """When the worker is killed, if it has not ended by then."""
    killed: bool = False


def worker_state(slot: Slot, now: float) -> WorkerState:
    """What the heartbeat says about one job: the worker's own words while it runs, ours otherwise."""
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
    """What the job file says a worker needs; 0 if it does not say."""
    resources: Any = {} if desired is None else desired.spec.get("resources", {})
    need = resources.get("memory_mb") if isinstance(resources, dict) else None
    return need if isinstance(need, int) else 0


def exit_reason(code: int, hint: str = "") -> str:
    """'exit code 3: disk full', 'killed by signal 9 (out of memory?)'."""
    text = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{text}: {hint}" if hint else f"{text} (out of memory?)" if code == -9 else text
