"""Closing of a round by quorum and deadline, for every method that works in rounds. Pure.

A round waits for all tasks that take part. With a quorum below 1 it closes without missing tasks once the quorum has answered and the
adaptive deadline, which follows from recent arrivals, has passed. After the fixed deadline it closes with its updates, at least one.
Later updates are late, and the method decides about them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct, field

from fog_learning.job.sections import Stragglers

Verdict = Literal["open", "late", "close"]
"""open: the round stays open. late: it closes without missing tasks, whose updates are late. close: it closes with all tasks."""

RECENT: Final = 16
"""Smallest number of arrivals that are remembered; more, if four rounds have more."""


class Closing(Struct):
    """Deadlines of the open round of one root or head. Times are job time, in seconds."""

    stragglers: Stragglers
    opened_at: float = 0.0
    before_at: float = 0.0
    """Opening of the previous round."""
    closes_at: float | None = None
    """The adaptive deadline; None if it is unknown or has passed."""
    overdue: bool = False
    """The adaptive deadline has passed: the round closes as soon as the quorum has answered."""
    ended: bool = False
    """The fixed deadline has passed: the round closes as soon as there is an update."""
    recent: list[float] = field(default_factory=list)
    """Arrival times of recent updates, seconds after the opening of their round; bounded at every opening."""

    def open(self, now: float, members: int, called: int | None = None) -> None:
        """Open a round. called: number of members that take part; None: all."""
        self.before_at, self.opened_at = self.opened_at, now
        self.overdue, self.ended = False, False
        del self.recent[: -max(RECENT, 4 * members)]
        after = deadline(self.stragglers, self.recent[-max(RECENT, 4 * (members if called is None else called)) :])
        self.closes_at = None if after is None else now + after

    def arrived(self, now: float, rounds_late: int = 0) -> None:
        """Note the arrival of an update; one that is more than a round late does not count for the pace."""
        if rounds_late <= 1:
            self.recent.append(now - (self.before_at if rounds_late else self.opened_at))

    def offer(self, now: float, have: int, live: int, complete: bool) -> Verdict:
        """Whether the open round closes. have: updates that count; live: tasks that take part; complete: no live task is missing."""
        if self.closes_at is not None and now >= self.closes_at:
            self.closes_at, self.overdue = None, True
        if (end := self.ends_at()) is not None and now >= end - 1e-9:
            self.ended = True
        if have and complete:
            return "close"
        if have and self.ended:
            return "late"
        if complete or not self.enough(have, live):
            return "open"
        if self.overdue:
            return "late"
        if self.closes_at is None:  # the first round has only its own arrivals
            after = deadline(self.stragglers, self.recent)
            self.closes_at = None if after is None else max(now, self.opened_at + after)
        return "open"

    def close(self) -> None:
        """The round closes."""
        self.closes_at = None

    def enough(self, have: int, live: int) -> bool:
        """Whether a quorum below 1 has answered, so that the adaptive deadline counts."""
        return self.stragglers.quorum < 1.0 and have >= needed(self.stragglers.quorum, live)

    def ends_at(self) -> float | None:
        """The fixed deadline, while it has not passed."""
        return None if self.ended else ends_at(self.stragglers, self.opened_at)

    def until(self, have: int, live: int) -> float | None:
        """Latest time at which the round closes, by its present updates; None without a deadline."""
        times = (self.closes_at if self.enough(have, live) else None, self.ends_at())
        return min((at for at in times if at is not None), default=None)

    def wakes_at(self) -> tuple[float | None, float | None]:
        """Times at which `offer` is due again."""
        return self.closes_at, self.ends_at()


def needed(quorum: float, live: int) -> int:
    """Number of `live` tasks that must have answered before the adaptive deadline counts: at least 1, and rounded down, so that a quorum
    below 1 always lets a task be missing."""
    return max(1, math.floor(quorum * live + 1e-9))


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the middle two. ValueError without values."""
    if not values:
        raise ValueError("no values, no median")
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def deadline(stragglers: Stragglers, recent: Sequence[float]) -> float | None:
    """Seconds after the opening of a round at which it may close with a quorum; None: not known yet, or it waits for all.

    recent: arrival times of recent updates, in seconds after the opening of their rounds. Median + max(mad_factor x MAD, grace_s),
    MAD being the median absolute deviation. The fixed deadline, which needs no quorum, is `ends_at`.
    """
    if stragglers.quorum >= 1.0 or not recent:
        return None
    middle = median(recent)
    spread = median([abs(value - middle) for value in recent])
    return middle + max(stragglers.mad_factor * spread, stragglers.grace_s)


def ends_at(stragglers: Stragglers, opened_at: float) -> float | None:
    """Job time from which a round closes with what it has, be it one update; None: the job sets no such limit."""
    return None if stragglers.deadline_s is None else opened_at + stragglers.deadline_s


def stale_weight(examples: float, age: int, staleness: float) -> float:
    """Weight of an update of `examples` that is `age` rounds late: n (1 + s)^-a (Xie et al. 2019, polynomial)."""
    return float(examples * (1.0 + age) ** -staleness)
