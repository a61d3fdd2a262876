"""When a round may close: quorum and deadline (pure). Used by every method that works in rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fog_learning.job.sections import Stragglers


def needed(quorum: float, live: int) -> int:
    """How many of `live` tasks must have answered before the adaptive deadline counts: rounded down, so that a quorum below 1 always
    lets somebody be missing; at least 1."""
    return max(1, math.floor(quorum * live + 1e-9))


def median(values: Sequence[float]) -> float:
    """The middle value (mean of the middle two). ValueError for none."""
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
    """What an update of `examples` counts when it is `age` rounds late: n (1 + s)^-a (Xie et al. 2019, polynomial)."""
    return float(examples * (1.0 + age) ** -staleness)
