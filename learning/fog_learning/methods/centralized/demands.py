"""Demands of centralized training: a cycle is a step (fog_learning.costs.demands)."""

from __future__ import annotations

from msgspec import Struct

from fog_learning.costs.demands import TRAIN, UPDATE_FLOPS, Demands, Phase, activations, evaluation, worker_bytes
from fog_learning.job.sections import JobFile
from fog_learning.methods.centralized.messages import Plan
from fog_learning.models import ModelSpec


def demands(job: JobFile, plan: Struct, spec: ModelSpec, slots: int, test_examples: int) -> tuple[Demands, ...]:
    """The only way to run the job. slots: number of sources."""
    assert isinstance(plan, Plan)
    batch, parameters = job.train.batch_size * slots, spec.parameters
    kept = activations(spec) * batch * 2
    return (
        Demands(  # a cycle does not count the samples, which go up once
            title="",
            cycle=(Phase("center", TRAIN * spec.flops * batch + UPDATE_FLOPS * parameters),),
            cycles=plan.round_steps,
            round=evaluation(job, spec, "center", test_examples),
            memory={"center": worker_bytes(job, parameters, kept, 5)},
        ),
    )
