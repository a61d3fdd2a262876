"""When a round may close."""

from __future__ import annotations

import pytest

from fog_learning.job.sections import Stragglers
from fog_learning.rounds.closing import RECENT, Closing, deadline, ends_at, median, needed, stale_weight


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


def closing(**stragglers: object) -> Closing:
    return Closing(Stragglers(**stragglers))  # type: ignore[arg-type]


def test_a_round_closes_when_nobody_is_missing() -> None:
    round_ = closing()
    round_.open(10.0, 4)
    assert round_.offer(11.0, 3, 4, complete=False) == "open"
    assert round_.offer(12.0, 0, 0, complete=True) == "open", "without an update there is nothing to close"
    assert round_.offer(13.0, 4, 4, complete=True) == "close"
    assert round_.until(3, 4) is None and round_.wakes_at() == (None, None)


def test_the_fixed_deadline_closes_with_one_update_and_never_with_none() -> None:
    round_ = closing(deadline_s=30.0)
    round_.open(10.0, 4)
    assert round_.until(0, 4) == 40.0 and round_.wakes_at() == (None, 40.0)
    assert round_.offer(39.0, 1, 4, complete=False) == "open"
    assert round_.offer(40.0, 0, 4, complete=False) == "open"
    assert round_.offer(41.0, 1, 4, complete=False) == "late"
    assert round_.wakes_at() == (None, None), "a deadline that has passed wakes nobody"
    round_.open(50.0, 4)
    assert round_.offer(51.0, 1, 4, complete=False) == "open", "the next round has its own"


def test_the_adaptive_deadline_counts_once_the_quorum_is_there() -> None:
    round_ = closing(quorum=0.5, grace_s=1.0)
    round_.open(0.0, 4)
    for at in (2.0, 2.0):
        round_.arrived(at)
    assert round_.offer(2.0, 2, 4, complete=False) == "open", "the first round takes its own arrivals"
    assert round_.closes_at == 3.0 == round_.until(2, 4)
    assert round_.offer(3.0, 2, 4, complete=False) == "late"
    round_.close()
    round_.open(10.0, 4)
    assert round_.closes_at == 13.0
    assert round_.until(1, 4) is None, "without the quorum the deadline does not count"
    assert round_.offer(14.0, 1, 4, complete=False) == "open"
    assert round_.offer(15.0, 2, 4, complete=False) == "late", "it has passed: the quorum closes the round"


def test_arrivals_are_bounded_and_old_updates_say_nothing_of_the_pace() -> None:
    round_ = closing(quorum=0.5)
    for number in range(50):
        round_.open(10.0 * number, 4)
        for _ in range(10):
            round_.arrived(10.0 * number + 1.0)
    round_.arrived(500.0, rounds_late=2)
    assert len(round_.recent) <= RECENT + 10
    assert set(round_.recent) == {1.0}
    round_.arrived(491.5, rounds_late=1)
    assert round_.recent[-1] == 11.5, "of the round before: since its own opening"
