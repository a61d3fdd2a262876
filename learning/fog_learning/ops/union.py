"""Ops of centralized training: samples leave their node, one node trains on all of them."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch

from fog_common.errors import OpError, Refused
from fog_learning.backend.base import Numbers, Result
from fog_learning.backend.rows import SentRows
from fog_learning.backend.tensors import TensorBackend
from fog_learning.ops.optimise import STEPS, state_of, update
from fog_learning.ops.values import Weights


def samples(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """The slot's training rows as stored: x (rows, …), y (rows,) in a byte where that holds the classes, and shift, divide that scale x. Refused without the job's consent."""
    if not backend.job.privacy.share_samples:
        raise Refused("samples stay on this node: the job does not say `privacy: {share_samples: true}`")
    rows = backend.rows.train(backend.slot_of(task, numbers))
    y = rows.y.to(torch.uint8 if backend.models.spec.classes <= 256 else torch.int32)
    value = Weights({"x": rows.x.cpu(), "y": y.cpu(), "shift": rows.shift.cpu(), "divide": rows.divide.cpu()})
    return {"samples": value}, {"examples": float(len(rows))}


def train_union(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """`steps` optimiser steps, in place, on the union of the slots' batches; the optimiser goes on where it was (opt None: anew).

    Gives the mean loss, weighted by the batches' sizes, and the examples seen.
    """
    sent = {int(name.removeprefix("samples")): value for name, value in sorted(inputs.items()) if name.startswith("samples")}
    slots, source = sorted(sent), SentRows(sent, backend.device, backend.models.spec.classes)
    weights, opt = inputs["weights"], state_of(inputs.get("opt"))
    opt = Weights({name: tensor.to(backend.device) if tensor.dim() else tensor for name, tensor in opt.items()})  # beside the parameters
    module, train, steps = backend.models.module().train(), backend.job.train, int(numbers["steps"])
    backend.models.load(module, weights)
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    total, seen = 0.0, 0
    for step in range((int(numbers["round"]) - 1) * steps, int(numbers["round"]) * steps):
        batches = [backend.batches.at(slot, step, source) for slot in slots]
        y = torch.cat([y for _, y in batches])
        backend.models.seed_draws("union", step)
        loss = backend.loss.mean(module(torch.cat([x for x, _ in batches])), y)
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=bool(backend.models.spec.factory))
        opt[STEPS] += 1
        update(named, gradients, opt, train, train.lr, int(opt[STEPS]))
        total, seen = total + float(loss.detach()) * len(y), seen + len(y)
    if not isfinite(total):
        raise OpError(f"training diverged in round {int(numbers['round'])}: the loss is {total}; lower train.lr ({train.lr:g})")
    return {"weights": backend.models.weights_of(module), "opt": opt}, {"loss": total / max(1, seen), "examples": float(seen)}
