"""Bytes that a method sends, by formula: printed beside those that were measured. The formulas are the methods' own (methods/NAME/traffic.py).

Payload of tensors only, without headers and repairs.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

WIRE_BYTES: Final = {"float16": 2, "int8": 1}


class Traffic(Struct, frozen=True):
    """Bytes of one step; a mean where not all steps are alike. cast: published once, whatever the number of nodes."""

    up: float
    down: float
    cast: float

    @property
    def total(self) -> float:
        return self.up + self.down + self.cast


def row_bytes(values: int, wire: str, value_bytes: int) -> float:
    """Bytes of one row of so many values as it travels: float16 and int8 have a scale of 4 bytes."""
    return values * WIRE_BYTES.get(wire, value_bytes) + (4 if wire in WIRE_BYTES and values else 0)


class Count(Struct, frozen=True):
    """Bytes of all rounds that a job has closed."""

    steps: int
    formula: float
    """Of what is built here."""
    paper: float
    """As the paper counts: its values, each as wide as the job's dtype."""
