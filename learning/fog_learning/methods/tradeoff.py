"""Up or sideways: what a cluster's round costs either way, from link rates and energy per byte. Behind `mode: auto`."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from fog_learning.job import NotNegative, Positive
from fog_learning.methods.consensus import Graph

Objective = Literal["energy", "latency", "uplink"]
UNKNOWN_SIZE: Final = 1_000_000


class LinkCosts(Struct, frozen=True, forbid_unknown_fields=True):
    """Of the members of one cluster. The defaults are a moderate LTE uplink beside WiFi; give what was measured."""

    up_bytes_s: Positive = 1.0e6
    up_latency_s: NotNegative = 0.05
    up_j_per_byte: NotNegative = 3.0e-6
    """Energy of the device for a byte sent or received over the uplink."""
    d2d_bytes_s: Positive = 5.0e6
    d2d_latency_s: NotNegative = 0.005
    d2d_j_per_byte: NotNegative = 1.0e-7
    """Energy for a byte between neighbours, both ends together."""


class Choice(Struct, frozen=True):
    """What the members of a cluster pay for one round, both ways. Seconds, joules, bytes over the uplink (up and down)."""

    d2d: bool
    why: str
    vertical_s: float
    d2d_s: float
    vertical_j: float
    d2d_j: float
    vertical_up_bytes: int
    d2d_up_bytes: int


def choose(graph: Graph, turns: int, size_bytes: int, costs: LinkCosts, objective: Objective, slices: int = 1) -> Choice:
    """graph: of the members; turns: of the consensus; slices: in how many parts, by as many members, the result goes up.

    Vertical: every member receives the weights over the uplink and sends its own. d2d: one receives them and passes them on,
    `turns` exchanges with each neighbour (one after the other on the sender's link), then one set of weights goes up.
    """
    size, n = size_bytes or UNKNOWN_SIZE, len(graph)
    links, most = sum(len(row) for row in graph), max((len(row) for row in graph), default=0)
    vertical_bytes, d2d_bytes = 2 * n * size, 2 * size
    passing = (n - 1) * size
    side_bytes = turns * links * size + passing
    vertical_j = vertical_bytes * costs.up_j_per_byte
    d2d_j = d2d_bytes * costs.up_j_per_byte + side_bytes * costs.d2d_j_per_byte
    up_s = costs.up_latency_s + size / costs.up_bytes_s
    slice_s = costs.up_latency_s + size / max(1, slices) / costs.up_bytes_s
    turn_s = costs.d2d_latency_s + most * size / costs.d2d_bytes_s
    d2d_s = up_s + passing / costs.d2d_bytes_s + costs.d2d_latency_s + turns * turn_s + slice_s
    mine, other, unit = {
        "energy": (d2d_j, vertical_j, "J"),
        "latency": (d2d_s, 2 * up_s, "s"),
        "uplink": (float(d2d_bytes), float(vertical_bytes), "B over the uplink"),
    }[objective]
    d2d = mine < other
    why = f"{objective}: d2d {mine:.3g} {unit} ({turns} turns on {links // 2} links), vertical {other:.3g} {unit}"
    return Choice(d2d, why, 2 * up_s, d2d_s, vertical_j, d2d_j, vertical_bytes, d2d_bytes)
