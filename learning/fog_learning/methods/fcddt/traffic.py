"""Bytes of fcddt by formula. Payload of tensors only, without headers and repairs.

p nodes, B_i rows of node i in a step, l_m values per row at the cut, |w_local| parameters below the cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod

from msgspec import Struct

from fog_common.runtime.machine import RoundRecord
from fog_learning.costs.demands import value_bytes as job_value_bytes
from fog_learning.costs.traffic import Count, Traffic, row_bytes
from fog_learning.job.sections import JobFile
from fog_learning.methods.fcddt.messages import Plan, cut_at
from fog_learning.models import ModelSpec


def per_step(spec: ModelSpec, plan: Plan, batches: Sequence[float], value_bytes: int = 4) -> Traffic:
    """Bytes of one step of this implementation. batches: B_i of each node; value_bytes: of the job's dtype."""
    first, end = cut_at(plan, spec.block_names)
    facts = spec.facts()
    width = prod(facts[first - 1].output_shape)
    tail = prod(facts[end - 1].output_shape) if plan.u_shaped else 0
    local = value_bytes * sum(block.parameters for block in [*facts[:first], *facts[end:]])
    row, tail_row = (row_bytes(values, plan.wire, value_bytes) for values in (width, tail))
    label = 0 if plan.u_shaped else (1 if spec.classes <= 256 else 4)
    rows, p = sum(batches), len(batches)
    if plan.frozen:
        return Traffic(rows * (row + label), 0.0, 0.0)
    return Traffic(
        up=rows * (row + tail_row + label) + p * local / plan.sync_every,
        down=rows * (row + tail_row),
        cast=local / plan.sync_every,
    )


def paper(spec: ModelSpec, first: int, batches: Sequence[float]) -> float:
    """Values per step by the paper's formula: sum_i (B_i l_m + |w_local|). first: first block of the trunk."""
    facts = spec.facts()
    return sum(batches) * prod(facts[first - 1].output_shape) + len(batches) * sum(block.parameters for block in facts[:first])


def traffic(job: JobFile, plan: Struct, spec: ModelSpec, records: Sequence[RoundRecord], stored: int | None) -> Count | None:
    assert isinstance(plan, Plan)
    first, _ = cut_at(plan, spec.block_names)
    size, steps = job_value_bytes(job), plan.round_steps
    formula, paper_bytes = 0.0, 0.0
    for (updates, examples), times in Counter((record.updates, record.examples) for record in records).items():  # most rounds are alike
        fronts = max(1, updates)
        batches = [examples / steps / fronts] * fronts
        formula += times * steps * per_step(spec, plan, batches, size).total
        paper_bytes += times * steps * size * paper(spec, first, batches)
    return Count(steps * len(records), formula, paper_bytes)
