"""How long an op takes and what it consumes, from the model's FLOPs: the simulator's only guess about computing."""

from __future__ import annotations

from msgspec import Struct

from fog_learning.job import Job
from fog_learning.models import resolve_model


class Costs(Struct, frozen=True):
    """FLOPs of one job's ops. Backward counts twice the forward pass; elementwise work on weights two per parameter."""

    forward: float
    """FLOPs of one example's forward pass."""
    parameters: int
    batch_size: int
    test_examples: int

    def flops(self, op: str, numbers: dict[str, float | int | str]) -> float:
        """Of one run of `op`. Unknown ops cost as much as touching the weights twice."""
        if op == "train":
            steps = float(numbers.get("steps", 1))
            return 3.0 * self.forward * self.batch_size * steps
        if op in {"evaluate", "evaluate_local"}:
            return self.forward * self.test_examples
        if op in {"forward_front", "backward_front", "trunk_step"}:
            return (1.0 if op == "forward_front" else 2.0) * self.forward * self.batch_size
        return 4.0 * self.parameters


def costs_of(job: Job, input_shape: tuple[int, ...], classes: int, test_examples: int) -> Costs:
    spec = resolve_model(job.model, input_shape, classes)
    return Costs(float(spec.flops), spec.parameters, job.train.batch_size, test_examples)
