"""The models of foglearn, each a function (parameters, input shape, classes) -> ModelSpec."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from fog_common.errors import ConfigError
from fog_learning.models.layers import Conv, Flatten, GroupNorm, Layer, Linear, MaxPool, Relu, Shape
from fog_learning.models.spec import Block, ModelSpec


class NoParameters(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class MlpParameters(Struct, frozen=True, forbid_unknown_fields=True):
    hidden: tuple[int, ...] = (64,)
    """Width of each hidden layer; empty: logistic regression."""

    def __post_init__(self) -> None:
        _positive("model.hidden", *self.hidden)


def mlp(parameters: Any, input_shape: Shape, classes: int) -> ModelSpec:
    """A fully connected model. Blocks fc1 .. fcN (linear, relu), head."""
    blocks = [Block(f"fc{i}", (Linear("linear", width), Relu())) for i, width in enumerate(parameters.hidden, 1)]
    blocks.append(Block("head", (Linear("linear", classes),)))
    blocks[0] = Block(blocks[0].name, (Flatten(), *blocks[0].layers))
    return ModelSpec("mlp", input_shape, classes, tuple(blocks))


class CnnParameters(Struct, frozen=True, forbid_unknown_fields=True):
    channels: tuple[int, int] = (16, 32)
    kernel: int = 3
    hidden: int = 64

    def __post_init__(self) -> None:
        _positive("model.channels", *self.channels)
        _positive("model.hidden", self.hidden)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"model.kernel must be odd and at least 1 (the size of the image is kept), got {self.kernel}")


def cnn(parameters: Any, input_shape: Shape, classes: int) -> ModelSpec:
    """Two convolutions with pooling, two fully connected layers. Blocks c1 c2 f1 head; for images of at least 4x4 pixels."""
    conv = [
        Block(f"c{i}", (Conv("conv", width, parameters.kernel, padding=parameters.kernel // 2), Relu(), MaxPool("pool", 2)))
        for i, width in enumerate(parameters.channels, 1)
    ]
    f1 = Block("f1", (Flatten(), Linear("linear", parameters.hidden), Relu()))
    return ModelSpec("cnn", input_shape, classes, (*conv, f1, Block("head", (Linear("linear", classes),))))


def lenet5(parameters: Any, input_shape: Shape, classes: int) -> ModelSpec:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling. Images under 32x32 are padded by 2, as MNIST was in the paper.

    Blocks c1 c2 f1 f2 head (6, 16 channels, 120, 84 units).
    """
    padding = 2 if len(input_shape) == 3 and min(input_shape[1:]) < 32 else 0
    return ModelSpec(
        "lenet5",
        input_shape,
        classes,
        (
            Block("c1", (Conv("conv", 6, 5, padding=padding), Relu(), MaxPool("pool", 2))),
            Block("c2", (Conv("conv", 16, 5), Relu(), MaxPool("pool", 2))),
            Block("f1", (Flatten(), Linear("linear", 120), Relu())),
            Block("f2", (Linear("linear", 84), Relu())),
            Block("head", (Linear("linear", classes),)),
        ),
    )


class LeafParameters(Struct, frozen=True, forbid_unknown_fields=True):
    hidden: int = 2048

    def __post_init__(self) -> None:
        _positive("model.hidden", self.hidden)


def leaf_cnn(parameters: Any, input_shape: Shape, classes: int) -> ModelSpec:
    """The CNN of LEAF for FEMNIST (Caldas et al. 2018): two 5x5 convolutions (32, 64) with pooling, 2048 units, classes.

    Blocks c1 c2 f1 f2.
    """
    return ModelSpec(
        "leaf_cnn",
        input_shape,
        classes,
        (
            Block("c1", (Conv("conv", 32, 5, padding=2), Relu(), MaxPool("pool", 2))),
            Block("c2", (Conv("conv", 64, 5, padding=2), Relu(), MaxPool("pool", 2))),
            Block("f1", (Flatten(), Linear("linear", parameters.hidden), Relu())),
            Block("f2", (Linear("linear", classes),)),
        ),
    )


class VggParameters(Struct, frozen=True, forbid_unknown_fields=True):
    norm: Literal["group", "none"] = "group"
    """GroupNorm with 32 groups behind each convolution, or none. BatchNorm is not offered: its statistics depend on the division of a
    batch over nodes, so that neither averaging nor cutting would be exact."""


def vgg16(parameters: Any, input_shape: Shape, classes: int) -> ModelSpec:
    """VGG-16 (Simonyan and Zisserman 2015) for 32x32 images: 13 convolutions, two linear layers of 512 instead of 4096.

    Blocks c1_1 c1_2 c2_1 .. c5_3 f1 f2 head; the last convolution of each group holds its pooling. The first weights are He's.
    """
    blocks = []
    for group, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for i in range(1, count + 1):
            layers: list[Layer] = [Conv("conv", width, 3, padding=1, init="he")]
            if parameters.norm == "group":
                layers.append(GroupNorm("norm", 32))
            layers.append(Relu())
            if i == count:
                layers.append(MaxPool("pool", 2))
            blocks.append(Block(f"c{group}_{i}", tuple(layers)))
    blocks.append(Block("f1", (Flatten(), Linear("linear", 512, init="he"), Relu())))
    blocks.append(Block("f2", (Linear("linear", 512, init="he"), Relu())))
    blocks.append(Block("head", (Linear("linear", classes),)))
    return ModelSpec("vgg16", input_shape, classes, tuple(blocks))


def _positive(key: str, *values: int) -> None:
    for value in values:
        if value < 1:
            raise ConfigError(f"{key} must be at least 1, got {value}")
