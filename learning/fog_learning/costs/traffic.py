"""How many bytes a method sends, by formula: printed beside what was measured. Payload of tensors only, without headers and repairs.

p nodes, B_i rows of node i in a step, l_m values per row at the cut, |w_local| and |w| parameters below the cut and of all, d values
per sample. The paper's own counts (values, not bytes) are `paper_fcddt`, `paper_fl`, `paper_cc`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any

from msgspec import Struct

from fog_common.runtime.machine import RoundRecord
from fog_learning.costs.demands import value_bytes as job_value_bytes
from fog_learning.job.sections import Job
from fog_learning.methods.fcddt.messages import Plan, cut_at
from fog_learning.models import ModelSpec

WIRE_BYTES = {"float16": 2, "int8": 1}


class Traffic(Struct, frozen=True):
    """Bytes of one step; a mean where not all steps are alike. cast: published once, whatever the number of nodes."""

    up: float
    down: float
    cast: float

    @property
    def total(self) -> float:
        return self.up + self.down + self.cast


def fcddt(spec: ModelSpec, plan: Plan, batches: Sequence[float], value_bytes: int = 4) -> Traffic:
    """One step of fcddt as it is built here. value_bytes: of the job's dtype."""
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


def row_bytes(values: int, wire: str, value_bytes: int) -> float:
    """Bytes of one row of so many values as it travels: float16 and int8 have a scale of 4 bytes."""
    return values * WIRE_BYTES.get(wire, value_bytes) + (4 if wire in WIRE_BYTES and values else 0)


def fedavg(spec: ModelSpec, nodes: int, local_steps: int = 1, value_bytes: int = 4, layers: Sequence[str] = ()) -> Traffic:
    """One local step of fedavg: a round's weights up and down over its local steps. layers: only these blocks travel; empty: all."""
    values = sum(block.parameters for block in spec.facts() if block.name in layers) if layers else spec.parameters
    weights = value_bytes * values / local_steps
    return Traffic(up=nodes * weights, down=0.0, cast=weights)


def centralized(spec: ModelSpec, samples: int, steps: int, value_bytes: int = 4) -> Traffic:
    """One of `steps` steps when all samples (values and one byte of label each) go up once."""
    return Traffic(up=samples * (value_bytes * prod(spec.input_shape) + 1) / steps, down=0.0, cast=0.0)


def paper_fcddt(spec: ModelSpec, first: int, batches: Sequence[float]) -> float:
    """Values per step as the paper counts them: sum_i (B_i l_m + |w_local|)."""
    facts = spec.facts()
    return sum(batches) * prod(facts[first - 1].output_shape) + len(batches) * sum(block.parameters for block in facts[:first])


def paper_fl(spec: ModelSpec, nodes: int) -> int:
    """2 p |w|"""
    return 2 * nodes * spec.parameters


def paper_cc(spec: ModelSpec, batches: Sequence[int]) -> int:
    """sum_i B_i d"""
    return sum(batches) * prod(spec.input_shape)


# -- of a job that runs ------------------------------------------------------------------------


class Count(Struct, frozen=True):
    """Bytes of all rounds that a job has closed."""

    steps: int
    formula: float
    """Of what is built here."""
    paper: float
    """As the paper counts: its values, each as wide as the job's dtype."""


def counted(job: Job, plan: Any, spec: ModelSpec, records: Sequence[RoundRecord], stored: int | None) -> Count | None:
    """By formula, with the nodes and examples that each round had. stored: bytes of a value of the data set as it is stored; None: not known.

    None where the method has no formula or a fact is not known.
    """
    match job.method.get("name"):
        case _ if not records:
            return None
        case "fcddt":
            return _fcddt(job, plan, spec, records)
        case "fedavg":
            return _fedavg(job, plan, spec, records)
        case "centralized" if stored is not None:
            return _centralized(job, plan, spec, records, stored)
    return None


def _fcddt(job: Job, plan: Plan, spec: ModelSpec, records: Sequence[RoundRecord]) -> Count:
    first, _ = cut_at(plan, spec.block_names)
    size, steps = job_value_bytes(job), plan.round_steps
    formula, paper = 0.0, 0.0
    for (updates, examples), times in Counter((record.updates, record.examples) for record in records).items():  # most rounds are alike
        fronts = max(1, updates)
        batches = [examples / steps / fronts] * fronts
        formula += times * steps * fcddt(spec, plan, batches, size).total
        paper += times * steps * size * paper_fcddt(spec, first, batches)
    return Count(steps * len(records), formula, paper)


def _fedavg(job: Job, plan: Any, spec: ModelSpec, records: Sequence[RoundRecord]) -> Count:
    size, steps = job_value_bytes(job), int(plan.local_steps)
    formula = sum(steps * fedavg(spec, record.updates, steps, size, plan.layers or ()).total for record in records)
    return Count(steps * len(records), formula, float(size * sum(paper_fl(spec, record.updates) for record in records)))


def _centralized(job: Job, plan: Any, spec: ModelSpec, records: Sequence[RoundRecord], stored: int) -> Count:
    steps = int(plan.round_steps) * len(records)
    formula = steps * centralized(spec, int(records[-1].numbers["samples"]), steps, stored).total
    return Count(steps, formula, float(job_value_bytes(job) * paper_cc(spec, [record.examples for record in records])))
