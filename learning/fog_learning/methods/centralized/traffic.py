"""Bytes of centralized training by formula. Payload of tensors only, without headers and repairs."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from msgspec import Struct

from fog_common.runtime.machine import RoundRecord
from fog_learning.costs.demands import value_bytes as job_value_bytes
from fog_learning.costs.traffic import Count, Traffic
from fog_learning.job.sections import JobFile
from fog_learning.methods.centralized.messages import Plan
from fog_learning.models import ModelSpec


def per_step(spec: ModelSpec, samples: int, steps: int, value_bytes: int = 4) -> Traffic:
    """Bytes of one of `steps` steps if all samples (values and one byte of label each) go up once."""
    return Traffic(up=samples * (value_bytes * prod(spec.input_shape) + 1) / steps, down=0.0, cast=0.0)


def paper(spec: ModelSpec, batches: Sequence[int]) -> int:
    """Values per step by the formula of the FCDDT paper: sum_i B_i d, for B_i rows of node i and d values per sample."""
    return sum(batches) * prod(spec.input_shape)


def traffic(job: JobFile, plan: Struct, spec: ModelSpec, records: Sequence[RoundRecord], stored: int | None) -> Count | None:
    """None without `stored`, because samples travel as they are stored."""
    assert isinstance(plan, Plan)
    if stored is None:
        return None
    steps = plan.round_steps * len(records)
    formula = steps * per_step(spec, int(records[-1].numbers["samples"]), steps, stored).total
    return Count(steps, formula, float(job_value_bytes(job) * paper(spec, [record.examples for record in records])))
