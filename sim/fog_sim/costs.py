"""How long an op takes, from the model's FLOPs: the simulator's only guess about computing. Ops themselves run for real."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from fog_learning.backend.base import Backend
from fog_learning.job.sections import Job
from fog_learning.models.spec import ModelSpec


class Costs(Struct, frozen=True):
    """FLOPs of one job's ops. Backward counts twice the forward pass; what touches the weights once, 8 per parameter (they pass
    through memory). Of a cut model each side pays for its own blocks, the trunk for the rows of all fronts."""

    forward: float
    """FLOPs of one example's forward pass."""
    parameters: int
    batch_size: int
    test_examples: int
    front: float = 0.0
    """Of `forward`: the blocks on the nodes; tail: those behind the trunk."""
    tail: float = 0.0
    slots: int = 1

    def flops(self, op: str, numbers: dict[str, float | int | str]) -> float:
        """Of one run of `op`. Ops that are not named here cost as much as touching the weights."""
        batch = self.forward * self.batch_size
        front, tail = self.front * self.batch_size, self.tail * self.batch_size
        trunk = (self.forward - self.front - self.tail) * self.batch_size * self.slots
        match op:
            case "train":
                return 3.0 * batch * float(numbers.get("steps", 1))
            case "evaluate":
                return self.forward * self.test_examples
            case "evaluate_local":
                return batch
            case "train_union":
                return 3.0 * batch * self.slots * float(numbers.get("steps", 1))
            case "front_forward":
                return front
            case "front_head":
                return 3.0 * tail
            case "front_backward" | "front_step":
                return 2.0 * front
            case "trunk_forward":
                return trunk
            case "trunk_backward":
                return 2.0 * trunk
            case "trunk_step":
                return 3.0 * trunk
            case _:
                return 8.0 * self.parameters


def model_costs(job: Job, spec: ModelSpec, test_examples: int, slots: int = 1) -> Costs:
    front, tail = _cut(job, spec)
    return Costs(float(spec.flops), spec.parameters, job.train.batch_size, test_examples, front, tail, slots)


def _cut(job: Job, spec: ModelSpec) -> tuple[float, float]:
    """FLOPs of the blocks on the nodes: before the trunk, behind it."""
    from fog_learning.methods import resolve_method
    from fog_learning.methods.fcddt.messages import Plan, cut_at

    _, plan = resolve_method(job)
    if not isinstance(plan, Plan) or not spec.blocks:
        return 0.0, 0.0
    first, end = cut_at(plan, spec.block_names)
    flops = [block.flops for block in spec.facts()]
    return float(sum(flops[:first])), float(sum(flops[end:]))


OpenBackend = Callable[[Job, dict[str, int], int], tuple[Backend, Costs]]
"""(job, slots by task, slots of the whole job) -> the backend that all nodes of a simulated job share, and what its ops cost."""


def torch_backend(job: Job, slots: dict[str, int], roster_size: int) -> tuple[Backend, Costs]:
    """The real ops, shared by all simulated nodes, and what they cost."""
    from fog_sim.exact import ExactBackend

    backend = ExactBackend(job, slots, roster_size, device="cpu", threads=1, evaluates=True)
    return backend, model_costs(job, backend.models.spec, len(backend.rows.test()), roster_size)


def standin_backend(job: Job, slots: dict[str, int], roster_size: int) -> tuple[Backend, Costs]:
    """Exact integers in the place of tensors: for fault schedules."""
    from fog_learning.backend.standin import StandinBackend

    backend = StandinBackend(job, slots, roster_size)
    return backend, Costs(1e6, backend.size, job.train.batch_size, 100)


def plain_backend(job: Job, slots: dict[str, int], roster_size: int) -> tuple[Backend, Costs]:
    """The names of the trained slots in the place of tensors: the weights at the end say whose training is in them."""
    from fog_learning.backend.plain import PlainBackend

    return PlainBackend(job, slots, roster_size), Costs(1e6, 256, job.train.batch_size, 100)
