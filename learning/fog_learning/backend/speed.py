"""The speed of a worker on this node, measured with the standard op.

The standard op is a training step of the zoo's `cnn` on 28x28 images (forward, backward; float32, the worker's threads):
nodes train small convolutions, on which they are far slower than their peak on large matrices. Timed with a
batch of 32, which gives FLOP/s, and of 1, which gives the overhead that every op has.
"""

from __future__ import annotations

import time
from typing import Final

import torch
from torch.nn.functional import cross_entropy

from fog_common.telemetry.speed import Speed
from fog_learning.models import resolve_model
from fog_learning.models.build import build

BATCH: Final = 32
BUDGET_S: Final = 0.05
LEAST: Final = 4
"""Steps that are timed of each size."""
LEAST_OP_S: Final = 1e-4
TRAIN: Final = 3
"""A training step in forward passes."""


def measure(budget_s: float = BUDGET_S) -> Speed:
    """Of the fastest of several steps, within about budget_s: load by other processes at this moment says little about later."""
    spec = resolve_model({"name": "cnn"}, (1, 28, 28), 10)
    module = build(spec)
    parameters = list(module.parameters())

    def seconds(batch: int, budget_s: float) -> float:
        x, y = torch.zeros(batch, *spec.input_shape), torch.zeros(batch, dtype=torch.int64)
        times: list[float] = []
        until = time.perf_counter() + budget_s
        while len(times) < LEAST or time.perf_counter() < until:
            began = time.perf_counter()
            torch.autograd.grad(cross_entropy(module(x), y), parameters)
            times.append(time.perf_counter() - began)
        return min(times)

    large, small = seconds(BATCH, 0.7 * budget_s), seconds(1, 0.3 * budget_s)
    return Speed(TRAIN * spec.flops * BATCH / large, max(small - large / BATCH, LEAST_OP_S))
