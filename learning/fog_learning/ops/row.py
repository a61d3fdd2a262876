"""The row of an op: everything that the system knows of an op before it runs. Importing a row imports no torch.

A row names its function; the simulator and placement read its FLOPs, the worker its training steps, the metrics its family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

Numbers = Mapping[str, float | int | str]
"""Numbers and names that a machine gives to a Run."""

TOUCH_FLOPS: Final = 8.0
"""Per parameter, for an op that passes the weights through memory once."""


class Work(Struct, frozen=True):
    """Facts of one job that the FLOPs of its ops depend on."""

    forward: float
    """FLOPs of one example's forward pass."""
    parameters: int
    batch_size: int
    test_examples: int
    slots: int = 1
    """Data slots of the job's roster."""
    segments: tuple[float, ...] = ()
    """FLOPs of one example's forward pass through each segment of a cut model, from the input up; () for a whole model."""

    def segment(self, index: int) -> float:
        """FLOPs of one batch through a segment; 0.0 for a segment that the model does not have."""
        return self.segments[index] * self.batch_size if index < len(self.segments) else 0.0

    @property
    def batch(self) -> float:
        """FLOPs of one batch's forward pass."""
        return self.forward * self.batch_size


def touch(work: Work, numbers: Numbers) -> float:
    """FLOPs of an op that touches every weight once."""
    return TOUCH_FLOPS * work.parameters


def no_step(numbers: Numbers) -> float:
    return 0.0


def one_step(numbers: Numbers) -> float:
    """An op of a cut model is a part of one training step."""
    return 1.0


def counted_steps(numbers: Numbers) -> float:
    """Training steps by the number `steps`; 1 without it."""
    return float(numbers.get("steps", 1))


class Op(Struct, frozen=True, kw_only=True):
    """One op. Names of inputs, numbers and outputs: '?' ends a name that may be absent, 'x0…' stands for x0, x1 and so on."""

    name: str
    function: str
    """'package.module:function' with the signature (backend, task, inputs, numbers) -> (outputs, numbers)."""
    family: str
    """Label `op` of the metrics."""
    inputs: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    """Numbers that come back."""
    consumes: tuple[str, ...] = ()
    """Inputs whose old value is gone afterwards."""
    flops: Callable[[Work, Numbers], float] = touch
    """FLOPs of one run."""
    steps: Callable[[Numbers], float] = no_step
    """Training steps of one run; 0 for an op that does not train."""
