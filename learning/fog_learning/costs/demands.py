"""What a method's tasks need, step by step, so that they can be placed: FLOPs, bytes, memory. No tensors, no nodes, no clock.

A cycle is what repeats in training: phases that follow each other. In a phase all tasks of one role compute side by side, then send;
the next phase begins when the slowest has arrived. FLOPs are those of fog_learning.models.layers: forward 1x, backward 2x.

    fcddt, cut after c1:  front  forward   -> trunk  activations
                          trunk  3x        -> front  gradients of the cut
                          front  backward  -> trunk  gradients of its weights
                          trunk  update    => front  weights, cast
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

from msgspec import Struct

from fog_learning.job.sections import JobFile
from fog_learning.models import ModelSpec

WORKER_BYTES: Final = 250_000_000
"""A worker that has imported torch, before it has a model."""
UPDATE_FLOPS: Final = 8.0
"""Per parameter, for what touches the weights once: an optimiser step, a mean. Bound by memory, so more than its arithmetic."""
BACKWARD: Final = 2.0
TRAIN: Final = 3.0
"""A training step in forward passes."""


class Phase(Struct, frozen=True):
    """All tasks of `role` do this side by side."""

    role: str
    flops: float
    """Of one task."""
    ops: float = 1.0
    """Dispatches, each of which costs a node's overhead."""
    to: str = ""
    """Role that it sends to; '': nothing is sent."""
    bytes: float = 0.0
    """From or to one data task: the tasks that own data are many, the others are one."""
    cast: bool = False
    """Published once for all receivers."""
    often: float = 1.0
    """Fraction of the cycles in which this happens."""


class Demands(Struct, frozen=True, kw_only=True):
    """One way to run a method."""

    title: str
    """For a person: 'cut after c1'."""
    settings: dict[str, Any] = {}
    """Keys of the job's `method` section that this way fixes."""
    blocks: int | None = None
    """Of a chain: how many blocks the first segment has."""
    cycle: tuple[Phase, ...]
    steps: int = 1
    """Training steps in a cycle."""
    cycles: int = 1
    """In a round."""
    overlaps: bool = False
    """Cycles overlap: the slowest phase sets the pace, not the sum of all."""
    waits_for: float = 1.0
    """Fraction of the data tasks, the fastest, that a phase waits for."""
    round: tuple[Phase, ...] = ()
    """Once per round besides."""
    memory: dict[str, int] = {}
    """role -> bytes of its worker."""

    @property
    def round_steps(self) -> int:
        return self.steps * self.cycles


def value_bytes(job: JobFile) -> int:
    return 8 if job.train.dtype == "float64" else 4


def worker_bytes(job: JobFile, parameters: int, activations: float, copies: float) -> int:
    """Of a worker with so many values; what the job says counts before any estimate. activations: values alive at once."""
    if job.resources.memory_mb is not None:
        return job.resources.memory_mb * 1_000_000
    return WORKER_BYTES + int(value_bytes(job) * (parameters * copies + activations))


def evaluation(job: JobFile, spec: ModelSpec, role: str, test_examples: int) -> tuple[Phase, ...]:
    """What a central evaluation costs a round, on average."""
    if job.evaluation.where != "central" or not test_examples:
        return ()
    return (Phase(role, float(spec.flops) * test_examples, 1 + test_examples / 512, often=1 / job.evaluation.every),)


def activations(spec: ModelSpec, first: int = 0, last: int | None = None) -> int:
    """Values that a forward pass of one example keeps for its backward."""
    return sum(prod(facts.output_shape) for facts in spec.facts()[first:last])
