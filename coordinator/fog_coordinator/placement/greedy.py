"""Tasks that form no chain: one after another where each costs least, or, where that leaves one without room, a search for room. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")
P = TypeVar("P")


def greedy(tasks: Sequence[tuple[T, float]], places: Mapping[T, Sequence[P]], price: Callable[[dict[T, P]], float | None]) -> dict[T, P] | None:
    """A place for every task, or None if one finds none.

    tasks: (task, how demanding); the most demanding is placed first, each where it costs least beside those that stand. price: of a partial
    assignment, None if it is not possible (memory). Not exact: a task that was placed early stands in the way of later ones; with one
    task it is the best.
    """
    chosen: dict[T, P] = {}
    for task, _ in sorted(tasks, key=lambda item: -item[1]):
        priced = [(cost, index) for index, place in enumerate(places[task]) if (cost := price({**chosen, task: place})) is not None]
        if not priced:
            return None
        chosen[task] = places[task][min(priced)[1]]
    return chosen


def room_for_all(tasks: Sequence[T], places: Mapping[T, Sequence[P]], fits: Callable[[dict[T, P]], bool], most: int) -> dict[T, P] | None:
    """A place for every task, the earlier places of a task preferred, by depth-first search over partial assignments; None if there is none.

    fits: of a partial assignment; where it is False, more tasks do not make it True. The search gives up after `most` partial assignments:
    it is exact where there are at most most / 2 whole ones. Tasks with few places go first, then in the order of `tasks`.
    """
    order = sorted(tasks, key=lambda task: len(places[task]))
    chosen: dict[T, P] = {}
    depths = [iter(places[order[0]])]
    tried = -len(order)
    while depths:
        task = order[len(depths) - 1]
        chosen.pop(task, None)
        for place in depths[-1]:
            tried += 1
            if tried > most:
                return None
            if fits({**chosen, task: place}):
                chosen[task] = place
                break
        if task not in chosen:
            depths.pop()
        elif len(chosen) == len(order):
            return chosen
        else:
            depths.append(iter(places[order[len(depths)]]))
    return None
