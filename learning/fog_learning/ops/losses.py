"""The losses that a job may name, each with the metric that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from torch import Tensor
from torch.nn.functional import cross_entropy

Measure = Callable[[Tensor, Tensor], Tensor]
"""(outputs (B, K), targets (B,)) -> a scalar with a gradient."""


@dataclass(frozen=True, slots=True)
class Loss:
    mean: Measure
    """Mean over the B rows."""
    total: Measure
    """Sum over the B rows."""
    metric: str
    """Name of the metric."""
    score: Callable[[Tensor, Tensor], float]
    """The metric, summed over the B rows; divided by the number of rows it is the metric of a data set."""


def hits(outputs: Tensor, targets: Tensor) -> float:
    """Rows whose largest output is that of their class."""
    return int((outputs.argmax(1) == targets).sum())


LOSSES: Final = {"cross_entropy": Loss(cross_entropy, partial(cross_entropy, reduction="sum"), "accuracy", hits)}
"""By the job's key `loss`."""
