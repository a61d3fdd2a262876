"""Frames between daemon and worker, carried by `pipe`."""

from __future__ import annotations

from msgspec import Struct

from fog_common.bus.base import BrokerConfig
from fog_common.wire.messages import DesiredJob, WorkerState


class WorkerSetup(Struct, frozen=True, tag="setup"):
    """First frame to a worker: the facts and the configuration of its node."""

    node: str
    site: str
    tier: str
    fleet: str
    broker: BrokerConfig
    state_dir: str
    """Folder of the node's state; the worker uses {state_dir}/jobs/{job} and writes the node's speed."""
    job: str
    incarnation: int
    datasets: dict[str, str] = {}
    weights: dict[str, str] = {}
    allow_models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    """Names of methods of installed packages that the worker may load."""
    chunk_bytes: int = 256 * 1024
    backend: str = "torch"
    """Op backend: torch, or `standin` (torch-free, for chaos tests)."""
    duty: float = 1.0
    """Fraction of the time in which the worker may compute."""
    metrics: bool = True
    """Count and measure for the reports; false: only bytes by plane, and the speed for placement."""
    log_level: str = "INFO"


class Assign(Struct, frozen=True, tag="assign"):
    """Daemon -> worker: the job as the coordinator wants it on this node; repeated on every change."""

    desired: DesiredJob


class Stop(Struct, frozen=True, tag="stop"):
    """Daemon -> worker: end now. The state on disk stays."""


class State(Struct, frozen=True, tag="state"):
    """Worker -> daemon: a report. Sent on every change worth a heartbeat, and periodically. urgent: the daemon passes it on at once."""

    state: WorkerState
    urgent: bool = False


Frame = WorkerSetup | Assign | Stop | State
