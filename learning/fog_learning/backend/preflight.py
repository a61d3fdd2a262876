"""The checks of a job on one node, before it starts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import torch
from torch import nn

from fog_common.errors import FogError
from fog_common.wire.messages import BlockReport, ClassSet
from fog_learning.backend.device import Device
from fog_learning.backend.tensors import TensorBackend
from fog_learning.data import DataError, Dataset
from fog_learning.job.reading import shape_unsaid
from fog_learning.methods import method_of, plan_of
from fog_learning.methods.base import ModelFacts

SHOWN: Final = 20
"""Names of classes that are reported."""


@dataclass(slots=True)
class Findings:
    problems: list[str] = field(default_factory=list)
    """Each a sentence for a person; [] if the job runs here."""
    classes: ClassSet | None = None
    """Meaning of the labels of this node's data; None where no data is needed."""
    blocks: tuple[BlockReport, ...] = ()
    """Of a user's own module, if no task here owns data (one node needs to look)."""


def inspect(backend: TensorBackend, device: Device, slots: Iterable[int], evaluates: bool | None) -> Findings:
    """slots: of the tasks here that own data. evaluates: the central evaluation happens here (None: if no task here owns data).

    The first check that finds a problem is the last one, since later checks build on it.
    """
    found, slots = Findings(), set(slots)
    checks: tuple[Callable[[], list[str]], ...] = (
        lambda: _device(device),
        lambda: [lack] if (lack := shape_unsaid(backend.job)) else [],
        lambda: _model(backend, found, alone=not slots),
        lambda: _weights(backend),
        lambda: _data(backend, found, slots, evaluates),
    )
    for check in checks:
        try:
            found.problems += check()
        except FogError as error:
            found.problems.append(str(error))
        if found.problems:
            break
    return found


def _device(device: Device) -> list[str]:
    if device.missing:
        return ["nodes.device is cuda, but torch finds no CUDA device on this node; say auto or cpu"]
    return []


def _model(backend: TensorBackend, found: Findings, alone: bool) -> list[str]:
    spec = backend.models.spec
    if not spec.factory:
        return _method(backend, list(spec.parameter_shapes()))
    module = backend.models.built().eval()
    try:
        with torch.no_grad():
            output = tuple(module(torch.zeros(2, *spec.input_shape, dtype=backend.dtype)).shape)
    except Exception as error:  # whatever a user's module raises
        return [f"model {spec.name} does not take examples of shape {spec.input_shape}: {error}"]
    if output != (2, spec.classes):
        return [f"model {spec.name} gives {output[1:]} per example, the data has {spec.classes} classes"]
    problems = _method(backend, list(module.state_dict()))
    if not problems:
        _cut(backend)
    if alone:
        found.blocks = described(module, spec.input_shape, cuts=_cuts(backend))
    return problems


# -- what a method needs of the model ----------------------------------------------------------


def _cuts(backend: TensorBackend) -> bool:
    return method_of(backend.job).segments is not None


def _cut(backend: TensorBackend) -> None:
    """Build the segments of a user's own module that the method cuts: ConfigError if the module cannot be cut there."""
    method, plan = plan_of(backend.job)
    if method.segments is None:
        return
    names = backend.models.block_names
    bounds = (0, *method.segments.cut(plan, names), len(names))
    for first, last in pairwise(bounds):
        if first < last:
            backend.models.module(first, None if last == len(names) else last)


def _method(backend: TensorBackend, tensors: list[str]) -> list[str]:
    """tensors: names of the model's tensors. ConfigError or sentences if the job's method cannot train such a model."""
    method, plan = plan_of(backend.job)
    weighted = tuple(dict.fromkeys(tensor.split(".")[0] for tensor in tensors))
    blocks = backend.models.block_names if method.segments is not None else ()
    return method.preflight(ModelFacts(backend.models.spec.name, weighted, blocks), plan)


# -- weights and data --------------------------------------------------------------------------


def _weights(backend: TensorBackend) -> list[str]:
    if backend.job.model.get("weights"):
        backend.models.first_weights()
    return []


def _data(backend: TensorBackend, found: Findings, slots: set[int], evaluates: bool | None) -> list[str]:
    job = backend.job
    rates = job.evaluation.where == "central" and (not slots if evaluates is None else evaluates)
    if not slots and not rates:
        return []
    try:
        dataset = backend.rows.dataset()
    except DataError as error:
        if slots or not job.data.local:
            raise
        hint = "this node only rates the model on it: say `evaluation: {where: federated}`, and the nodes with data do"
        raise DataError(f"{error}; {hint}") from None
    spec, problems = backend.models.spec, []
    if dataset.input_shape != spec.input_shape:
        problems.append(f"data set {dataset.name} has examples of shape {dataset.input_shape}, the model expects {spec.input_shape}")
    top = int(max(dataset.train_y.max(initial=0), dataset.test_y.max(initial=0)))
    if top >= spec.classes:
        problems.append(f"data set {dataset.name} has labels up to {top}, the model has {spec.classes} outputs; say model.classes: {top + 1} or more")
    if rates and not len(dataset.test_y):
        problems.append(f"data set {dataset.name} has no test part on this node, which evaluates; say evaluation.where: federated")
    found.classes = class_set(dataset, spec.classes)
    if not problems:
        backend.rows.keep(slots, test=rates)
    return problems


def class_set(dataset: Dataset, outputs: int) -> ClassSet:
    """Meaning of the labels, for the coordinator to compare."""
    if not dataset.named:
        return ClassSet(outputs, dataset.classes)
    digest = hashlib.sha256("\n".join(dataset.class_names).encode()).hexdigest()[:16]
    return ClassSet(outputs, dataset.classes, digest, dataset.class_names[:SHOWN])


def described(module: nn.Module, input_shape: tuple[int, ...], cuts: bool) -> tuple[BlockReport, ...]:
    """The blocks of a user's module, or (cuts: False) all of it as one. () if torch cannot tell: the job runs all the same."""
    from fog_learning.models.imported import facts, whole

    try:
        blocks = facts(module, input_shape)[0] if cuts else (whole(module, input_shape),)
    except Exception:  # whatever torch raises when it counts
        return ()
    return tuple(BlockReport(block.name, block.input_shape, block.output_shape, block.parameters, block.flops) for block in blocks)
