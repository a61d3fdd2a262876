"""Training rows: where they come from (RowSource), and the batches that a step takes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fog_common.errors import OpError
from fog_learning.backend.device import Device
from fog_learning.data import Dataset, partition
from fog_learning.data.streams import stream
from fog_learning.job.sections import JobFile
from fog_learning.models.layers import Shape

Index = np.ndarray[Any, Any]
"""Numbers of rows."""


@dataclass(slots=True)
class Examples:
    """Rows on the device, as stored; scaled when a batch is taken."""

    x: Tensor
    y: Tensor
    shift: Tensor
    divide: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Any) -> tuple[Tensor, Tensor]:
        """(x, y) of these rows: x (B, *input_shape) in the job's dtype, y (B,) int64."""
        x = self.x[index].to(self.shift.dtype)  # of a slice of such numbers that is a view: the rows themselves must stay as they are
        return x.sub(self.shift).div_(self.divide), self.y[index]


class RowSource(Protocol):
    """Where the training rows of slots come from."""

    def train(self, slot: int) -> Examples:
        """The slot's training rows, on the device."""
        ...


class SentRows:
    """Rows that other nodes sent, by slot. OpError for a label that the model has no output for."""

    def __init__(self, sent: Mapping[int, Mapping[str, Tensor]], device: torch.device, classes: int) -> None:
        self._rows: dict[int, Examples] = {}
        for slot, value in sent.items():
            x, y, shift, divide = (value[name].to(device) for name in ("x", "y", "shift", "divide"))
            if len(y) and int(y.max()) >= classes:
                raise OpError(f"slot {slot} sent label {int(y.max())}, the model has {classes} outputs")
            self._rows[slot] = Examples(x, y.to(torch.int64), shift, divide)

    def train(self, slot: int) -> Examples:
        return self._rows[slot]


class FileRows:
    """Rows of the data set that this node has, divided over the slots of the roster. read: the data set, as the job limits it.

    A node keeps the rows of its own slots; the rest of the data set is let go.
    """

    def __init__(self, job: JobFile, roster_size: int, device: Device, read: Callable[[], Dataset]) -> None:
        self._job, self._roster_size, self._device, self._read = job, roster_size, device, read
        self._dataset: Dataset | None = None
        self._shape: tuple[Shape, int] | None = None
        self._parts: list[Index] | None = None
        self._rows: dict[tuple[str, int], Examples] = {}

    def train(self, slot: int) -> Examples:
        return self._part("train", slot)

    def held(self, slot: int) -> Examples:
        """The slot's held-out part; empty unless the job evaluates on the nodes."""
        return self._part("held", slot)

    def test(self) -> Examples:
        """The data set's test part."""
        return self._part("test", -1)

    def dataset(self) -> Dataset:
        """The whole data set, until `keep`. DataError if this node does not have it."""
        if self._dataset is None:
            self._dataset = self._read()
            self._shape = (self._dataset.input_shape, self._dataset.classes)
        return self._dataset

    def shape(self) -> tuple[Shape, int]:
        """(input shape, classes) of the data set. DataError if this node does not have it."""
        return self._shape or (self.dataset().input_shape, self.dataset().classes)

    def assign(self, slots: Collection[int], roster_size: int) -> None:
        """Drop rows of other slots; of all slots if the roster has another size."""
        if roster_size != self._roster_size:
            self._roster_size, self._parts = roster_size, None
            slots = ()
        self._rows = {key: rows for key, rows in self._rows.items() if key[1] in {-1, *slots}}

    def keep(self, slots: Collection[int], test: bool) -> None:
        """Rows of these slots, and of the test part; then the data set is let go."""
        dataset = self.dataset()
        if slots and self._parts is None and not self._job.data.local:
            self._parts = partition(dataset.train_y, max(1, self._roster_size), self._job.data.partition, self._job.seed)
        for slot in sorted(slots):
            train, held = self._split(slot, dataset)
            self._rows["train", slot] = self._to_device(dataset, dataset.train_x[train], dataset.train_y[train])
            self._rows["held", slot] = self._to_device(dataset, dataset.train_x[held], dataset.train_y[held])
        if test:
            self._rows["test", -1] = self._to_device(dataset, dataset.test_x, dataset.test_y)
        self._dataset = None

    def _part(self, part: str, slot: int) -> Examples:
        if (part, slot) not in self._rows:
            self.keep({slot} if slot >= 0 else set(), test=part == "test")
        return self._rows[part, slot]

    def _split(self, slot: int, dataset: Dataset) -> tuple[Index, Index]:
        """(training rows, held-out rows) of a slot; at least one row trains."""
        if self._job.data.local:
            rows = np.arange(len(dataset.train_y))
        else:
            assert self._parts is not None
            if slot >= len(self._parts):
                raise OpError(f"slot {slot} is not in the job's roster of {len(self._parts)}")
            rows = self._parts[slot]
        if self._job.evaluation.where != "federated":
            return rows, rows[:0]
        held = min(len(rows) - 1, max(1, round(self._job.evaluation.holdout * len(rows))))
        shuffled = stream("holdout", self._job.seed, slot).permutation(rows)
        return np.sort(shuffled[held:]), np.sort(shuffled[:held])

    def _to_device(self, dataset: Dataset, x: Index, y: Index) -> Examples:
        shape, device = (-1, *(1,) * (x.ndim - 2)), self._device
        shift, divide = (
            torch.tensor(values, dtype=device.dtype, device=device.place).reshape(shape) for values in (dataset.scale.shift, dataset.scale.divide)
        )
        inputs, labels = (torch.from_numpy(part if part.flags.writeable else part.copy()).to(device.place) for part in (x, y))
        return Examples(inputs, labels, shift, divide)


class Batches:
    """Batches of a job: a function of (seed, slot, step). source: where rows come from if a call names no other."""

    def __init__(self, job: JobFile, device: Device, source: RowSource) -> None:
        self._job, self._device, self._source = job, device, source
        self._orders: dict[tuple[int, int], Index] = {}

    def at(self, slot: int, step: int, source: RowSource | None = None) -> tuple[Tensor, Tensor]:
        """The slot's batch at `step` (0, 1, 2 …): x (B, *input_shape), y (B,).

        The rows are shuffled anew for each pass, and the passes are read as one stream: all batches are of one size,
        min(batch_size, rows), and every row comes once per pass.
        """
        rows = (source or self._source).train(slot)
        count = len(rows)
        size = min(self._job.train.batch_size, count)
        first, chosen = step * size, []
        while size:
            epoch, at = divmod(first, count)
            chosen.append(self._order(slot, epoch, count)[at : at + size])
            first, size = first + len(chosen[-1]), size - len(chosen[-1])
        return rows.take(torch.from_numpy(np.concatenate(chosen)).to(self._device.place))

    def forget(self) -> None:
        """The slots have other rows."""
        self._orders.clear()

    def _order(self, slot: int, epoch: int, count: int) -> Index:
        if (slot, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != slot or key[1] == epoch - 1}
            self._orders[slot, epoch] = stream("batches", self._job.seed, slot, epoch).permutation(count)
        return self._orders[slot, epoch]
