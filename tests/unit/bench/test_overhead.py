"""The comparison of the overhead bench: what it calls a change, and how sure it is."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from bench.__main__ import BARS, table
from bench.observability import BLOCKS, ENOUGH_S, FIGURES, Race, blocks, compared, median_interval, turns, turns_of


def ran(factor: float, noise: random.Random, sd: float, drift: float = 0.0) -> list[Race]:
    """What a pair of jobs gives on a machine that gets slower by `drift` with every turn."""
    plan = turns(BLOCKS)
    speed = {"on": factor, "off": 1.0}
    return blocks(
        [(side, [speed[side] * (1.0 + drift * at) * noise.lognormvariate(0.0, sd) for _ in range(40)]) for at, (side, _) in enumerate(plan)]
    )


def test_a_change_of_three_per_cent_is_found_under_noise_and_drift():
    noise = random.Random(5)
    found = compared(lambda name: ran(1.03, noise, 0.05, drift=0.01), least=20)
    assert found["comparisons"] == 20 and found["jobs"] == 2
    assert found["lower"] < 0.03 < found["value"] < 0.04


def test_a_machine_that_is_not_quiet_gets_more_comparisons_up_to_the_end_of_the_time():
    noise, now = random.Random(1), [0.0]

    def race(name: str) -> list[Race]:
        now[0] += 40.0
        return ran(1.0, noise, 2.0)

    assert compared(race, least=20, clock=lambda: now[0])["comparisons"] == BLOCKS * -int(-ENOUGH_S // 40.0)


def test_the_two_jobs_alternate_and_each_is_in_the_middle_of_every_other_comparison():
    plan = turns(4)
    assert all(before[0] != after[0] for before, after in pairwise(plan))
    assert [plan[3 * number + 1][0] for number in range(4)] == ["on", "off", "on", "off"]
    assert sum(seconds for side, seconds in plan if side == "on") == sum(seconds for side, seconds in plan if side == "off")


def test_turns_are_what_lies_between_pauses_but_for_their_first_rounds():
    assert turns_of([9e-2, 1e-2, 1.7, 5e-2, 4e-2, 2e-2, 3e-2, 2.1, 5e-2, 5e-2, 6e-2]) == [[2e-2, 3e-2], [6e-2]]


def test_a_pair_of_jobs_with_an_empty_turn_is_not_used_and_too_many_of_them_end_the_run():
    empty: list[tuple[str, list[float]]] = [("off", [1.0]), ("on", []), ("off", [1.0])]
    assert blocks(empty) == []
    with pytest.raises(SystemExit, match="4 of 4 pairs"):
        compared(lambda name: blocks(empty), least=20)


@pytest.mark.parametrize(("n", "low", "high"), [(6, 1, 6), (20, 6, 15), (25, 8, 18)])
def test_the_interval_of_the_median_is_that_of_the_binomial_law(n: int, low: int, high: int):
    assert median_interval([float(number) for number in range(1, n + 1)]) == (low, high)


def test_every_figure_has_a_bar():
    assert {name for name, _ in FIGURES.values()} <= BARS.keys()
    assert "MISSED" in table({"metrics_overhead": {"value": 0.06}}) and "ok" in table({"metrics_overhead": {"value": 0.04}})
