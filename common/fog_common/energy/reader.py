"""The contract of a sensor: joules since the reader was made, or None. `Integral` makes joules of watts.

None means unknown for now (a sensor failed, a battery is charging), never zero.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Protocol, Self

from fog_common.energy.model import EnergyConfig

Covers = Literal["node", "board", "cards"]
"""node: all of it, graphics cards included. board: the node without its cards. cards: the graphics cards only."""

MAX_GAP_S: Final = 120.0
"""A power sensor that was not read for so long says nothing about the time between."""


class Reader(Protocol):
    name: str
    source: str
    """The kind of truth: measured, or fitted (a correction from the literature)."""
    covers: Covers
    period_s: float
    """Read at least this often: 1 s for a sensor of watts."""
    held: bool
    """The last reading says nothing about the time since the one before: the interval goes on until the next."""

    def read_joules(self, now: float) -> float | None: ...


class Sensor(Reader, Protocol):
    """A kind of reader that can be looked for: a row of the registry. Its name is the value of `energy.reader`."""

    @classmethod
    def found(cls, config: EnergyConfig, root: Path) -> Self | None:
        """The reader of this machine; None if the machine has no such sensor, or this user may not read it. root: holds /sys; tests use a folder."""


class Integral:
    """Joules from a sensor of watts: trapezoids between readings. A gap (no reading, or too long ago) is not bridged."""

    name = "integral"
    source = "measured"
    covers: Covers = "node"
    period_s = 1.0
    held = False

    def __init__(self, watts: Callable[[], float | None]) -> None:
        self._watts = watts
        self._joules = 0.0
        self._last: tuple[float, float] | None = None

    def read_joules(self, now: float) -> float | None:
        watts = self._watts()
        if watts is None:
            self._last = None
            return None
        if self._last is not None and 0 <= now - self._last[0] <= MAX_GAP_S:
            self._joules += (now - self._last[0]) * (watts + self._last[1]) / 2
        self._last = (now, watts)
        return self._joules
