"""Demands of a method's tasks, by which placement compares nodes: FLOPs, bytes, memory. No tensors, no nodes, no clock.

A cycle repeats in training and consists of phases that follow each other. In a phase all tasks of one role compute side by side, then
send; the next phase begins when the slowest message has arrived. FLOPs follow fog_learning.models.layers: forward 1x, backward 2x.

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
"""Memory of a worker that has imported torch, without a model."""
UPDATE_FLOPS: Final = 8.0
"""FLOPs per parameter of an operation that touches the weights once (an optimiser step, a mean); bound by memory, hence more than its
arithmetic."""
BACKWARD: Final = 2.0
"""Cost of a backward pass, in forward passes."""
TRAIN: Final = 3.0
"""Cost of a training step, in forward passes."""


class Phase(Struct, frozen=True):
    """Work that all tasks of `role` do side by side."""

    role: str
    flops: float
    """FLOPs of one task."""
    ops: float = 1.0
    """Number of dispatches, each of which costs a node's overhead."""
    to: str = ""
    """Role to which the tasks send; '': nothing is sent."""
    bytes: float = 0.0
    """Bytes from or to one data task: data tasks are many, other tasks are one."""
    cast: bool = False
    """The message is published once for all receivers."""
    often: float = 1.0
    """Fraction of the cycles in which the phase happens."""


class Demands(Struct, frozen=True, kw_only=True):
    """One way to run a method."""

    title: str
    """Title for a person, e.g. 'cut after c1'."""
    settings: dict[str, Any] = {}
    """Keys of the job's `method` section that this way fixes."""
    blocks: int | None = None
    """Number of blocks of the first segment; None for a model that is not cut."""
    cycle: tuple[Phase, ...]
    steps: int = 1
    """Training steps in a cycle."""
    cycles: int = 1
    """Cycles in a round."""
    overlaps: bool = False
    """Cycles overlap, so that the slowest phase sets the pace instead of the sum of all."""
    waits_for: float = 1.0
    """Fraction of the data tasks, the fastest, for which a phase waits."""
    round: tuple[Phase, ...] = ()
    """Additional phases, once per round."""
    memory: dict[str, int] = {}
    """role -> bytes of its worker."""

    @property
    def round_steps(self) -> int:
        return self.steps * self.cycles


def value_bytes(job: JobFile) -> int:
    """Bytes of one value of the job's dtype."""
    return 8 if job.train.dtype == "float64" else 4


def worker_bytes(job: JobFile, parameters: int, activations: float, copies: float) -> int:
    """Memory of a worker in bytes: the job's own number, otherwise an estimate. copies: of all parameters; activations: values alive at once."""
    if job.resources.memory_mb is not None:
        return job.resources.memory_mb * 1_000_000
    return WORKER_BYTES + int(value_bytes(job) * (parameters * copies + activations))


def evaluation(job: JobFile, spec: ModelSpec, role: str, test_examples: int) -> tuple[Phase, ...]:
    """The phase of a central evaluation, with its average cost per round; () without one."""
    if job.evaluation.where != "central" or not test_examples:
        return ()
    return (Phase(role, float(spec.flops) * test_examples, 1 + test_examples / 512, often=1 / job.evaluation.every),)


def activations(spec: ModelSpec, first: int = 0, last: int | None = None) -> int:
    """Values that a forward pass of one example through blocks first..last-1 keeps for its backward."""
    return sum(prod(facts.output_shape) for facts in spec.facts()[first:last])
