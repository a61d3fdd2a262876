"""How many bytes a method sends, by formula: printed beside what was measured. Payload of tensors only, without headers and repairs.

p nodes, B_i rows of node i in a step, l_m values per row at the cut, |w_local| and |w| parameters below the cut and of all, d values
per sample. The paper's own counts (values, not bytes) are `paper_fcddt`, `paper_fl`, `paper_cc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from msgspec import Struct

from fog_learning.methods.fcddt_messages import Plan, cut_at
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


def fcddt(spec: ModelSpec, plan: Plan, batches: Sequence[int], value_bytes: int = 4) -> Traffic:
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
    """Bytes of one row of so many values as it travels."""
    return values * WIRE_BYTES.get(wire, value_bytes) + (4 if wire == "int8" and values else 0)


def fedavg(spec: ModelSpec, nodes: int, local_steps: int = 1, value_bytes: int = 4) -> Traffic:
    """One local step of fedavg: a round's weights up and down over its local steps."""
    weights = value_bytes * spec.parameters / local_steps
    return Traffic(up=nodes * weights, down=0.0, cast=weights)


def centralized(spec: ModelSpec, samples: int, steps: int, value_bytes: int = 4) -> Traffic:
    """One of `steps` steps when all samples (values and one byte of label each) go up once."""
    return Traffic(up=samples * (value_bytes * prod(spec.input_shape) + 1) / steps, down=0.0, cast=0.0)


def paper_fcddt(spec: ModelSpec, first: int, batches: Sequence[int]) -> int:
    """Values per step as the paper counts them: sum_i (B_i l_m + |w_local|)."""
    facts = spec.facts()
    return sum(batches) * prod(facts[first - 1].output_shape) + len(batches) * sum(block.parameters for block in facts[:first])


def paper_fl(spec: ModelSpec, nodes: int) -> int:
    """2 p |w|"""
    return 2 * nodes * spec.parameters


def paper_cc(spec: ModelSpec, batches: Sequence[int]) -> int:
    """sum_i B_i d"""
    return sum(batches) * prod(spec.input_shape)
