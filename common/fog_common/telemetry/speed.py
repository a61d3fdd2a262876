"""How fast a node computes, as its workers measure it. The agent's daemon reads it without importing a backend."""

from __future__ import annotations

from msgspec import Struct


class Speed(Struct, frozen=True):
    """How fast a node runs the standard op (fog_learning.backend.speed), for placement."""

    flops: float
    """FLOP/s."""
    op_s: float
    """Seconds of an op beside its FLOPs."""
