"""Speed of a node, measured by its workers. The agent's daemon reads it without importing a backend."""

from __future__ import annotations

from msgspec import Struct


class Speed(Struct, frozen=True):
    """Speed of a node on the standard op (fog_learning.backend.speed), for placement."""

    flops: float
    """FLOP/s."""
    op_s: float
    """Seconds of an op beside its FLOPs."""
