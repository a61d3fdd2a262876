"""Bytes that a method sends, by formula, shown beside the measured bytes. Each method has its own formulas (methods/NAME/traffic.py).

Only payload of tensors counts, without headers and repairs.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

WIRE_BYTES: Final = {"float16": 2, "int8": 1}


class Traffic(Struct, frozen=True):
    """Bytes of one step, or their mean if steps differ. cast: published once for any number of nodes."""

    up: float
    down: float
    cast: float

    @property
    def total(self) -> float:
        return self.up + self.down + self.cast


def row_bytes(values: int, wire: str, value_bytes: int) -> float:
    """Bytes on the wire of one row of `values` values; float16 and int8 carry a scale of 4 bytes."""
    return values * WIRE_BYTES.get(wire, value_bytes) + (4 if wire in WIRE_BYTES and values else 0)


class Count(Struct, frozen=True):
    """Bytes of all closed rounds of a job."""

    steps: int
    formula: float
    """Bytes of this implementation."""
    paper: float
    """Bytes by the paper's formula: its number of values, each as wide as the job's dtype."""
