"""Ops that rate a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from fog_learning.backend.torch import Numbers, Result, Rows, Workbench

BATCH: Final = 512


def evaluate(bench: Workbench, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """On the data set's test part: mean loss and accuracy (0 to 1) over `examples` rows. Blocks that `weights` lacks come from `own`."""
    return {}, rate(bench, bench.test_rows(), inputs.get("own"), inputs["weights"])


def evaluate_local(bench: Workbench, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """On the slot's held-out rows (evaluation.where: federated); examples = 0 where it has none."""
    return {}, rate(bench, bench.held_rows(bench.slot_of(task, numbers)), inputs.get("own"), inputs["weights"])


def rate(bench: Workbench, rows: Rows, *weights: Any) -> dict[str, float]:
    """weights: as in Workbench.load. The model is in evaluation mode."""
    module = bench.module().eval()
    bench.load(module, *weights)
    loss, right, count = 0.0, 0, len(rows)
    with torch.no_grad():
        for first in range(0, count, BATCH):
            x, y = rows.take(slice(first, first + BATCH))
            logits = module(x)
            loss += float(cross_entropy(logits, y, reduction="sum"))
            right += int((logits.argmax(1) == y).sum())
    return {"accuracy": right / max(1, count), "loss": loss / max(1, count), "examples": float(count)}
