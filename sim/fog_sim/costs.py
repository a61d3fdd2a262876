"""How long an op takes, from the model's FLOPs: the simulator's only guess about computing. Ops themselves run for real."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from fog_learning.job import Job
from fog_learning.models.spec import ModelSpec


class Costs(Struct, frozen=True):
    """FLOPs of one job's ops. Backward counts twice the forward pass; averaging and codecs four per parameter."""

    forward: float
    """FLOPs of one example's forward pass."""
    parameters: int
    batch_size: int
    test_examples: int

    def flops(self, op: str, numbers: dict[str, float | int | str]) -> float:
        """Of one run of `op`. Ops that are not named here cost as much as touching the weights."""
        batch = self.forward * self.batch_size
        match op:
            case "train":
                return 3.0 * batch * float(numbers.get("steps", 1))
            case "evaluate":
                return self.forward * self.test_examples
            case "evaluate_local":
                return batch
            case "front_forward" | "trunk_forward" | "front_head":
                return batch
            case "front_backward" | "front_step" | "trunk_backward":
                return 2.0 * batch
            case "trunk_step":
                return 3.0 * batch
            case _:
                return 4.0 * self.parameters


def model_costs(job: Job, spec: ModelSpec, test_examples: int) -> Costs:
    return Costs(float(spec.flops), spec.parameters, job.train.batch_size, test_examples)


def torch_bench(job: Job, slots: dict[str, int], roster_size: int) -> tuple[Any, Costs]:
    """The real ops, shared by all simulated nodes, and what they cost."""
    from fog_learning.ops import Workbench

    bench = Workbench(job, slots, roster_size, device="cpu", threads=1, evaluates=True)
    return bench, model_costs(job, bench.spec, len(bench.test_rows()))


def standin_bench(job: Job, slots: dict[str, int], roster_size: int) -> tuple[Any, Costs]:
    """Exact integers in the place of tensors: for fault schedules."""
    from fog_learning.ops.standin import Workbench

    bench = Workbench(job, slots, roster_size)
    return bench, Costs(1e6, bench.size, job.train.batch_size, 100)
