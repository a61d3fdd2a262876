"""FLOPs of ops, from which the simulator derives their durations. Ops themselves run for real."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from fog_learning.backend.base import Backend
from fog_learning.job.sections import JobFile
from fog_learning.methods import method_of, resolve_method
from fog_learning.methods.base import Method
from fog_learning.models.spec import ModelSpec
from fog_learning.ops.row import Work


class Costs(Struct, frozen=True):
    """FLOPs of one job's ops."""

    method: Method
    work: Work

    def flops(self, op: str, numbers: Mapping[str, float | int | str]) -> float:
        """FLOPs of one run of an op. KeyError for an op that the method does not name."""
        return self.method.op(op).flops(self.work, numbers)


def model_costs(job: JobFile, spec: ModelSpec, test_examples: int, slots: int = 1) -> Costs:
    """Costs of a job with this model. slots: of the whole job."""
    method, plan = resolve_method(job)
    segments = method.segments.flops(plan, spec) if method.segments is not None else ()
    return Costs(method, Work(float(spec.flops), spec.parameters, job.train.batch_size, test_examples, slots, segments))


def nominal_costs(job: JobFile, values: int) -> Costs:
    """Costs of a job without tensors. values: number of values of its model."""
    return Costs(method_of(job), Work(1e6, values, job.train.batch_size, 100))


OpenBackend = Callable[[JobFile, dict[str, int], int], tuple[Backend, Costs]]
"""(job, slots by task, slots of the whole job) -> the backend that all nodes of a simulated job share, and the costs of its ops."""


def torch_backend(job: JobFile, slots: dict[str, int], roster_size: int) -> tuple[Backend, Costs]:
    """The real ops and their costs."""
    from fog_sim.exact import ExactBackend

    backend = ExactBackend(job, slots, roster_size, device="cpu", threads=1, evaluates=True)
    return backend, model_costs(job, backend.models.spec, len(backend.rows.test()), roster_size)


def standin_backend(job: JobFile, slots: dict[str, int], roster_size: int) -> tuple[Backend, Costs]:
    """Ops on exact integers instead of tensors, for fault schedules."""
    from fog_learning.backend.standin import StandinBackend

    backend = StandinBackend(job, slots, roster_size)
    return backend, nominal_costs(job, backend.size)


def plain_backend(job: JobFile, slots: dict[str, int], roster_size: int) -> tuple[Backend, Costs]:
    """Ops on shares of slots instead of tensors, so that the final weights tell the slots in them."""
    from fog_learning.backend.plain import PlainBackend

    return PlainBackend(job, slots, roster_size), nominal_costs(job, 256)
