"""Tasks that form no chain: one after another, the most demanding first, each where it costs least beside those that stand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")
P = TypeVar("P")


def greedy(tasks: Sequence[tuple[T, float]], places: Mapping[T, Sequence[P]], price: Callable[[dict[T, P]], float | None]) -> dict[T, P] | None:
    """A place for every task, or None if one finds none.

    tasks: (task, how demanding). price: of a partial assignment, None if it is not possible (memory). Not exact: a task that was
    placed early stands in the way of later ones; with one task it is the best.
    """
    chosen: dict[T, P] = {}
    for task, _ in sorted(tasks, key=lambda item: -item[1]):
        priced = [(cost, index) for index, place in enumerate(places[task]) if (cost := price({**chosen, task: place})) is not None]
        if not priced:
            return None
        chosen[task] = places[task][min(priced)[1]]
    return chosen
