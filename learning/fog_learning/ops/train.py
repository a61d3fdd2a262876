"""Ops of a node that trains on its own data."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fog_common.errors import OpError
from fog_learning.data.streams import stream
from fog_learning.ops.average import on_grid
from fog_learning.ops.optimise import State, update
from fog_learning.ops.values import blocks_of, only

if TYPE_CHECKING:
    from fog_learning.ops.workbench import Numbers, Result, Workbench


def init(bench: Workbench, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """weights: the first ones, of the whole model or of `layers` (block names with commas). bytes: their size."""
    layers = blocks_of(numbers.get("layers"))
    weights = only(bench.first_weights(), layers) if layers else bench.first_weights()
    return {"weights": weights}, {"bytes": float(weights.size_bytes)}


def train(bench: Workbench, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """`steps` optimiser steps from `weights` on the slot's rows; the optimiser starts anew each time.

    Batches are those of steps first_step … of the slot; first_step defaults to (round - 1) * steps. prox_mu: FedProx adds
    prox_mu/2 |w - weights|². layers: `weights` holds only these blocks, `own` the others (absent: as first made), and so do
    the outputs. Gives the slot's number of training rows, and the mean loss of the batches.
    """
    slot, steps = bench.slot_of(task, numbers), int(numbers["steps"])
    first = int(numbers.get("first_step", (int(numbers.get("round", 1)) - 1) * steps))
    layers = blocks_of(numbers.get("layers"))
    module = bench.module().train()
    bench.load(module, inputs.get("own"), inputs["weights"])
    loss = descend(bench, module, slot, range(first, first + steps), float(numbers.get("lr", bench.job.train.lr)), float(numbers.get("prox_mu", 0.0)))
    weights = on_grid(bench.weights_of(module))
    if bad := next((name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())), None):
        raise OpError(f"training diverged: {bad} is not finite after {steps} steps; lower train.lr ({bench.job.train.lr:g})")
    outputs = {"weights": only(weights, layers), "own": only(weights, layers, inside=False)} if layers else {"weights": weights}
    return outputs, {"examples": float(len(bench.train_rows(slot))), "loss": loss, "steps": float(steps)}


def descend(bench: Workbench, module: nn.Module, slot: int, steps: range, lr: float, prox_mu: float = 0.0, state: State | None = None) -> float:
    """Train `module` in place on the slot's batches of these steps; the mean of their losses, 0 without any."""
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    parameters = [parameter for _, parameter in named]
    anchor = [parameter.detach().clone() for parameter in parameters] if prox_mu else []
    state = {} if state is None else state
    total = torch.zeros((), dtype=torch.float64, device=bench.device)
    foreign = bool(bench.spec.factory)  # a user's module may draw random numbers (dropout); ours do not
    for count, step in enumerate(steps, 1):
        if foreign:
            torch.manual_seed(int(stream("module", bench.job.seed, slot, step).randint(2**31)))
        x, y = bench.batch(slot, step)
        loss = cross_entropy(module(x), y)
        gradients: list[Tensor | None] = list(torch.autograd.grad(loss, parameters, allow_unused=foreign))
        if prox_mu:
            with torch.no_grad():
                pairs = zip(gradients, parameters, anchor, strict=True)
                gradients = [None if g is None else g.add_(p - start, alpha=prox_mu) for g, p, start in pairs]
        update(named, gradients, state, bench.job.train, lr, count)
        total += loss.detach()
    mean = float(total) / max(1, len(steps))
    if not isfinite(mean):
        raise OpError(f"training diverged: the loss of steps {steps.start}..{steps.stop - 1} is {mean}; lower train.lr ({lr:g})")
    return mean
