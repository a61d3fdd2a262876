"""Which place gets which segment of a chain of blocks: exact, by dynamic programming. Pure; knows nothing of models or nodes.

Blocks 0..n-1 are cut into segments of neighbours; segment after segment goes to stage after stage, a stage offers places, and a
stage may be left out. The price of a segment may depend on its place, its blocks, and the place of the segment before it (so that a
transfer between the two is priced exactly); the prices of a plan add up.

The best `keep` plans, not only the first: for each (blocks placed, place of the last segment) the `keep` cheapest ways to get there
are enough, because what comes behind does not depend on the way. O(n² k² keep) prices for k places in all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

P = TypeVar("P", bound=Hashable)


class Segment(Struct, Generic[P], frozen=True):
    """Blocks first..last-1 on a place of this stage."""

    stage: int
    place: P
    first: int
    last: int


class Way(Struct, Generic[P], frozen=True):
    price: float
    segments: tuple[Segment[P], ...]


Price = Callable[[Segment[P], Segment[P] | None], float | None]
"""(segment, the one before it) -> what it adds, transfer from the one before included; None: not possible. Of the one before only
stage, place and last may be asked: its first block is not decided yet."""


def best_chains(blocks: int, stages: Sequence[Sequence[P]], price: Price[P], *, required: Sequence[int] = (), keep: int = 1) -> list[Way[P]]:
    """The `keep` cheapest ways to place all blocks, cheapest first; [] if there is none. required: stages that may not be left out."""
    must = frozenset(required)
    # ways that end with stage s: (blocks placed, place) -> the cheapest; each is closed, so a later stage may follow any earlier one
    ends: list[dict[tuple[int, P], list[Way[P]]]] = []
    for stage, places in enumerate(stages):
        here: dict[tuple[int, P], list[Way[P]]] = {}
        skippable = _skippable(stage, must)
        for place in places:
            for last in range(1, blocks + 1):
                found: list[Way[P]] = []
                if not any(earlier in must for earlier in range(stage)):
                    segment = Segment(stage, place, 0, last)
                    _add(found, price(segment, None), None, segment)
                for earlier in skippable:
                    for (placed, _), ways in ends[earlier].items():
                        if placed < last:
                            segment = Segment(stage, place, placed, last)
                            extra = price(segment, ways[0].segments[-1])
                            for way in ways:
                                _add(found, extra, way, segment)
                if found:
                    found.sort(key=lambda way: way.price)
                    here[last, place] = found[:keep]
        ends.append(here)
    done = [
        way
        for stage, found_ in enumerate(ends)
        if not any(later in must for later in range(stage + 1, len(stages)))
        for (placed, _), ways in found_.items()
        if placed == blocks
        for way in ways
    ]
    return sorted(done, key=lambda way: way.price)[:keep]


def _skippable(stage: int, must: frozenset[int]) -> list[int]:
    """Earlier stages that may come directly before this one."""
    found = []
    for earlier in range(stage - 1, -1, -1):
        found.append(earlier)
        if earlier in must:
            break
    return found


def _add(found: list[Way[P]], extra: float | None, way: Way[P] | None, segment: Segment[P]) -> None:
    if extra is not None:
        found.append(Way(extra, (segment,)) if way is None else Way(way.price + extra, (*way.segments, segment)))
