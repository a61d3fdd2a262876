"""Ops of a node that trains on its own data."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from fog_common.errors import OpError
from fog_learning.backend.base import Numbers, Result
from fog_learning.backend.tensors import TensorBackend
from fog_learning.ops.average import on_grid
from fog_learning.ops.optimise import State, update
from fog_learning.ops.values import TRACE, Weights, blocks_of, only


def init(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """weights: the first ones, of the whole model or of `layers` (block names with commas). bytes: their size."""
    layers = blocks_of(numbers.get("layers"))
    weights = only(backend.models.first_weights(), layers) if layers else backend.models.first_weights()
    return {"weights": weights}, {"bytes": float(weights.size_bytes)}


def train(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """`steps` optimiser steps from `weights` on the slot's rows; the optimiser starts anew each time.

    Batches are those of steps first_step … of the slot; first_step defaults to (round - 1) * steps. prox_mu: FedProx adds
    prox_mu/2 |w - weights|². layers: `weights` holds only these blocks, `own` the others (absent: the first weights), and so do
    the outputs. without: the outputs' `weights` lacks these blocks, they are in `own`; inputs: what `weights` lacks comes from `own`.
    correction: added to every gradient. tracking = 1: `weights` holds, beside the model, `z/NAME` = (before - after) / (steps lr). Gives the slot's number of training rows, and the mean loss of the batches.
    """
    slot, steps = backend.slot_of(task, numbers), int(numbers["steps"])
    first = int(numbers.get("first_step", (int(numbers.get("round", 1)) - 1) * steps))
    layers, without = blocks_of(numbers.get("layers")), blocks_of(numbers.get("without"))
    lr, correction = float(numbers.get("lr", backend.job.train.lr)), inputs.get("correction")
    module = backend.models.module().train()
    backend.models.load(module, inputs.get("own"), inputs["weights"])
    loss = descend(backend, module, slot, range(first, first + steps), lr, float(numbers.get("prox_mu", 0.0)), correction=correction)
    weights = on_grid(backend.models.weights_of(module))
    if bad := next((name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())), None):
        raise OpError(f"training diverged: {bad} is not finite after {steps} steps; lower train.lr ({backend.job.train.lr:g})")
    if int(numbers.get("tracking", 0)):
        trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        weights.update({TRACE + name: (inputs["weights"][name] - weights[name]) / (steps * lr) for name in trained})
    outputs = {"weights": weights}
    if layers or without:
        apart, inside = layers or without, bool(layers)
        outputs = {"weights": only(weights, apart, inside), "own": only(weights, apart, not inside)}
    return outputs, {"examples": float(len(backend.rows.train(slot))), "loss": loss, "steps": float(steps)}


def track(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """weights: the model in `settled`; correction: the old one (absent: 0) - z of `trained` + z of `settled`, by names of parameters."""
    settled, trained, old = inputs["settled"], inputs["trained"], inputs.get("correction")
    weights = Weights({name: tensor for name, tensor in settled.items() if not name.startswith(TRACE)}, frozen=True)
    names = [name.removeprefix(TRACE) for name in settled if name.startswith(TRACE)]
    new = {name: (settled[TRACE + name].double() - trained[TRACE + name].double()) for name in names}
    # float64: the sum of all corrections is rounding only, and must not grow from round to round
    return {"weights": weights, "correction": Weights({name: new[name] + old[name] if old else new[name] for name in names})}, {}


def descend(
    backend: TensorBackend,
    module: nn.Module,
    slot: int,
    steps: range,
    lr: float,
    prox_mu: float = 0.0,
    state: State | None = None,
    correction: Mapping[str, Tensor] | None = None,
) -> float:
    """Train `module` in place on the slot's batches of these steps; the mean of their losses, 0 without any."""
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    parameters = [parameter for _, parameter in named]
    anchor = [parameter.detach().clone() for parameter in parameters] if prox_mu else []
    state = {} if state is None else state
    total = torch.zeros((), dtype=torch.float64, device=backend.device)
    foreign = bool(backend.models.spec.factory)
    for count, step in enumerate(steps, 1):
        backend.models.seed_draws("module", slot, step)
        x, y = backend.batches.at(slot, step)
        loss = backend.loss.mean(module(x), y)
        gradients: list[Tensor | None] = list(torch.autograd.grad(loss, parameters, allow_unused=foreign))
        if prox_mu:
            with torch.no_grad():
                pairs = zip(gradients, parameters, anchor, strict=True)
                gradients = [None if g is None else g.add_(p - start, alpha=prox_mu) for g, p, start in pairs]
        if correction is not None:
            with torch.no_grad():
                pulls = [correction[name].to(backend.device) for name, _ in named]
                gradients = [c if g is None else g.add_(c) for g, c in zip(gradients, pulls, strict=True)]
        update(named, gradients, state, backend.job.train, lr, count)
        total += loss.detach()
    mean = float(total) / max(1, len(steps))
    if not isfinite(mean):
        raise OpError(f"training diverged: the loss of steps {steps.start}..{steps.stop - 1} is {mean}; lower train.lr ({lr:g})")
    return mean
