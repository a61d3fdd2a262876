"""Replies about jobs. Times are seconds of the coordinator's clock; `now` stands beside them, so that `now - since` is a duration.

Absent values are null. The JSON of `fogctl --json` has these fields, with the numbers of a round beside the others (see wire.api.shown).
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from fog_common.wire.api.plans import PlanReport, StepBytes


class Figure(Struct, frozen=True, kw_only=True):
    """A number by which the rounds of a job are judged: one of its method's headline."""

    name: str
    """Its key in the numbers of a round."""
    title: str
    """For a person: 'accuracy on held-out data'."""
    unit: str = ""
    """'' for a ratio or a plain number; else a base unit: s, J, B."""
    better: Literal["more", "less"] = "more"


class SentBytes(Struct, frozen=True, kw_only=True):
    """Payload bytes by plane. total: all planes without control (Planes.payload); ideal: the tensors alone."""

    up: int = 0
    down: int = 0
    d2d: int = 0
    cast: int = 0
    ctl: int = 0
    total: int = 0
    ideal: int = 0


class Energy(Struct, frozen=True, kw_only=True):
    """Joules of the job's nodes while they had a worker of it. value is null, and source '', while nothing is known."""

    value: float | None = None
    source: str = ""
    """measured, fitted, modelled: that of the least certain part."""


class BudgetUse(Struct, frozen=True, kw_only=True):
    """used and ratio are null while unknown."""

    budget: str
    """time, bytes, joules, node_cpu, node_bytes, node_joules."""
    used: float | None
    limit: float
    ratio: float | None
    node: str = ""
    """The node that used most, of a budget of nodes."""


class WaitShown(Struct, frozen=True, kw_only=True):
    """A wait of a job. until and until_s are null where nothing bounds the wait."""

    what: str
    who: tuple[str, ...] = ()
    """Nodes."""
    since: float = 0.0
    until: float | None = None
    since_s: float = 0.0
    until_s: float | None = None
    minor: bool = False
    """A task waits for another task that waits itself."""


class TaskShown(Struct, frozen=True, kw_only=True):
    task: str
    role: str
    slot: int
    parent: str
    node: str
    site: str
    tier: str
    live: bool
    incarnation: int
    since: int
    """View since which the task is live."""
    round: int = 0
    labels: tuple[int, ...] = ()
    """Of its durable Saves."""
    note: str = ""
    """How the task works, for a person: 'd2d: energy: …'."""
    phase: str = ""
    """Of its worker."""
    rss_bytes: float | None = None


class RoundShown(Struct, frozen=True, kw_only=True):
    """A closed round. numbers: every headline number, null where it was not evaluated, and the method's further numbers."""

    round: int
    wall_s: float
    """Since the job's start."""
    updates: int
    examples: int
    bytes: int
    """Payload of all planes since the start."""
    joules: float | None = None
    """Since the start."""
    numbers: dict[str, float | None] = {}


class JobSummary(Struct, frozen=True, kw_only=True):
    """One line about a job."""

    job: str
    name: str
    method: str
    state: str
    """One of JOB_STATES."""
    line: str
    """Where the job is and what it waits for: one sentence for a person."""
    round: int
    rounds: int
    nodes: int
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    why: str
    headline: tuple[Figure, ...] = ()


class JobStatus(JobSummary, frozen=True, kw_only=True):
    """All about a job."""

    now: float
    view: int
    user: str
    wall_s: float
    """Since started_at, until ended_at; 0 before."""
    refused: bool
    """The preflight found that the nodes cannot run the job as it is: `problems` say why."""
    problems: tuple[str, ...]
    waits: tuple[WaitShown, ...]
    watching: tuple[str, ...]
    """Online nodes that came later and have no slot: they take the next free one."""
    tasks: tuple[TaskShown, ...]
    history: tuple[RoundShown, ...]
    """The rounds after the one asked for, at most MAX_ROUNDS of them."""
    metrics: dict[str, float]
    """The last value of every number in the history; after the end also the result's."""
    bytes: SentBytes
    energy_j: Energy
    step_bytes: StepBytes | None
    """Of a training step; null where the method has no formula, or a fact of the model or the data is not known to the coordinator."""
    plan: PlanReport | None
    """Null where the costs of the method are not known."""
    budgets: tuple[BudgetUse, ...]
    buddies: dict[str, str]
    """task -> node that keeps a copy of its Saves."""
    digest: str
    """Of the weights; '' before the end."""


class Submitted(Struct, frozen=True, kw_only=True):
    job: str
    state: str
    repeated: bool
    """The token was submitted before."""


class JobList(Struct, frozen=True, kw_only=True):
    now: float
    jobs: tuple[JobSummary, ...]
    """Newest first."""


class Cancelled(Struct, frozen=True, kw_only=True):
    job: str
    state: str


class JobEvent(Struct, frozen=True, kw_only=True):
    at: float
    text: str


class JobLog(Struct, frozen=True, kw_only=True):
    now: float
    job: str
    events: tuple[JobEvent, ...]
    """Oldest first."""


class JobResult(Struct, frozen=True, kw_only=True):
    """The weights follow as a letter to `Address(user, "cloud", "cloud", "bulk~{session}")`: to = `@result`, body = msgpack
    `{job, numbers}`, one blob named `digest` (no letter where that is '')."""

    now: float
    job: str
    state: str
    numbers: dict[str, float]
    rounds: int
    digest: str
    status: JobStatus
