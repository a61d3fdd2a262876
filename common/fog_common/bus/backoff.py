"""Wait before the next connection attempt. Pure; full jitter, so that a fleet does not reconnect all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Ending = Literal["unreachable", "refused", "lost", "taken_over"]
"""unreachable: no connection. refused: no CONNACK, or one with an error. lost: broker or network failed. taken_over: the
broker closed this connection but serves others, most likely because another client has our id."""


@dataclass(slots=True)
class Backoff:
    first_s: float = 1.0
    """Upper bound of a wait during a shorter absence; later the absence so far is the bound, so that one second away never costs a wait of ten."""
    cap_s: float = 30.0
    """Upper bound of every wait for a broker that is away."""
    yield_s: float = 10.0
    """Of two clients with one id the newer stays: the older tries again after half to all of this, doubled at each attempt."""
    yield_cap_s: float = 600.0
    """Upper bound of the doubling; a connection that lasted at least this long resets the doubling."""
    uniform: Callable[[float, float], float] = field(default_factory=lambda: Random().uniform)
    _away_s: float = 0.0
    """Seconds waited so far, less the seconds for which connections stood."""
    _yields: int = 0

    def wait_s(self, ending: Ending, stood_s: float) -> float:
        """Seconds until the next attempt, after a connection that lasted `stood_s` seconds; 0: it never stood."""
        if stood_s >= self.yield_cap_s:
            self._yields = 0
        if ending == "taken_over":
            longest = min(self.yield_cap_s, self.yield_s * 2.0 ** min(self._yields, 20))
            self._yields += 1
            return self.uniform(longest / 2, longest)
        self._away_s = max(0.0, self._away_s - stood_s)
        wait_s = self.uniform(0.0, min(self.cap_s, max(self.first_s, self._away_s)))
        self._away_s += wait_s
        return wait_s
