"""Replies about nodes and about the whole fleet. Times are seconds of the coordinator's clock."""

from __future__ import annotations

from msgspec import Struct

from fog_common.wire.api.jobs import BudgetUse, Energy, JobSummary
from fog_common.wire.messages import Profile


class Pong(Struct, frozen=True, kw_only=True):
    now: float
    nonce: str
    version: str
    started_at: float | None
    nodes: int
    nodes_online: int
    jobs_active: int
    denied: tuple[str, ...]
    """Subscriptions that the broker refuses the coordinator."""


class NodeSummary(Struct, frozen=True, kw_only=True):
    node: str
    state: str
    """One of NODE_STATES."""
    since: float
    tier: str
    site: str
    draining: bool
    jobs: tuple[str, ...]
    cores: int
    memory_bytes: int
    memory_free_bytes: int
    torch: bool
    datasets: tuple[str, ...]
    version: str
    note: str
    """One line for a person: what a drain waits for."""


class NodeList(Struct, frozen=True, kw_only=True):
    now: float
    nodes: tuple[NodeSummary, ...]
    """By name."""


class WorkerShown(Struct, frozen=True, kw_only=True):
    job: str
    phase: str
    incarnation: int
    view: int
    problems: tuple[str, ...]
    tasks: tuple[str, ...]
    gauges: dict[str, float]
    counters: dict[str, float]


class NodeDetails(NodeSummary, frozen=True, kw_only=True):
    now: float
    profile: Profile
    workers: tuple[WorkerShown, ...]
    gauges: dict[str, float]
    counters: dict[str, float]
    energy_j: dict[str, float]


class Drained(Struct, frozen=True, kw_only=True):
    node: str
    state: str
    moving: tuple[str, ...]
    """'server of digits': tasks that move away."""


class TreeEntry(Struct, frozen=True, kw_only=True):
    """A task of a job, or a node of the fleet."""

    id: str
    parent: str | None
    """Null for the root."""
    role: str
    node: str
    site: str
    tier: str
    state: str
    slot: int = -1
    live: bool = False
    note: str = ""


class TreeReply(Struct, frozen=True, kw_only=True):
    """Of a job's tasks, of a job file as it would be placed now, or of the fleet (job '')."""

    now: float
    job: str
    nodes: tuple[TreeEntry, ...]
    """Parents before children."""


class TopNode(Struct, frozen=True, kw_only=True):
    """Figures are null where unknown."""

    node: str
    state: str
    tier: str
    site: str
    since: float
    draining: bool
    jobs: tuple[str, ...]
    cpu_ratio: float | None = None
    memory_used_bytes: float | None = None
    temperature_celsius: float | None = None
    battery_ratio: float | None = None
    power_watts: float | None = None
    rtt_seconds: float | None = None
    bandwidth_bytes_per_second: float | None = None


class PlaneBytes(Struct, frozen=True, kw_only=True):
    """Payload bytes by plane."""

    up: int = 0
    down: int = 0
    d2d: int = 0
    cast: int = 0


class TopJob(JobSummary, frozen=True, kw_only=True):
    recent: dict[str, tuple[float | None, ...]]
    """Headline number -> its values in the last rounds, null where it was not evaluated."""
    bytes: PlaneBytes
    energy_j: Energy
    budgets: tuple[BudgetUse, ...]


class Top(Struct, frozen=True, kw_only=True):
    now: float
    nodes: tuple[TopNode, ...]
    jobs: tuple[TopJob, ...]
    jobs_hidden: int
