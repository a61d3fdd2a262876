"""Ops that rate a model."""

from __future__ import annotations

from typing import Any, Final

import torch

from fog_learning.backend.base import Numbers, Result
from fog_learning.backend.rows import Examples
from fog_learning.backend.tensors import TensorBackend

BATCH: Final = 512


def evaluate(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """On the data set's test part: mean loss, and the metric of the job's loss (accuracy: 0 to 1), over `examples` rows. Blocks that `weights` lacks come from `own`."""
    return {}, rate(backend, backend.rows.test(), inputs.get("own"), inputs["weights"])


def evaluate_local(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """On the slot's held-out rows (evaluation.where: federated); examples = 0 where it has none."""
    return {}, rate(backend, backend.rows.held(backend.slot_of(task, numbers)), inputs.get("own"), inputs["weights"])


def rate(backend: TensorBackend, rows: Examples, *weights: Any) -> dict[str, float]:
    """weights: as in Models.load. The model is in evaluation mode."""
    module = backend.models.module().eval()
    backend.models.load(module, *weights)
    loss, score, count = 0.0, 0.0, len(rows)
    with torch.no_grad():
        for first in range(0, count, BATCH):
            x, y = rows.take(slice(first, first + BATCH))
            outputs = module(x)
            loss += float(backend.loss.total(outputs, y))
            score += backend.loss.score(outputs, y)
    return {backend.loss.metric: score / max(1, count), "loss": loss / max(1, count), "examples": float(count)}
