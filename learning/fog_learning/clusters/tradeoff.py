"""Cost of a cluster's round by vertical and by d2d averaging, from link rates and energy per byte; the choice of `mode: auto`."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from fog_common.energy.radios import LTE, WIFI
from fog_learning.clusters.graphs import Graph
from fog_learning.job.sections import NotNegative, Positive

Objective = Literal["energy", "latency", "uplink"]
UNKNOWN_SIZE: Final = 1_000_000
"""Bytes assumed for a model of unknown size."""


class LinkCosts(Struct, frozen=True, forbid_unknown_fields=True):
    """Link costs of the members of one cluster. The defaults are LTE and WiFi of fog_common.energy.radios, which names their sources.

    Known links of the members (their profiles) replace `up_*`; `d2d_*` is never measured, so a job without WiFi should set it.
    """

    up_bytes_s: Positive = LTE.send_bytes_s
    up_latency_s: NotNegative = 0.04
    up_j_per_byte: NotNegative = LTE.pair_j / 2
    """Energy of the device per byte over the uplink, the mean of sending and receiving."""
    d2d_bytes_s: Positive = WIFI.send_bytes_s
    d2d_latency_s: NotNegative = 0.003
    d2d_j_per_byte: NotNegative = WIFI.pair_j
    """Energy per byte between neighbours, both ends together."""


class Comparison(Struct, frozen=True):
    """Costs of one round for the members of a cluster, both ways: seconds, joules, bytes over the uplink (up and down).

    d2d: the cheaper way; why: the reason, for a person.
    """

    d2d: bool
    why: str
    vertical_s: float
    d2d_s: float
    vertical_j: float
    d2d_j: float
    vertical_up_bytes: int
    d2d_up_bytes: int


def choose(graph: Graph, turns: int, size_bytes: int, costs: LinkCosts, objective: Objective, slices: int = 1, relay: bool = True) -> Comparison:
    """Choose by the objective. graph: of the members; turns: of the consensus; slices: parts of the result, each sent up by another member.

    Vertical: every member receives the weights over the uplink and sends its own. d2d: one member receives them and passes them on (not
    relay: each receives them over the uplink), `turns` exchanges with each neighbour (one after the other on the sender's link), then one
    set of weights goes up. size_bytes: of the weights; 0 = unknown, taken as UNKNOWN_SIZE.
    """
    size, n = size_bytes or UNKNOWN_SIZE, len(graph)
    links, most = sum(len(row) for row in graph), max((len(row) for row in graph), default=0)
    vertical_bytes, d2d_bytes = 2 * n * size, (2 if relay else n + 1) * size
    passing = (n - 1) * size if relay else 0
    side_bytes = turns * links * size + passing
    vertical_j = vertical_bytes * costs.up_j_per_byte
    d2d_j = d2d_bytes * costs.up_j_per_byte + side_bytes * costs.d2d_j_per_byte
    up_s = costs.up_latency_s + size / costs.up_bytes_s
    slice_s = costs.up_latency_s + size / max(1, slices) / costs.up_bytes_s
    turn_s = costs.d2d_latency_s + most * size / costs.d2d_bytes_s
    passing_s = passing / costs.d2d_bytes_s + costs.d2d_latency_s if relay else 0.0
    d2d_s = up_s + passing_s + turns * turn_s + slice_s
    mine, other, unit = {
        "energy": (d2d_j, vertical_j, "J"),
        "latency": (d2d_s, 2 * up_s, "s"),
        "uplink": (float(d2d_bytes), float(vertical_bytes), "B over the uplink"),
    }[objective]
    d2d = mine < other
    why = f"{objective}: d2d {mine:.3g} {unit} ({turns} turn{'' if turns == 1 else 's'} on {links // 2} links), vertical {other:.3g} {unit}"
    return Comparison(d2d, why, 2 * up_s, d2d_s, vertical_j, d2d_j, vertical_bytes, d2d_bytes)
