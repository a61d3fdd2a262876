"""Torch modules from specs. First weights are a function of (seed, block name): a cut model starts as the whole one does."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from math import prod, sqrt
from typing import Any, assert_never

import numpy as np
import torch
from torch import nn

from fog_common.errors import ConfigError
from fog_learning.data.streams import stream
from fog_learning.models.layers import Conv, Flatten, GroupNorm, Layer, Linear, MaxPool, Relu, Shape
from fog_learning.models.spec import Block, ModelSpec


def build(spec: ModelSpec, first: int = 0, last: int | None = None, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Blocks first..last-1 of a model (last None: to the end), on the CPU, with their first weights.

    Parameter names are `{block}.{layer}.weight` for any range. torch's global generator is neither read nor moved. ConfigError for an
    impossible range, or a user's own module that cannot be imported, built or cut.
    """
    if spec.factory:
        module = _imported(spec, seed).to(dtype)
        if first == 0 and last is None:
            return module
        from fog_learning.models.imported import segment

        return segment(module, spec.input_shape, first, last)
    shape, blocks = spec.shape_before(first), OrderedDict[str, nn.Module]()
    # modules draw weights that are overwritten below; the meta device would avoid this, but imports sympy (1.5 s, 35 MB)
    with torch.random.fork_rng(devices=[]):
        for block in spec.span(first, last):
            layers = OrderedDict[str, nn.Module]()
            for layer in block.layers:
                layers[layer.name] = _module(layer, shape, dtype)
                shape = layer.output(shape)
            blocks[block.name] = nn.Sequential(layers)
    module = nn.Sequential(blocks)
    weights = first_weights(spec, first, last, seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))
    return module


def first_weights(spec: ModelSpec, first: int = 0, last: int | None = None, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Parameter name -> float64 values, drawn block by block from stream("weights", seed, block name)."""
    shape, weights = spec.shape_before(first), {}
    for block in spec.span(first, last):
        for name, values in _block_weights(block, shape, seed).items():
            weights[name] = values
        for layer in block.layers:
            shape = layer.output(shape)
    return weights


def _block_weights(block: Block, shape: Shape, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    random, weights = stream("weights", seed, block.name), {}
    for layer in block.layers:
        sizes = layer.parameters(shape)
        prefix = f"{block.name}.{layer.name}"
        match layer:
            case Linear(init=init) | Conv(init=init):
                fan_in = prod(sizes["weight"][1:])
                bound, bias_bound = (sqrt(6 / fan_in), 0.0) if init == "he" else (1 / sqrt(fan_in), 1 / sqrt(fan_in))
                weights[f"{prefix}.weight"] = random.uniform(-bound, bound, sizes["weight"])
                weights[f"{prefix}.bias"] = random.uniform(-bias_bound, bias_bound, sizes["bias"])
            case GroupNorm():
                weights[f"{prefix}.weight"] = np.ones(sizes["weight"])
                weights[f"{prefix}.bias"] = np.zeros(sizes["bias"])
            case _:
                pass
        shape = layer.output(shape)
    return weights


def _module(layer: Layer, shape: Shape, dtype: torch.dtype) -> nn.Module:
    match layer:
        case Linear():
            return nn.Linear(shape[0], layer.features, dtype=dtype)
        case Conv():
            return nn.Conv2d(shape[0], layer.channels, layer.kernel, layer.stride, layer.padding, dtype=dtype)
        case GroupNorm():
            return nn.GroupNorm(layer.groups, shape[0], dtype=dtype)
        case MaxPool():
            return nn.MaxPool2d(layer.kernel)
        case Relu():
            return nn.ReLU()
        case Flatten():
            return nn.Flatten()
        case _:
            assert_never(layer)


def _imported(spec: ModelSpec, seed: int) -> nn.Module:
    """A user's own module: Factory(input_shape=…, classes=…, **arguments). The caller has checked the node's allow-list."""
    module_name, _, factory_name = spec.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"model {spec.factory} cannot be imported on this node: {error}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = factory(input_shape=spec.input_shape, classes=spec.classes, **spec.arguments)
        except TypeError as error:
            raise ConfigError(f"model {spec.factory} must take input_shape=, classes= and model.arguments: {error}") from None
    if not isinstance(module, nn.Module):
        raise ConfigError(f"model {spec.factory} gave a {type(module).__name__}, not a torch.nn.Module")
    return module
