"""Weighted means of models, exactly the same whatever the order in which they come.

A sum holds Σ n·w in float64, and Σ n under `#n`. The ops that make a float32 update (train, mean) put its weights on a grid of 2^-32
(`on_grid`), so that n·w is a whole multiple of the grid. Such numbers add without rounding while they fit into 53 bits: the result is
the same for every order of arrival as long as |Σ n·w| < 2^21. Larger sums, updates off the grid and float64 models get float64's
ordinary rounding. A weight moves by at most 2^-33 ≈ 1.2e-10 on its way to the grid. Memory does not grow with the number of updates.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from fog_common.errors import OpError
from fog_learning.backend.base import Numbers, Result
from fog_learning.backend.tensors import TensorBackend
from fog_learning.ops.values import Weights

COUNT: Final = "#n"
COUNT_GRID: Final = 2.0**20
"""Steps per 1, for n: that of a late update is a fraction, and on this grid Σ n is exact in every order."""
GRID: Final = 2.0**32
"""Steps per 1, for weights."""
BLOCK: Final = 131_072
"""Values at a time: the block in float64 stays in the second-level cache between its two passes. Measured with 4 Ki to 256 Ki values."""


def accumulate(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """sum += n·add, in place. sum None: a new one. add may be a sum itself (of a part of the tree); then n is not used.

    OpError if names or shapes differ: the sum is unchanged then.
    """
    total, add = inputs.get("sum"), inputs["add"]
    is_sum = COUNT in add
    n = float(add[COUNT]) if is_sum else round(float(numbers["n"]) * COUNT_GRID) / COUNT_GRID
    if not 0 < n < 2**32:
        raise OpError(f"an update of {float(numbers.get('n', n)):g} examples cannot be averaged")
    if total is None:
        names = [name for name in add if name != COUNT]
        total = Weights({name: torch.zeros(add[name].shape, dtype=torch.float64) for name in names})
        total[COUNT] = torch.zeros((), dtype=torch.float64)
    _same(total, add)
    total = total.own()
    for name, tensor in add.items():
        if name == COUNT:
            continue
        if is_sum:
            total[name].add_(tensor)
        else:
            add_multiple(total[name], tensor, n)
    total[COUNT] += n
    return {"sum": total}, {"n": float(total[COUNT])}


def add_multiple(total: Tensor, tensor: Tensor, n: float) -> None:
    """total += n · tensor. total: contiguous float64. A fractional n leaves the grid: its products are put back on it."""
    for part, out in zip(tensor.reshape(-1).split(BLOCK), total.reshape(-1).split(BLOCK), strict=True):
        if n == int(n):
            out.add_(part, alpha=n)  # torch widens one block at a time, which is still in the cache
        else:
            out.add_(part.to(torch.float64).mul_(n * GRID).round_(), alpha=1.0 / GRID)


def on_grid(weights: Weights) -> Weights:
    """Its float32 tensors rounded to the grid, in place (the caller's own memory). A value too large for the grid stays as it is."""
    for tensor in weights.values():
        if tensor.dtype == torch.float32:
            for part in tensor.reshape(-1).split(BLOCK):
                rounded = (part * GRID).round_().mul_(1.0 / GRID)
                part.copy_(torch.where(torch.isfinite(rounded), rounded, part))
    return weights


def mean(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """weights: Σ n·w / Σ n in the dtype of the model; blocks that the sum lacks come from `base`, if given. bytes: their size.

    OpError if there is no update or the mean is not finite.
    """
    total = inputs.get("sum")
    if total is None or not float(total[COUNT]):
        raise OpError("no update to average; the method should have kept the round open")
    n = float(total[COUNT])
    state = backend.models.first_weights()
    base = inputs.get("base") or {}
    weights = Weights({name: tensor for name, tensor in base.items() if name not in total})
    for name, tensor in total.items():
        if name != COUNT:
            dtype = state[name].dtype if name in state else backend.dtype
            weights[name] = divided(tensor, n, dtype)
            if not bool(torch.isfinite(weights[name]).all()):
                raise OpError(f"the mean of {name} is not finite: an update holds NaN, infinity or values beyond 1e28")
    return {"weights": on_grid(weights)}, {"n": n, "bytes": float(weights.size_bytes)}


def divided(total: Tensor, by: float, dtype: torch.dtype) -> Tensor:
    """total / by, rounded once to dtype (whole-number dtypes: to the nearest)."""
    flat = total.reshape(-1)
    result = torch.empty(len(flat), dtype=dtype)
    for first in range(0, len(flat), BLOCK):
        part = flat[first : first + BLOCK] / by
        result[first : first + BLOCK] = part if dtype.is_floating_point else part.round_()
    return result.reshape(total.shape)


def server_opt(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """Server optimisers of Reddi et al. 2021 (FedOpt), with Δ = mean - weights.

    momentum (Hsu et al. 2019): m = beta1 m + Δ, w += lr m. adam: m = beta1 m + (1-beta1) Δ, v = beta2 v + (1-beta2) Δ²,
    w += lr m / (√v + eps), without bias correction as in the paper; v starts at eps². yogi: v -= (1-beta2) Δ² sign(v - Δ²).
    m, v: tensors by name, in place; absent before the first round.
    """
    kind, lr, beta1 = str(numbers["kind"]), float(numbers["lr"]), float(numbers["beta1"])
    weights, average = inputs["weights"], inputs["mean"]
    _same(weights, average)
    if kind not in ("momentum", "adam", "yogi"):
        raise OpError(f"there is no server optimiser {kind!r}; known: momentum, adam, yogi")
    adaptive = kind != "momentum"
    eps = float(numbers["eps"]) if adaptive else 0.0
    m = inputs["m"].own() if inputs.get("m") is not None else Weights({name: torch.zeros_like(w) for name, w in weights.items()})
    new, outputs = Weights(), {}
    v = Weights()
    if adaptive:
        beta2 = float(numbers["beta2"])
        v = inputs["v"].own() if inputs.get("v") is not None else Weights({name: torch.full_like(w, eps**2) for name, w in weights.items()})
        outputs["v"] = v
    for name, old in weights.items():
        if not old.dtype.is_floating_point:
            new[name] = average[name].clone()
            continue
        delta = average[name] - old
        if not adaptive:
            m[name].mul_(beta1).add_(delta)
            new[name] = old.add(m[name], alpha=lr)
            continue
        m[name].mul_(beta1).add_(delta, alpha=1 - beta1)
        square = delta.square()
        if kind == "adam":
            v[name].mul_(beta2).add_(square, alpha=1 - beta2)
        else:
            v[name].addcmul_(square, torch.sign(v[name] - square), value=-(1 - beta2))
        new[name] = old.addcdiv(m[name], v[name].sqrt().add_(eps), value=lr)
    return {"weights": new, "m": m, **outputs}, {}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """OpError unless both hold the same names and shapes."""
    missing = [name for name in one if name not in other and name != COUNT] or [name for name in other if name not in one and name != COUNT]
    if missing:
        raise OpError(f"the two models differ: only one of them has {missing[0]!r}")
    for name, tensor in one.items():
        if name != COUNT and tensor.shape != other[name].shape:
            raise OpError(f"the two models differ: {name!r} is {tuple(tensor.shape)} in one, {tuple(other[name].shape)} in the other")
