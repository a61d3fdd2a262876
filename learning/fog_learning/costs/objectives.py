"""The objectives of placement, one row each: `placement.objective` names a row, and the plan with the smallest price is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta, Struct

from fog_learning.costs.place import Place

Price = Annotated[float, Meta(ge=0)]
TIE: Final = 1e-9
"""Per second: plans of equal price are told apart by their seconds."""


class Prices(Struct, frozen=True, forbid_unknown_fields=True):
    """The section `placement.weights`, for objectives that weigh: what a second, a joule and a megabyte of a training step cost."""

    latency: Price = 1.0
    """Per second."""
    energy: Price = 0.0
    """Per joule of all nodes that take part."""
    bytes: Price = 0.0
    """Per megabyte on the network."""


class Cost(Struct, frozen=True):
    """Cost of one training step; the costs of a round are shared by its steps."""

    seconds: float
    joules: float
    bytes: float
    parts: tuple[tuple[str, float], ...] = ()
    """Seconds of each phase: ('front computes', 0.1), ('front to trunk', 0.02) …"""


Leader = Callable[[Place], float]
"""The smaller, the sooner a node is among the few that are priced in a large fleet."""
QUICK: Final[tuple[Leader, ...]] = (lambda place: -place.flops, lambda place: -place.bytes_s, lambda place: place.rtt_s, lambda place: place.op_s)
FRUGAL: Final[tuple[Leader, ...]] = (
    lambda place: place.idle_w,
    lambda place: place.core_w / place.flops,
    lambda place: place.byte_j,
    lambda place: place.idle_w + place.core_w,
)


class Objective(Struct, frozen=True):
    """A row of the table."""

    name: str
    help: str
    price: Callable[[Cost, Prices], float]
    """The cost of a training step in the objective's own unit; smaller is better."""
    leaders: tuple[Leader, ...] = QUICK
    """Everything that can make a node the best choice under this objective."""
    weighs: bool = False
    """True: the price reads the weights of the job."""


def _weighted(cost: Cost, weights: Prices) -> float:
    return weights.latency * cost.seconds + weights.energy * cost.joules + weights.bytes * cost.bytes / 1e6


OBJECTIVES: Final[dict[str, Objective]] = {
    row.name: row
    for row in (
        Objective("latency", "seconds of a training step", lambda cost, _: cost.seconds),
        Objective("energy", "joules of all nodes that take part", lambda cost, _: TIE * cost.seconds + cost.joules, (*FRUGAL, *QUICK)),
        # every node that owns data saves the same bytes, every other node none: the seconds decide
        Objective("bytes", "megabytes on the network", lambda cost, _: TIE * cost.seconds + cost.bytes / 1e6),
        Objective("weighted", "the sum of the three at the prices of `placement.weights`", _weighted, (*QUICK, *FRUGAL), weighs=True),
    )
}
"""Name -> row, in the order in which they are listed."""
DEFAULT_OBJECTIVE: Final = "latency"
