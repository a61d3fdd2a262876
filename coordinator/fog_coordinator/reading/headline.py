"""The numbers by which a job is judged, as its method names them. Pure."""

from __future__ import annotations

from typing import Final

from fog_common.errors import ConfigError
from fog_common.wire.api.jobs import Figure
from fog_coordinator.state.book import Entry
from fog_coordinator.state.history import History
from fog_learning.methods.base import Headline

LOOK_BACK: Final = 100
"""Rounds in which the last value of a number is looked for."""


def headline(entry: Entry) -> tuple[Headline, ...]:
    """The method's; () for an ended job of another version, of which only the spec is kept."""
    try:
        return entry.method.headline
    except ConfigError:
        return ()


def figures(entry: Entry) -> tuple[Figure, ...]:
    """The headline as clients are told of it."""
    return tuple(Figure(name=each.name, title=each.title, unit=each.unit, better=each.better) for each in headline(entry))


def last_number(history: History, name: str) -> float | None:
    """The number's last value; None if the last LOOK_BACK rounds have none."""
    for number in range(history.newest, max(-1, history.newest - LOOK_BACK), -1):
        item = history.rounds.get(number)
        if item is not None and item.record.numbers.get(name) is not None:
            return item.record.numbers[name]
    return None
