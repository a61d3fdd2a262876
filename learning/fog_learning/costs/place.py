"""A node with the figures that decide what a training step costs there."""

from __future__ import annotations

from msgspec import Struct


class Place(Struct, frozen=True):
    """A node as placement sees it."""

    node: str
    tier: str = "edge"
    flops: float = 4e9
    """FLOP/s on the standard op."""
    op_s: float = 1e-3
    """What an op costs whatever its size."""
    rtt_s: float = 2e-3
    """To the broker and back."""
    bytes_s: float = 10e6
    """Of its link, each way."""
    memory_bytes: int | None = None
    """Free; None = unknown."""
    idle_w: float = 3.0
    core_w: float = 1.5
    byte_j: float = 1e-8
    """Joules of a byte at this end of a transfer."""
    guessed: tuple[str, ...] = ()
    """Names of the figures that were not measured."""
    assumed: tuple[str, ...] = ("idle_w", "core_w", "byte_j")
    """Names of the watts and joules that the agent's configuration does not say."""
