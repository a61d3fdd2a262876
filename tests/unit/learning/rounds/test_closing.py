"""When a round may close."""

from __future__ import annotations

import pytest

from fog_learning.job.sections import Stragglers
from fog_learning.rounds.closing import deadline, ends_at, median, needed, stale_weight


@pytest.mark.parametrize(
    ("quorum", "live", "need"),
    [(1.0, 4, 4), (0.8, 4, 3), (0.8, 5, 4), (0.5, 4, 2), (0.5, 3, 1), (0.01, 4, 1), (0.7, 10, 7), (0.5, 0, 1), (0.6, 5, 3), (0.99, 2, 1)],
)
def test_needed_is_rounded_down_and_never_none(quorum: float, live: int, need: int) -> None:
    assert needed(quorum, live) == need


def test_the_median_of_an_even_number_is_between_the_middle_two() -> None:
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5
    assert median([5.0, 1.0, 2.0]) == 2.0
    with pytest.raises(ValueError, match="no values"):
        median([])


@pytest.mark.parametrize("quorum", [0.8, 1.0])
def test_a_fixed_deadline_counts_with_any_quorum(quorum: float) -> None:
    assert ends_at(Stragglers(quorum=quorum, deadline_s=30.0), 12.0) == 42.0
    assert ends_at(Stragglers(quorum=quorum), 12.0) is None


def test_with_quorum_1_there_is_no_adaptive_deadline() -> None:
    assert deadline(Stragglers(deadline_s=30.0), [1.0]) is None


def test_the_adaptive_deadline_is_median_plus_k_mad_and_at_least_the_grace() -> None:
    plan = Stragglers(quorum=0.8, mad_factor=4.0, grace_s=1.0)
    assert deadline(plan, []) is None
    assert deadline(plan, [10.0, 12.0, 14.0]) == 12.0 + 4 * 2.0
    assert deadline(plan, [10.0, 10.0, 10.0]) == 11.0
    assert deadline(plan, [10.0, 10.0, 10.0, 10.0, 500.0]) == 11.0, "one straggler does not move it"


def test_staleness_lowers_the_weight_with_the_age() -> None:
    assert stale_weight(100, 0, 0.5) == 100
    assert stale_weight(100, 3, 0.5) == 50
    assert stale_weight(100, 3, 0.0) == 100
