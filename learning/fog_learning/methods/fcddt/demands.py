"""Demands of fcddt: a cycle is a step, and each cut is one way to run the job (fog_learning.costs.demands)."""

from __future__ import annotations

from math import prod

from msgspec import Struct
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_learning.costs.demands import BACKWARD, TRAIN, UPDATE_FLOPS, Demands, Phase, activations, evaluation, value_bytes, worker_bytes
from fog_learning.costs.traffic import row_bytes
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import AUTO
from fog_learning.methods.fcddt.messages import Plan, cut_at
from fog_learning.models import ModelSpec


def demands(job: JobFile, plan: Struct, spec: ModelSpec, slots: int, test_examples: int) -> tuple[Demands, ...]:
    """One way to run the job per possible cut, or the cut that the job names. ConfigError without a possible cut."""
    assert isinstance(plan, Plan)
    names = spec.block_names
    if plan.cut != AUTO:
        return (_cut(job, plan, spec, slots, test_examples),)
    last = len(names) - (plan.tail if plan.u_shaped else 0)
    if last < 2:
        raise ConfigError(f"method.cut: model {spec.name} has {len(names)} blocks ({', '.join(names)}); there is no place to cut it")
    return tuple(_cut(job, replace(plan, cut=first), spec, slots, test_examples) for first in range(1, last))


def _cut(job: JobFile, plan: Plan, spec: ModelSpec, slots: int, test_examples: int) -> Demands:
    first, end = cut_at(plan, spec.block_names)
    facts, batch = spec.facts(), job.train.batch_size
    front, trunk, tail = (sum(block.flops for block in part) for part in (facts[:first], facts[first:end], facts[end:]))
    local, rest = sum(block.parameters for block in [*facts[:first], *facts[end:]]), sum(block.parameters for block in facts[first:end])
    size = value_bytes(job)
    rows = batch * row_bytes(prod(facts[first - 1].output_shape), plan.wire, size)
    back = batch * row_bytes(prod(facts[end - 1].output_shape), plan.wire, size) if plan.u_shaped else 0.0
    labels = 0 if plan.u_shaped else batch * (1 if spec.classes <= 256 else 4)
    n, weights, sync = batch * slots, float(local * size), 1.0 / plan.sync_every
    forward = Phase("front", float(front * batch), to="trunk", bytes=rows + labels)
    update = UPDATE_FLOPS * (rest + (0 if plan.own else local * slots))
    if plan.frozen:
        cycle: tuple[Phase, ...] = (forward, Phase("trunk", TRAIN * trunk * n + update, 2))
    elif plan.u_shaped:
        cycle = (
            forward,
            Phase("trunk", float(trunk * n), to="front", bytes=back),
            Phase("front", TRAIN * tail * batch, to="trunk", bytes=back),
            Phase("trunk", BACKWARD * trunk * n, to="front", bytes=rows),
            *_backward(plan, front * batch, local, weights, update, slots, sync),
        )
    else:
        cycle = (
            forward,
            Phase("trunk", TRAIN * trunk * n, to="front", bytes=rows),
            *_backward(plan, front * batch, local, weights, update, slots, sync),
        )
    whole, optimiser = local + rest, 2 if job.train.optimizer == "adam" else 1 if job.train.momentum else 0
    return Demands(
        title=f"cut after {spec.block_names[first - 1]}",
        settings={"cut": first},
        blocks=first,
        cycle=cycle,
        cycles=plan.round_steps,
        overlaps=plan.frozen,
        waits_for=1.0 - plan.straggler_rate,
        round=evaluation(job, spec, "trunk", test_examples),
        memory={
            "front": worker_bytes(job, local, 2 * batch * (activations(spec, 0, first) + activations(spec, end)), 4),
            "trunk": worker_bytes(job, whole, 2 * n * activations(spec, first - 1, end), 4 + optimiser),
        },
    )


def _backward(plan: Plan, flops: float, local: int, weights: float, update: float, slots: int, sync: float) -> tuple[Phase, ...]:
    """The phases from the gradient of the cut to the next step."""
    if not plan.own:
        return (
            Phase("front", BACKWARD * flops, to="trunk", bytes=weights),
            Phase("trunk", update, to="front", bytes=weights, cast=True),
        )
    return (
        Phase("front", BACKWARD * flops + UPDATE_FLOPS * local),
        Phase("front", 0.0, 0.0, to="trunk", bytes=weights, often=sync),
        Phase("trunk", UPDATE_FLOPS * local * slots, to="front", bytes=weights, cast=True, often=sync),
    )
