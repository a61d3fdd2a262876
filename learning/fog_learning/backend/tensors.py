"""The backend, as an op may use it."""

from __future__ import annotations

from typing import Protocol

import torch

from fog_learning.backend.base import Backend, Numbers
from fog_learning.backend.models import Models
from fog_learning.backend.rows import Batches, FileRows
from fog_learning.job.sections import JobFile
from fog_learning.ops.losses import Loss


class TensorBackend(Backend, Protocol):
    """A backend whose values are fog_learning.ops.values.Weights, in CPU memory whatever the device is."""

    @property
    def job(self) -> JobFile: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def models(self) -> Models: ...

    @property
    def rows(self) -> FileRows: ...

    @property
    def batches(self) -> Batches: ...

    @property
    def loss(self) -> Loss:
        """The job's `loss`, with the metric that goes with it."""
        ...

    def slot_of(self, task: str, numbers: Numbers) -> int:
        """The data slot of a task. OpError if it owns none."""
        ...
