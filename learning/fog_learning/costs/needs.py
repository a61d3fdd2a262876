"""The demands of each method that can be placed by measurement: (job, plan, model, data tasks, test examples) -> ways to run it.

Several ways (fcddt with `cut: auto`: one per cut) are alternatives, of which placement chooses. A method that is not in the table is
placed by tier alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Final

from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_learning.costs import traffic
from fog_learning.costs.demands import BACKWARD, TRAIN, UPDATE_FLOPS, Demands, Phase, activations, evaluation, value_bytes, worker_bytes
from fog_learning.job.sections import Job
from fog_learning.methods.fcddt.messages import AUTO, Plan, cut_at
from fog_learning.models import ModelSpec

Needs = Callable[[Job, Any, ModelSpec, int, int], tuple[Demands, ...]]


def fedavg(job: Job, plan: Any, spec: ModelSpec, slots: int, test_examples: int) -> tuple[Demands, ...]:
    steps, batch, parameters = int(plan.local_steps), job.train.batch_size, spec.parameters
    weights = float(parameters * value_bytes(job))
    kept = activations(spec) * batch * 2
    trainer = Phase("trainer", (TRAIN * spec.flops * batch + UPDATE_FLOPS * parameters) * steps, steps, to="server", bytes=weights)
    server = Phase("server", UPDATE_FLOPS * parameters * (slots + 1), slots + 1, to="trainer", bytes=weights, cast=True)
    return (
        Demands(  # the evaluation overlaps the next round
            title="",
            cycle=(trainer, server),
            steps=steps,
            waits_for=job.stragglers.quorum,
            memory={"trainer": worker_bytes(job, parameters, kept, 4), "server": worker_bytes(job, parameters, 0, 7)},
        ),
    )


def centralized(job: Job, plan: Any, spec: ModelSpec, slots: int, test_examples: int) -> tuple[Demands, ...]:
    batch, parameters = job.train.batch_size * slots, spec.parameters
    kept = activations(spec) * batch * 2
    return (
        Demands(  # the samples that go up once are no part of a step
            title="",
            cycle=(Phase("center", TRAIN * spec.flops * batch + UPDATE_FLOPS * parameters),),
            cycles=int(plan.round_steps),
            round=evaluation(job, spec, "center", test_examples),
            memory={"center": worker_bytes(job, parameters, kept, 5)},
        ),
    )


def fcddt(job: Job, plan: Any, spec: ModelSpec, slots: int, test_examples: int) -> tuple[Demands, ...]:
    """One way per cut that is possible, or the one that the job names. ConfigError if there is none."""
    assert isinstance(plan, Plan)
    names = spec.block_names
    if plan.cut != AUTO:
        return (_cut_fcddt(job, plan, spec, slots, test_examples),)
    last = len(names) - (plan.tail if plan.u_shaped else 0)
    if last < 2:
        raise ConfigError(f"method.cut: model {spec.name} has {len(names)} blocks ({', '.join(names)}); there is no place to cut it")
    return tuple(_cut_fcddt(job, replace(plan, cut=first), spec, slots, test_examples) for first in range(1, last))


def _cut_fcddt(job: Job, plan: Plan, spec: ModelSpec, slots: int, test_examples: int) -> Demands:
    first, end = cut_at(plan, spec.block_names)
    facts, batch = spec.facts(), job.train.batch_size
    front, trunk, tail = (sum(block.flops for block in part) for part in (facts[:first], facts[first:end], facts[end:]))
    local, rest = sum(block.parameters for block in [*facts[:first], *facts[end:]]), sum(block.parameters for block in facts[first:end])
    size = value_bytes(job)
    rows = batch * traffic.row_bytes(prod(facts[first - 1].output_shape), plan.wire, size)
    back = batch * traffic.row_bytes(prod(facts[end - 1].output_shape), plan.wire, size) if plan.u_shaped else 0.0
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
    """From the gradient of the cut to the next step."""
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


NEEDS: Final[dict[str, Needs]] = {"fedavg": fedavg, "centralized": centralized, "fcddt": fcddt}
