"""Layers as plain data: output shape, parameters, and FLOPs of a forward pass. Torch-free.

Shapes have no batch axis: (features,), (channels, length) or (channels, height, width). Each layer has three methods:
output(shape) raises ConfigError for an input that does not fit; parameters(shape) maps names to shapes; flops(shape) counts
one example. FLOPs follow torch's FlopCounterMode: a multiply-add is two, only convolutions and linear layers count; bias,
activations, pooling and normalisation are free, because memory and not arithmetic bounds them.
"""

from __future__ import annotations

from math import prod

from msgspec import Struct

from fog_common.errors import ConfigError

Shape = tuple[int, ...]


class Linear(Struct, frozen=True, tag="linear"):
    name: str
    features: int
    init: str = "fan_in"
    """fan_in: U(±1/√fan_in), as in PyTorch; he: U(±√(6/fan_in)), bias 0, for deep stacks of ReLU layers."""

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ConfigError(f"a linear layer needs a flat input, not shape {shape}")
        return (self.features,)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.features, shape[0]), "bias": (self.features,)}

    def flops(self, shape: Shape) -> int:
        return 2 * shape[0] * self.features


class Conv(Struct, frozen=True, tag="conv"):
    """Two-dimensional convolution, square kernel."""

    name: str
    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    init: str = "fan_in"

    def output(self, shape: Shape) -> Shape:
        return (self.channels, *_window(shape, self.kernel, self.stride, self.padding, f"a {self.kernel}x{self.kernel} convolution"))

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.channels, shape[0], self.kernel, self.kernel), "bias": (self.channels,)}

    def flops(self, shape: Shape) -> int:
        return 2 * shape[0] * self.kernel**2 * prod(self.output(shape))


class MaxPool(Struct, frozen=True, tag="max_pool"):
    name: str
    kernel: int

    def output(self, shape: Shape) -> Shape:
        return (shape[0], *_window(shape, self.kernel, self.kernel, 0, f"{self.kernel}x{self.kernel} pooling"))

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def flops(self, shape: Shape) -> int:
        return 0


class GroupNorm(Struct, frozen=True, tag="group_norm"):
    """Group normalisation of each example by itself, so that averaging models and dividing batches stay exact, unlike with BatchNorm."""

    name: str
    groups: int

    def output(self, shape: Shape) -> Shape:
        if shape[0] % self.groups:
            raise ConfigError(f"{shape[0]} channels cannot be divided into {self.groups} groups")
        return shape

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (shape[0],), "bias": (shape[0],)}

    def flops(self, shape: Shape) -> int:
        return 0


class Relu(Struct, frozen=True, tag="relu"):
    name: str = "relu"

    def output(self, shape: Shape) -> Shape:
        return shape

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def flops(self, shape: Shape) -> int:
        return 0


class Flatten(Struct, frozen=True, tag="flatten"):
    name: str = "flatten"

    def output(self, shape: Shape) -> Shape:
        return (prod(shape),)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def flops(self, shape: Shape) -> int:
        return 0


Layer = Linear | Conv | MaxPool | GroupNorm | Relu | Flatten


def _window(shape: Shape, kernel: int, stride: int, padding: int, what: str) -> Shape:
    if len(shape) != 3:
        raise ConfigError(f"{what} needs images (channels, height, width), not shape {shape}")
    _, height, width = shape
    if min(height, width) + 2 * padding < kernel:
        raise ConfigError(f"{what} does not fit into {height}x{width} pixels")
    return (height + 2 * padding - kernel) // stride + 1, (width + 2 * padding - kernel) // stride + 1
