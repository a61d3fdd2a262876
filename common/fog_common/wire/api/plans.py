"""Replies about plans: where placement puts tasks, what a training step is predicted to cost, and what it was measured to cost."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class PlanPart(Struct, frozen=True, kw_only=True):
    what: str
    seconds: float


class PlanShown(Struct, frozen=True, kw_only=True):
    """Of one training step, with its share of what a round costs besides. All figures are modelled."""

    title: str
    settings: dict[str, Any]
    """Keys of the `method` section that placement fixed."""
    places: dict[str, str]
    """role -> node."""
    step_s: float
    step_bytes: float
    step_joules: float
    round_steps: float
    total_s: float
    """Of all rounds."""
    value: float
    """The objective's, in its own unit."""
    parts: tuple[PlanPart, ...]
    guessed: tuple[str, ...]
    """Figures of nodes that nobody has measured yet."""
    assumed: tuple[str, ...]
    """Watts and joules per byte that nobody has configured."""
    source: str = "modelled"


class Measured(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one training step, over the closed rounds but the first."""

    step_s: float
    steps: float
    step_bytes: float | None = None
    step_joules: float | None = None


class PlanReport(Struct, frozen=True, kw_only=True):
    predicted: PlanShown
    runner_up: PlanShown | None
    measured: Measured | None
    """Null before two rounds are closed."""
    error: float | None
    """(predicted - measured step_s) / measured."""


class StepBytes(Struct, frozen=True, kw_only=True):
    """Bytes of a training step. measured, tensors and error are null until the job is finished."""

    steps: float
    formula: float
    """Tensors alone, as built."""
    paper: float
    """As the paper counts."""
    measured: float | None = None
    """With headers, acknowledgements and copies of Saves."""
    tensors: float | None = None
    """Of what was measured, the tensors alone."""
    error: float | None = None
    """(measured - formula) / formula."""


class PlannedTask(Struct, frozen=True, kw_only=True):
    task: str
    role: str
    node: str
    tier: str
    site: str


class DryRun(Struct, frozen=True, kw_only=True):
    """The plan that the coordinator would choose for a job now. choice is null where the costs of the method are not known: `note` says so."""

    now: float
    name: str
    method: str
    objective: str
    automatic: bool
    rounds: int
    tasks: tuple[PlannedTask, ...]
    choice: PlanShown | None
    runner_up: PlanShown | None
    waits_for: tuple[str, ...]
    """Jobs."""
    unknown: tuple[str, ...]
    """Nodes never seen."""
    note: str
