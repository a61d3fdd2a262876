"""How long to stay away from a broker after a connection ended. Pure; full jitter, so that a fleet does not come back in step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Ending = Literal["unreachable", "refused", "lost", "hung_up", "taken_over"]
"""unreachable: no connection or no CONNACK. refused: the broker said no. lost: the network failed. hung_up: the broker
closed without a reason (also: MQTT 3.1.1, another client with our id). taken_over: the broker said that such a client came."""


@dataclass(slots=True)
class Backoff:
    first_s: float = 1.0
    cap_s: float = 30.0
    """After failed attempts and lost connections."""
    hung_up_cap_s: float = 120.0
    """After short connections that the broker closed: two clients with one id would kick each other out for ever."""
    taken_over_s: float = 600.0
    """The newer of two clients with one id wins; the older comes to look again after half to all of this."""
    settled_s: float = 60.0
    """A connection that stood this long was a good one: the next wait is short again."""
    uniform: Callable[[float, float], float] = field(default_factory=lambda: Random().uniform)
    _failures: int = 0

    def wait_s(self, ending: Ending, stood_s: float) -> float:
        """Seconds until the next attempt, after a connection that stood for stood_s (0: never) ended like this."""
        if ending == "taken_over":
            return self.uniform(self.taken_over_s / 2, self.taken_over_s)
        if stood_s >= self.settled_s:
            self._failures = 0
        cap = self.hung_up_cap_s if ending == "hung_up" and stood_s > 0 else self.cap_s
        longest = min(cap, self.first_s * 2.0 ** min(self._failures, 20))
        self._failures += 1
        if ending == "hung_up" and self._failures > 2:
            return self.uniform(longest / 2, longest)
        return self.uniform(0.0, longest)
