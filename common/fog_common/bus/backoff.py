"""How long to stay away from a broker after a connection ended. Pure; full jitter, so that a fleet does not come back in step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Ending = Literal["unreachable", "refused", "lost", "taken_over"]
"""unreachable: no connection. refused: no CONNACK, or one that says no. lost: broker or network failed. taken_over: the
broker closed this connection while it goes on serving others: most likely another client with our id."""


@dataclass(slots=True)
class Backoff:
    first_s: float = 1.0
    """No wait is longer than the absence so far, or this: a broker that was away for a second is not stayed away from for ten."""
    cap_s: float = 30.0
    yield_s: float = 10.0
    """Of two clients with one id the newer stays: the older comes to look after half to all of this, twice as long each time …"""
    yield_cap_s: float = 600.0
    """… up to this; a connection that stood longer than this starts anew."""
    uniform: Callable[[float, float], float] = field(default_factory=lambda: Random().uniform)
    _away_s: float = 0.0
    """Waited so far; each second of a connection that stood takes one off."""
    _yields: int = 0

    def wait_s(self, ending: Ending, stood_s: float) -> float:
        """Seconds until the next attempt, after a connection that stood for stood_s (0: never) ended like this."""
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
