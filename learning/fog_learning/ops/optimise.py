"""SGD and Adam with plain in-place arithmetic: the same numbers as torch.optim, without its 1.3 s and 75 MB of imports."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Final

import torch
from torch import Tensor

from fog_learning.job.sections import Train
from fog_learning.ops.values import Weights

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

State = dict[str, Tensor]
"""`momentum/NAME`, or `m/NAME` and `v/NAME`: same shape and dtype as the parameter. Empty before the first step."""

STEPS: Final = "#steps"
"""Steps taken, in a state that goes on from op to op."""


def state_of(opt: Weights | None) -> Weights:
    """A state that goes on: `opt`, writable; None: a new one."""
    return Weights({STEPS: torch.zeros((), dtype=torch.int64)}) if opt is None else opt.own()


def update(parameters: Iterable[tuple[str, Tensor]], gradients: Iterable[Tensor | None], state: State, train: Train, lr: float, step: int) -> None:
    """One optimiser step, in place, on parameters and state. step: 1 for the first (Adam's bias correction).

    sgd: v = momentum v + g, w -= lr v (as torch.optim.SGD). adam: Kingma and Ba 2015 with the usual betas (as torch.optim.Adam).
    weight_decay is added to the gradient. A gradient that is None leaves its parameter alone.
    """
    with torch.no_grad():
        for (name, parameter), gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            decayed = gradient.add(parameter, alpha=train.weight_decay) if train.weight_decay else gradient
            if train.optimizer == "adam":
                _adam(name, parameter, decayed, state, lr, step)
            else:
                parameter.add_(_momentum(name, decayed, state, train.momentum), alpha=-lr)


def _momentum(name: str, gradient: Tensor, state: State, momentum: float) -> Tensor:
    if not momentum:
        return gradient
    key = f"momentum/{name}"
    if key not in state:
        state[key] = gradient.clone()
        return state[key]
    return state[key].mul_(momentum).add_(gradient)


def _adam(name: str, parameter: Tensor, gradient: Tensor, state: State, lr: float, step: int) -> None:
    m, v = (state.setdefault(f"{which}/{name}", torch.zeros_like(parameter)) for which in ("m", "v"))
    m.lerp_(gradient, 1 - BETA1)
    v.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    size = (v.sqrt() / sqrt(1 - BETA2**step)).add_(EPS)
    parameter.addcdiv_(m, size, value=-lr / (1 - BETA1**step))
