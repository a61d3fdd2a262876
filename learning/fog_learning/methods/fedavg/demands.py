"""Demands of fedavg: a cycle is a round (fog_learning.costs.demands)."""

from __future__ import annotations

from msgspec import Struct

from fog_learning.costs.demands import TRAIN, UPDATE_FLOPS, Demands, Phase, activations, value_bytes, worker_bytes
from fog_learning.job.sections import JobFile
from fog_learning.methods.fedavg.messages import Plan
from fog_learning.models import ModelSpec


def demands(job: JobFile, plan: Struct, spec: ModelSpec, slots: int, test_examples: int) -> tuple[Demands, ...]:
    """The only way to run the job. slots: number of trainers."""
    assert isinstance(plan, Plan)
    steps, batch, parameters = plan.local_steps, job.train.batch_size, spec.parameters
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
