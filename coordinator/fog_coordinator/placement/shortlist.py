"""Which nodes are priced when there are too many to price all of them. Pure.

A step's price looks at every data node and grows with candidates x data nodes x cuts. Up to MOST_PRICED all candidates are priced and
the choice is exact; beyond, a few leaders of everything that can make a node the best choice are: not exact, but never blind to what
the objective asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Final

from fog_learning.costs.objectives import OBJECTIVES
from fog_learning.costs.place import Place

MOST_PRICED: Final = 4096
"""Candidates times (data nodes + BASE): about 50 ms of the coordinator's time for a model of four blocks."""
BASE: Final = 10
"""Fixed effort of a price, in data nodes."""
FEWEST: Final = 8


def shortlist(candidates: Sequence[Place], owners: Collection[str], objective: str, data_nodes: int) -> list[Place]:
    """candidates: all that fit, in any order. owners: nodes with data, whose own bytes stay at home. The result is in order of names."""
    most = max(FEWEST, MOST_PRICED // (data_nodes + BASE))
    every = sorted(candidates, key=lambda place: place.node)
    if len(every) <= most:
        return every
    at_home = [place for place in every if place.node in owners]
    elsewhere = [place for place in every if place.node not in owners]
    kept: dict[str, Place] = {}
    # the first by each measure in turns, those of nodes with data beside those of the others
    for turn in zip_longest(*(sorted(group, key=leader) for leader in OBJECTIVES[objective].leaders for group in (at_home, elsewhere))):
        for place in turn:
            if place is not None and len(kept) < most:
                kept[place.node] = place
        if len(kept) == most:
            break
    return sorted(kept.values(), key=lambda place: place.node)
