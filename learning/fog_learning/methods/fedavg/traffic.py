"""Bytes of fedavg by formula. Payload of tensors only, without headers and repairs."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from fog_common.runtime.machine import RoundRecord
from fog_learning.costs.demands import value_bytes as job_value_bytes
from fog_learning.costs.traffic import Count, Traffic
from fog_learning.job.sections import JobFile
from fog_learning.methods.fedavg.messages import Plan
from fog_learning.models import ModelSpec


def per_step(spec: ModelSpec, nodes: int, local_steps: int = 1, value_bytes: int = 4, layers: Sequence[str] = ()) -> Traffic:
    """Bytes of one local step: a round's weights up and down, divided by its local steps. layers: blocks that travel; empty: all."""
    values = sum(block.parameters for block in spec.facts() if block.name in layers) if layers else spec.parameters
    weights = value_bytes * values / local_steps
    return Traffic(up=nodes * weights, down=0.0, cast=weights)


def paper(spec: ModelSpec, nodes: int) -> int:
    """Values per step by the formula of the FCDDT paper: 2 p |w|, for p nodes."""
    return 2 * nodes * spec.parameters


def traffic(job: JobFile, plan: Struct, spec: ModelSpec, records: Sequence[RoundRecord], stored: int | None) -> Count | None:
    assert isinstance(plan, Plan)
    size, steps = job_value_bytes(job), plan.local_steps
    formula = sum(steps * per_step(spec, record.updates, steps, size, plan.layers).total for record in records)
    return Count(steps * len(records), formula, float(size * sum(paper(spec, record.updates) for record in records)))
