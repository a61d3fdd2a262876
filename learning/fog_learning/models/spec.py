"""A model as a chain of named blocks, with shapes, parameters, FLOPs and bytes of each, so that it can be cut anywhere. Torch-free."""

from __future__ import annotations

from math import prod
from typing import Any

from msgspec import Struct

from fog_common.errors import ConfigError
from fog_learning.models.layers import Layer, Shape


class Block(Struct, frozen=True):
    """The unit of cutting. Its parameters are named `{block}.{layer}.weight`."""

    name: str
    layers: tuple[Layer, ...]


class BlockFacts(Struct, frozen=True):
    """Sizes and costs of one block, per example."""

    name: str
    input_shape: Shape
    output_shape: Shape
    parameters: int
    parameter_bytes: int
    flops: int
    """FLOPs of the forward pass of one example (rule: fog_learning.models.layers). A training step costs about three times as much."""
    activation_bytes: int
    """Bytes of the output for one example, which cross the wire if the model is cut behind this block."""


class ModelSpec(Struct, frozen=True):
    """A classifier. factory: "pkg.mod:Factory" of a user's own module, whose `blocks` are empty, because only torch knows them."""

    name: str
    input_shape: Shape
    classes: int
    blocks: tuple[Block, ...] = ()
    factory: str = ""
    arguments: dict[str, Any] = {}
    told: tuple[BlockFacts, ...] = ()
    """Facts of the blocks of a user's own module, as measured by a worker."""

    @property
    def block_names(self) -> tuple[str, ...]:
        return tuple(block.name for block in self.told) or tuple(block.name for block in self.blocks)

    def span(self, first: int = 0, last: int | None = None) -> tuple[Block, ...]:
        """Blocks first..last-1 (last None: to the end). ConfigError for an empty or impossible range, or a user's own module."""
        if self.factory:
            raise ConfigError(f"model {self.factory} is not one of ours: its blocks are not known here")
        end = len(self.blocks) if last is None else last
        if not 0 <= first < end <= len(self.blocks):
            raise ConfigError(f"model {self.name} has blocks 0..{len(self.blocks) - 1} ({', '.join(self.block_names)}), not {first}..{end - 1}")
        return self.blocks[first:end]

    def facts(self, bytes_per_value: int = 4) -> tuple[BlockFacts, ...]:
        """One entry per block, in order. ConfigError names the block whose shape does not fit."""
        if self.told:
            return self.told
        shape, facts = self.input_shape, []
        for block in self.blocks:
            before, parameters, flops = shape, 0, 0
            for layer in block.layers:
                try:
                    after = layer.output(shape)
                except ConfigError as error:
                    raise ConfigError(f"model {self.name}, block {block.name}: {error} (the data has shape {self.input_shape})") from None
                parameters += sum(prod(size) for size in layer.parameters(shape).values())
                flops += layer.flops(shape)
                shape = after
            facts.append(BlockFacts(block.name, before, shape, parameters, parameters * bytes_per_value, flops, prod(shape) * bytes_per_value))
        return tuple(facts)

    def shape_before(self, first: int) -> Shape:
        """Input shape of block `first` for one example."""
        return self.input_shape if first == 0 else self.facts()[first - 1].output_shape

    def parameter_shapes(self, first: int = 0, last: int | None = None) -> dict[str, Shape]:
        """`{block}.{layer}.{parameter}` -> shape, in order, of a range of blocks."""
        shape, shapes = self.shape_before(first), {}
        for block in self.span(first, last):
            for layer in block.layers:
                for name, size in layer.parameters(shape).items():
                    shapes[f"{block.name}.{layer.name}.{name}"] = size
                shape = layer.output(shape)
        return shapes

    @property
    def parameters(self) -> int:
        return sum(facts.parameters for facts in self.facts())

    @property
    def flops(self) -> int:
        """FLOPs of the forward pass of one example."""
        return sum(facts.flops for facts in self.facts())

    def check(self) -> None:
        """ConfigError unless names are unique and the last block has one output per class."""
        if len(set(self.block_names)) != len(self.blocks):
            raise ConfigError(f"model {self.name}: two blocks have one name")
        output = self.facts()[-1].output_shape
        if output != (self.classes,):
            raise ConfigError(f"model {self.name} gives {output} per example, the data has {self.classes} classes")
