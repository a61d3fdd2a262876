"""The backend that trains: ops on tensors, with the model and the rows of one job on one node."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from fog_common.errors import OpError
from fog_common.telemetry.speed import Speed
from fog_common.wire.messages import BlockReport, ClassSet
from fog_learning.backend.base import Numbers, Result
from fog_learning.backend.device import Device
from fog_learning.backend.models import Models
from fog_learning.backend.preflight import Findings, inspect
from fog_learning.backend.rows import Batches, FileRows
from fog_learning.backend.tensors import TensorBackend
from fog_learning.data import Dataset, load_dataset
from fog_learning.job.sections import JobFile
from fog_learning.methods import method_of
from fog_learning.ops import OPS
from fog_learning.ops.losses import LOSSES
from fog_learning.ops.values import Weights, decode, encode

Operation = Callable[[TensorBackend, str, dict[str, Any], Numbers], Result]


class TorchBackend:
    """slots: task -> slot of the tasks here that own data; roster_size: slots of the whole job. paths: the agent's `datasets:`; weights:
    its `weights:`. allow_models: factories and modules that `model.import` may name here. device, threads: None = as the job says.
    evaluates: the job's central evaluation happens here (None: if no task here owns data). read: a data set by (name, paths, env).
    Everything is a function of (job, seed, slot, step): equal on every run with one thread count on one kind of processor.
    """

    def __init__(
        self,
        job: JobFile,
        slots: Mapping[str, int],
        roster_size: int,
        paths: Mapping[str, str] | None = None,
        *,
        weights: Mapping[str, str] | None = None,
        allow_models: Sequence[str] = (),
        device: str | None = None,
        threads: int | None = None,
        env: Mapping[str, str] | None = None,
        evaluates: bool | None = None,
        read: Callable[[str, Mapping[str, str], Mapping[str, str]], Dataset] = load_dataset,
    ) -> None:
        torch.set_num_threads(threads or job.resources.threads)
        environment = os.environ if env is None else env
        self.job, self.slots, self.roster_size = job, dict(slots), roster_size
        self.loss = LOSSES[job.loss]
        self._evaluates = evaluates
        self._device = Device(job, device or "")
        self.rows = FileRows(
            job,
            roster_size,
            self._device,
            lambda: read(job.data.name, paths or {}, environment).limited(job.data.train_limit, job.data.test_limit, job.seed),
        )
        self.batches = Batches(job, self._device, self.rows)
        self.models = Models(job, self._device, self.rows.shape, allow_models, weights, environment)
        self._found = Findings()
        self._ops = {**OPS, **{row.name: row for row in method_of(job).ops}}

    # -- Backend ---------------------------------------------------------------------------

    @property
    def classes(self) -> ClassSet | None:
        return self._found.classes

    @property
    def blocks(self) -> tuple[BlockReport, ...]:
        return self._found.blocks

    @property
    def weights(self) -> str:
        return self.models.digest

    def preflight(self) -> list[str]:
        self._found = inspect(self, self._device, self.slots.values(), self._evaluates)
        return self._found.problems

    def speed(self) -> Speed:
        from fog_learning.backend.speed import measure

        return measure()

    def assign(self, slots: Mapping[str, int], roster_size: int) -> None:
        """Rows of slots that left are dropped."""
        if roster_size != self.roster_size:
            self.batches.forget()
        self.slots, self.roster_size = dict(slots), roster_size
        self.rows.assign(self.slots.values(), roster_size)

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
        """An op of the table fog_learning.ops.OPS, or of the job's method."""
        row = self._ops.get(op)
        if row is None:
            raise OpError(f"there is no op {op!r}; known: {', '.join(self._ops)}")
        module, _, function = row.function.partition(":")
        operation: Operation = getattr(import_module(module), function)
        return operation(self, task, dict(inputs), dict(numbers))

    def encode(self, value: Weights) -> bytearray:
        return encode(value)

    def decode(self, content: bytes | bytearray | memoryview) -> Weights:
        return decode(content)

    # -- TensorBackend, beside models, rows, batches and loss ------------------------------

    @property
    def device(self) -> torch.device:
        return self._device.place

    @property
    def dtype(self) -> torch.dtype:
        return self._device.dtype

    def slot_of(self, task: str, numbers: Numbers) -> int:
        slot = int(numbers.get("slot", self.slots.get(task, -1)))
        if slot < 0:
            raise OpError(f"task {task} owns no data slot; its machine must say `slot`")
        return slot
