"""Against thrash: a new plan must win by a margin and hold for a time before anything moves. Pure."""

from __future__ import annotations

from msgspec import Struct


class Steady(Struct):
    """A better plan of one job, and since when it is better. Its name tells it from other plans."""

    better: str = ""
    since: float = 0.0

    def ready(self, now: float, current: float | None, best: float, name: str, *, margin: float, hold_s: float) -> bool:
        """Whether to change to the plan `name` now. current, best: what is to be small, of the plan that stands and of the best one.

        current None: the plan that stands is not possible any more; then it changes at once. The time begins anew when another plan
        is best or the win is within the margin, so two plans that take turns never move anything.
        """
        if current is None:
            self.better = ""
            return True
        if best >= current * (1.0 - margin):
            self.better = ""
            return False
        if name != self.better:
            self.better, self.since = name, now
        if now - self.since < hold_s:
            return False
        self.better = ""
        return True
