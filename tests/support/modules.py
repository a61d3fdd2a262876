"""Modules such as users write them, good and bad: what `model: {import: …}` may name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Functions between the layers, a skip connection inside, its children not in the order of their use."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 6) -> None:
        super().__init__()
        pixels = (input_shape[1] // 2) * (input_shape[2] // 2)
        self.head = nn.Linear(16, classes)
        self.stem = nn.Conv2d(input_shape[0], width, 3, padding=1)
        self.deep = nn.Conv2d(width, width, 3, padding=1)
        self.body = nn.Sequential(nn.Linear(width * pixels, 24), nn.ReLU(), nn.Linear(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.max_pool2d(x + F.relu(self.deep(x)), 2).flatten(1)
        return self.head(F.relu(self.body(x)))


class Wrapped(nn.Module):
    """All of it in one child."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        size = int(torch.Size(input_shape).numel())
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(size, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _Flat(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(int(torch.Size(input_shape).numel()), 12)
        self.second = nn.Linear(12, 12)
        self.third = nn.Linear(12, classes)


class Branching(_Flat):
    """Control flow that depends on data."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        if x.sum() > 0:
            x = 2 * x
        return self.third(self.second(x))


class Skipping(_Flat):
    """A tensor goes past `second`, so that two cross the cut before `third`."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        y = F.relu(self.second(x))
        return self.third(y) + x.sum(1, keepdim=True)


class Baked(_Flat):
    """The size of the batch is written into forward."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.reshape(x.shape[0], -1))
        return self.third(self.second(x).reshape(int(str(len(x))), 12) if len(x) != 3 else self.second(x)[:2])


class Repeating(_Flat):
    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.second(self.first(x.flatten(1)))))


class Tied(_Flat):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.third = nn.Linear(12, 12)
        self.third.weight = self.second.weight
        self.out = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.third(self.second(self.first(x.flatten(1)))))


class Unused(_Flat):
    def forward(self, x: Tensor) -> Any:
        return self.first(x.flatten(1))[:, :4]


class Normalised(_Flat):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.norm(self.first(x.flatten(1)))))


class Dropping(_Flat):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.drop(F.relu(self.second(F.relu(self.first(x.flatten(1)))))))
