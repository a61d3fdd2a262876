"""Averaging among neighbours: the pair (y, m) = (n·w, n), mixed turn by turn; slices of the result; how far the nodes are apart.

y is float64 throughout; `sent`, which travels, is y in the dtype of the model. A turn adds sum_j W_ij (sent_j - sent_i): with
W symmetric, one end of a link gains as much as the other loses, rounding on the wire included, so the sum over all nodes stays.
Tensors are flattened in the order of their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from math import sqrt
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fog_common.errors import OpError
from fog_learning.backend.base import Numbers, Result
from fog_learning.backend.tensors import TensorBackend
from fog_learning.ops.values import TRACE, Weights, blocks_of, only

BLOCKS: Final = 8
"""Of a sketch. In a single block, two values that differ and share a place may hide each other."""


def pair(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """value: y = n·weights; sent: y in the dtypes of the model."""
    n = float(numbers["n"])
    if not 0 < n < 2**53:
        raise OpError(f"weights of {n:g} examples cannot be averaged")
    value = Weights({name: tensor.double().mul_(n) if tensor.dtype != torch.float64 else tensor * n for name, tensor in inputs["weights"].items()})
    return {"value": value, "sent": _narrowed(backend, value)}, {}


def mix(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """One turn, in place: value += sum_i w{i}·(from{i} - sent). change: Euclidean norm of the addition. OpError if shapes differ."""
    value, sent = inputs["value"].own(), inputs["sent"]
    others = [(float(numbers[f"w{i}"]), inputs[f"from{i}"]) for i in range(sum(1 for name in inputs if name.startswith("from")))]
    for _, other in others:
        if {name: tensor.shape for name, tensor in other.items()} != {name: tensor.shape for name, tensor in sent.items()}:
            raise OpError("a neighbour's tensors have other names or shapes than ours; another model of the same job?")
    square = 0.0
    for name, tensor in value.items():
        mine = sent[name].double()
        added = torch.zeros_like(tensor)
        for w, other in others:
            added.add_(other[name].double().sub_(mine) if other[name].dtype != torch.float64 else other[name] - mine, alpha=w)
        tensor.add_(added)
        square += float(added.square().sum())
    return {"value": value, "sent": _narrowed(backend, value)}, {"change": sqrt(square)}


def settle(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """weights: y / m in the dtypes of the model; with of > 1 only slice `part` of `of`, flat, under the name `slice`."""
    m, part, of = float(numbers["m"]), int(numbers.get("part", 0)), int(numbers.get("of", 1))
    value: Weights = inputs["value"]
    if of == 1:
        state = backend.models.first_weights()
        return {
            "weights": Weights({name: _cast(tensor / m, state[name].dtype if name in state else backend.dtype) for name, tensor in value.items()})
        }, {}
    flat = _flat(value)
    cut = flat[part * len(flat) // of : (part + 1) * len(flat) // of]
    return {"weights": Weights({"slice": (cut / m).to(backend.dtype)})}, {}


def join(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """weights: the slices put together again, with names, shapes and dtypes of `like`, less its blocks `without` (names with commas).
    bytes: their size."""
    like = only(inputs["like"], blocks_of(numbers.get("without")), inside=False)
    flat = torch.cat([inputs[f"slice{i}"]["slice"] for i in range(len(inputs) - 1)])
    if len(flat) != sum(tensor.numel() for tensor in like.values()):
        raise OpError(f"the slices hold {len(flat)} values, the model {sum(tensor.numel() for tensor in like.values())}")
    weights, at = Weights(dict.fromkeys(like, flat)), 0
    for name in sorted(like):
        tensor = like[name]
        weights[name] = _cast(flat[at : at + tensor.numel()], tensor.dtype).reshape(tensor.shape).clone()
        at += tensor.numel()
    return {"weights": weights}, {"bytes": float(weights.size_bytes)}


def sketch(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """A linear projection of y to `size` numbers that keeps lengths. If y has no more than `size` values it is y itself: exact = 1.

    The numbers are BLOCKS equal blocks; each value goes to one random place in every block, with a random sign (Kane and Nelson, Sparser
    Johnson-Lindenstrauss Transforms, J. ACM 2014). E|Sy|^2 = |y|^2, with a relative standard deviation of at most sqrt(2 / size), also
    where y is zero but for a few values. seed, a number or a text, draws places and signs: the same for all whose sketches are compared.
    """
    size = int(numbers["size"])
    flat = _flat({name: tensor for name, tensor in inputs["value"].items() if not name.startswith(TRACE)})
    if len(flat) <= size:
        return {"sketch": Weights({"sketch": flat})}, {"exact": 1.0}
    y, wide = flat.numpy(), size // BLOCKS
    dice = np.random.default_rng(int.from_bytes(blake2b(str(numbers.get("seed", 0)).encode(), digest_size=16).digest(), "big"))
    sums = np.empty((BLOCKS, wide))
    for block in sums:
        drawn = dice.integers(0, 2 * wide, len(y), dtype=np.int32)  # place and sign in one number
        block[:] = np.bincount(drawn >> 1, weights=np.where(drawn & 1, y, -y), minlength=wide)
    return {"sketch": Weights({"sketch": torch.from_numpy(sums.reshape(-1) / sqrt(BLOCKS))})}, {"exact": 0.0}


def spread(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """error: max_i |y_i/m_i - sum(y)/sum(m)|, from the sketches of y; times sqrt(2), as a bound, unless exact."""
    names = [f"sketch{i}" for i in range(len(inputs))]
    rows, masses = [inputs[name]["sketch"].double() for name in names], [float(numbers[f"m{i}"]) for i in range(len(inputs))]
    if len({len(row) for row in rows}) > 1:
        raise OpError("the members' sketches have different lengths; another model of the same job?")
    mean = torch.stack(rows).sum(0) / sum(masses)
    error = max(float((row / m - mean).norm()) for row, m in zip(rows, masses, strict=True))
    return {}, {"error": error if int(numbers.get("exact", 0)) else error * sqrt(2)}


def _flat(value: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value[name].reshape(-1).double() for name in sorted(value)])


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if dtype.is_floating_point else tensor.round().to(dtype)


def _narrowed(backend: TensorBackend, value: Weights) -> Weights:
    """In the model's floating dtype; whole-number tensors (counters) are mixed as float64."""
    state = backend.models.first_weights()
    dtypes = {name: state[name].dtype if name in state else backend.dtype for name in value}
    # a copy even where nothing is narrowed: value changes in place while the sent tensors are on their way
    return Weights({name: tensor.to(dtypes[name], copy=True) if dtypes[name].is_floating_point else tensor.clone() for name, tensor in value.items()})
