"""Places of placement by their figures, as the prices name them."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from fog_common.facts import NodeFacts
from fog_learning.costs.place import Place

FACTS = {"bytes_s": "bandwidth_bytes_s", "memory_bytes": "memory_free_bytes"}
"""Figure of a place -> the fact that it comes from, where the names differ."""


def place(node: str, **figures: Any) -> Place:
    """A node of tier edge."""
    return altered(Place(node, NodeFacts(tier="edge", site="home")), **figures)


def altered(old: Place, node: str = "", **figures: Any) -> Place:
    """The same place with another name or other figures. memory_bytes None: unknown."""
    facts = {FACTS.get(name, name): 0 if name == "memory_bytes" and figure is None else figure for name, figure in figures.items()}
    return Place(node or old.node, replace(old.known, **facts))
