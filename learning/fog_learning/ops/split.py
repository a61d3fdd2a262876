"""Ops of a model that is cut in front, trunk and perhaps tail, for decomposed training (rows: fog_learning.ops).

A step of the split model is a step of the whole one on the union batch: the trunk takes all rows in the order of their slots as
one batch, fronts finish the backward with dl/dz, gradients are summed before the optimiser. Only wire: float16 or int8 rounds.

B rows of a front, N of all, Z values at the cut (an example's shape there).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fog_common.errors import OpError
from fog_learning.backend.base import Numbers, Result
from fog_learning.backend.tensors import TensorBackend
from fog_learning.methods import resolve_method
from fog_learning.ops.optimise import STEPS, state_of, update
from fog_learning.ops.values import Weights

STEPS_OF: Final = {"float16": 1, "int8": 127}
"""The number that stands for the largest value of a row."""


class CutPlan(Protocol):
    """Settings of a method that cuts the model in front, trunk and perhaps tail."""

    @property
    def u_shaped(self) -> bool:
        """The tail, the labels and the loss stay on the nodes."""
        ...

    @property
    def frozen(self) -> bool:
        """The front is not trained."""
        ...

    @property
    def wire(self) -> str:
        """Number format of activations and their gradients in transit."""
        ...


@dataclass(slots=True)
class Split:
    """The job's model, cut. wire: dtype that activations and their gradients travel as; frozen: the fronts are not trained; u_shaped:
    labels and the last blocks (tail) are on the nodes."""

    wire: str
    frozen: bool
    u_shaped: bool
    front: nn.Module
    trunk: nn.Module
    tail: nn.Module | None
    local_names: set[str]
    """Of the parameters on the nodes."""


@dataclass(slots=True)
class Graph:
    """A forward pass whose backward is still to come. Never leaves the process."""

    output: Tensor
    parameters: dict[str, Tensor]
    z: Tensor | None = None
    """The trunk's input (N, Z)."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(slot, B) in the order of the rows."""


_splits: WeakKeyDictionary[TensorBackend, Split] = WeakKeyDictionary()


def split_of(backend: TensorBackend) -> Split:
    """ConfigError if the model cannot be cut there."""
    split = _splits.get(backend)
    if split is None:
        method, settings = resolve_method(backend.job)
        if method.segments is None:
            raise OpError(f"method {method.name} does not cut the model")
        plan = cast(CutPlan, settings)
        first, end = method.segments.cut(settings, backend.models.block_names)
        tail = backend.models.module(end, None) if plan.u_shaped else None
        trunk = backend.models.module(first, end if plan.u_shaped else None)
        front = backend.models.module(0, first)
        local = {name for part in (front, tail) if part is not None for name, _ in part.named_parameters()}
        split = _splits[backend] = Split(plan.wire, plan.frozen, plan.u_shaped, front.train(), trunk.train(), tail, local)
    return split


# -- on the wire -----------------------------------------------------------------------------


def packed(name: str, values: Tensor, wire: str) -> dict[str, Tensor]:
    """values (B, Z) as they travel: `name`, and with float16 and int8 `name.scale` (B,): one scale per row, values = sent x scale.

    Without the scale a float16 holds nothing below 6e-8, and dl/dz of a mean over many rows is smaller.
    """
    values = values.detach()
    if wire not in STEPS_OF:
        return {name: values}
    scale = values.flatten(1).abs().amax(1).div(STEPS_OF[wire]).clamp_min(torch.finfo(torch.float32).tiny)
    scaled = values.div(_rowwise(scale, values))
    return {name: scaled.round().to(torch.int8) if wire == "int8" else scaled.half(), f"{name}.scale": scale.float()}


def unpacked(name: str, value: dict[str, Tensor], backend: TensorBackend) -> Tensor:
    """The inverse of `packed`, in the job's dtype, on the device."""
    tensor = _aligned(value[name].to(backend.device, backend.dtype))
    scale = value.get(f"{name}.scale")
    return tensor if scale is None else tensor * _rowwise(scale.to(backend.device, backend.dtype), tensor)


def _aligned(tensor: Tensor) -> Tensor:
    """Itself, or a copy that begins at a multiple of 64 bytes, where torch puts its own tensors: MKL sums in another order elsewhere.
    Received and restored tensors lie anywhere; with the copy, a task that moved goes on with the same losses."""
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()


def _rowwise(scale: Tensor, values: Tensor) -> Tensor:
    return scale.reshape(-1, *(1,) * (values.dim() - 1))


# -- the fronts ------------------------------------------------------------------------------


def front_forward(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """rows: z (B, Z) of the slot's batch at `step` (from 1) and, unless u_shaped, its labels (B,). Gives examples = B."""
    split = split_of(backend)
    slot, step = backend.slot_of(task, numbers), int(numbers["step"])
    x, y = backend.batches.at(slot, step - 1)
    backend.models.seed_draws("front", slot, step)
    parameters = _leaves(backend, split.front, inputs["local"], grad=not split.frozen)
    with torch.set_grad_enabled(not split.frozen):
        z = functional_call(split.front, parameters, x)
    rows = Weights(packed("z", z, split.wire))
    if not split.u_shaped:
        rows["labels"] = y.to(torch.uint8 if backend.models.spec.classes <= 256 else torch.int32)
    outputs: dict[str, Any] = {"rows": rows}
    if not split.frozen:
        outputs["graph"] = Graph(z, parameters)
    return outputs, {"examples": float(len(y))}


def front_head(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """heads: dl/dfeatures (B, Z'); tail: gradients of the last blocks. Gives this front's part of the loss, sum over B / total."""
    split = split_of(backend)
    assert split.tail is not None
    slot, step = backend.slot_of(task, numbers), int(numbers["step"])
    _, y = backend.batches.at(slot, step - 1)
    backend.models.seed_draws("tail", slot, step)
    features = unpacked("z", inputs["features"], backend).requires_grad_()
    if len(features) != len(y):
        raise OpError(f"features of {len(features)} rows came back for a batch of {len(y)}")
    parameters = _leaves(backend, split.tail, inputs["local"])
    total = float(numbers["total"])
    loss = backend.loss.total(functional_call(split.tail, parameters, features), y) / total
    heads, *gradients = torch.autograd.grad(loss, [features, *parameters.values()])
    own = total / len(y) if int(numbers["own"]) else 1.0
    tail = Weights({name: (gradient * own if own != 1.0 else gradient).cpu() for name, gradient in zip(parameters, gradients, strict=True)})
    return {"heads": Weights(packed("z", heads, split.wire)), "tail": tail}, {"loss": _finite(float(loss.detach()), backend)}


def front_backward(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """gradient: dl/dw_local of this front's rows, to be summed over the fronts."""
    return {"gradient": _local_gradient(backend, inputs)}, {}


def front_step(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """One optimiser step of the front by itself, in place; opt None: begins anew."""
    local, opt = inputs["local"].own(), state_of(inputs.get("opt"))
    _step(backend, [(local, _local_gradient(backend, inputs))], opt)
    return {"local": local, "opt": opt}, {}


def _local_gradient(backend: TensorBackend, inputs: dict[str, Any]) -> Weights:
    graph: Graph = inputs["graph"]
    cut = unpacked("z", inputs["cut"], backend)
    if cut.shape != graph.output.shape:
        raise OpError(f"the gradient of the cut has shape {tuple(cut.shape)}, the activations had {tuple(graph.output.shape)}")
    gradients = torch.autograd.grad(graph.output, list(graph.parameters.values()), cut)
    gradient = Weights({name: part.cpu() for name, part in zip(graph.parameters, gradients, strict=True)})
    gradient.update(inputs.get("tail") or {})
    return gradient


# -- the trunk -------------------------------------------------------------------------------


def split_init(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """The first weights, a function of the seed: local (blocks on the nodes) and trunk."""
    split, first = split_of(backend), backend.models.first_weights()
    copy = Weights({name: tensor.clone() for name, tensor in first.items()})
    local = Weights({name: tensor for name, tensor in copy.items() if name in split.local_names})
    return {"local": local, "trunk": Weights({name: tensor for name, tensor in copy.items() if name not in split.local_names})}, {}


def trunk_step(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """Forward and backward on the union of the rows: cut{slot} = dl/dz (B, Z), grads of the trunk. Gives l, the mean over N."""
    split = split_of(backend)
    z, sizes, labels = _union(backend, inputs)
    parameters = _leaves(backend, split.trunk, inputs["trunk"])
    z.requires_grad_(not split.frozen)
    backend.models.seed_draws("trunk", int(numbers["step"]))
    loss = backend.loss.mean(functional_call(split.trunk, parameters, z), torch.cat(labels))
    wanted = [*parameters.values(), *([] if split.frozen else [z])]
    gradients = list(torch.autograd.grad(loss, wanted))
    cuts = {} if split.frozen else _cuts(backend, gradients.pop(), sizes, bool(numbers["own"]))
    return {**cuts, "grads": _named(parameters, gradients)}, {"loss": _finite(float(loss.detach()), backend)}


def trunk_forward(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """u_shaped: features{slot} (B, Z') of each front's rows; the graph stays here."""
    split = split_of(backend)
    z, sizes, _ = _union(backend, inputs)
    parameters = _leaves(backend, split.trunk, inputs["trunk"])
    backend.models.seed_draws("trunk", int(numbers["step"]))
    output = functional_call(split.trunk, parameters, z.requires_grad_())
    parts = torch.split(output, [size for _, size in sizes])
    features: dict[str, Any] = {f"features{slot}": Weights(packed("z", part, split.wire)) for (slot, _), part in zip(sizes, parts, strict=True)}
    return {**features, "graph": Graph(output, parameters, z, sizes)}, {}


def trunk_backward(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """u_shaped: cut{slot} and the trunk's grads from heads{slot} = dl/dfeatures."""
    graph: Graph = inputs["graph"]
    assert graph.z is not None
    heads = torch.cat([unpacked("z", inputs[f"heads{slot}"], backend) for slot, _ in graph.sizes])
    if heads.shape != graph.output.shape:
        raise OpError(f"head gradients have shape {tuple(heads.shape)}, the features had {tuple(graph.output.shape)}")
    gradients = list(torch.autograd.grad(graph.output, [*graph.parameters.values(), graph.z], heads))
    cuts = _cuts(backend, gradients.pop(), graph.sizes, bool(numbers["own"]))
    return {**cuts, "grads": _named(graph.parameters, gradients)}, {}


def split_apply(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """One optimiser step, in place, on the trunk and, where their gradients came, on the fronts' weights (gradients summed by slot)."""
    trunk, opt = inputs["trunk"].own(), state_of(inputs.get("opt"))
    pairs, outputs = [(trunk, inputs["grads"])], {"trunk": trunk, "opt": opt}
    slots = sorted(int(name.removeprefix("gradient")) for name in inputs if name.startswith("gradient"))
    if slots:
        local = inputs["local"].own()
        total = Weights({name: torch.zeros_like(tensor) for name, tensor in local.items()})
        for slot in slots:
            _same_names(inputs[f"gradient{slot}"], local, slot)
            for name, gradient in inputs[f"gradient{slot}"].items():
                total[name].add_(gradient)
        pairs.append((local, total))
        outputs["local"] = local
    _step(backend, pairs, opt)
    return outputs, {}


def split_mean(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """local = sum(examples x local{slot}) / sum(examples), summed in float64 by slot."""
    slots = sorted(int(name.removeprefix("local")) for name in inputs)
    n = sum(float(numbers[f"examples{slot}"]) for slot in slots)
    like = inputs[f"local{slots[0]}"]
    mean = Weights({name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in like.items()})
    for slot in slots:
        _same_names(inputs[f"local{slot}"], like, slot)
        for name, tensor in inputs[f"local{slot}"].items():
            mean[name].add_(tensor, alpha=float(numbers[f"examples{slot}"]) / n)
    return {"local": Weights({name: tensor.to(like[name].dtype) for name, tensor in mean.items()})}, {}


def split_join(backend: TensorBackend, task: str, inputs: dict[str, Any], numbers: Numbers) -> Result:
    """weights of the whole model, in its order. They share memory with the parts: for an op behind this one, or the result."""
    parts = {**inputs["local"], **inputs["trunk"]}
    return {"weights": Weights({name: parts[name] for name in backend.models.first_weights()})}, {}


# -- pieces ----------------------------------------------------------------------------------


def _leaves(backend: TensorBackend, module: nn.Module, weights: Weights, grad: bool = True) -> dict[str, Tensor]:
    """A module's parameters from weights, as leaves of a graph of their own, which other forward passes leave alone."""
    leaves = {}
    for name, parameter in module.named_parameters():
        if name not in weights or weights[name].shape != parameter.shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise OpError(f"weights {name!r}: {found} came, the model needs {tuple(parameter.shape)}")
        leaves[name] = _aligned(weights[name].to(backend.device)).detach().requires_grad_(grad)
    return leaves


def _union(backend: TensorBackend, inputs: dict[str, Any]) -> tuple[Tensor, tuple[tuple[int, int], ...], list[Tensor]]:
    """(z (N, Z), (slot, B) in order, labels per slot: none if u_shaped)."""
    slots = sorted(int(name.removeprefix("rows")) for name in inputs if name.startswith("rows"))
    rows = {slot: inputs[f"rows{slot}"] for slot in slots}
    parts = {slot: unpacked("z", value, backend) for slot, value in rows.items()}
    labels = [] if split_of(backend).u_shaped else [_labels(backend, slot, value, len(parts[slot])) for slot, value in rows.items()]
    return torch.cat(list(parts.values())), tuple((slot, len(part)) for slot, part in parts.items()), labels


def _labels(backend: TensorBackend, slot: int, rows: dict[str, Tensor], count: int) -> Tensor:
    """(B,) of the rows that a slot sent."""
    if "labels" not in rows:
        raise OpError(
            f"slot {slot} sent activations without labels, which the trunk needs; if labels are to stay on the nodes, say method.u_shaped: true"
        )
    y = rows["labels"].to(backend.device, torch.int64)
    if len(y) != count:
        raise OpError(f"slot {slot} sent {len(y)} labels for {count} rows")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < backend.models.spec.classes:
        wrong = int(y.max()) if int(y.max()) >= backend.models.spec.classes else int(y.min())
        raise OpError(f"slot {slot} sent label {wrong}, the model has {backend.models.spec.classes} outputs")
    return y


def _cuts(backend: TensorBackend, gradient: Tensor, sizes: tuple[tuple[int, int], ...], own: bool) -> dict[str, Weights]:
    """cut{slot} from dl/dz (N, Z); own: scaled by N / B, to the gradient of the slot's own mean."""
    wire, total = split_of(backend).wire, len(gradient)
    parts = zip(sizes, torch.split(gradient, [size for _, size in sizes]), strict=True)
    return {f"cut{slot}": Weights(packed("z", part * (total / size) if own else part, wire)) for (slot, size), part in parts}


def _named(parameters: dict[str, Tensor], gradients: list[Tensor]) -> Weights:
    return Weights({name: gradient.cpu() for name, gradient in zip(parameters, gradients, strict=True)})


def _step(backend: TensorBackend, pairs: list[tuple[Weights, Weights]], opt: Weights) -> None:
    opt[STEPS] += 1
    train = backend.job.train
    for weights, gradients in pairs:
        update(weights.items(), [gradients.get(name) for name in weights], opt, train, train.lr, int(opt[STEPS]))


def _same_names(part: Weights, like: Weights, slot: int) -> None:
    if set(part) != set(like) or any(part[name].shape != like[name].shape for name in like):
        raise OpError(f"slot {slot} sent other tensors than the front has: {', '.join(sorted(set(part) ^ set(like))[:3]) or 'shapes differ'}")


def _finite(loss: float, backend: TensorBackend) -> float:
    if not isfinite(loss):
        raise OpError(f"training diverged: the loss is {loss}; lower train.lr ({backend.job.train.lr:g})")
    return loss
