"""The comparison of the overhead bench: what it calls a change, and how sure it is."""

from __future__ import annotations

import random

import pytest
from bench.__main__ import BARS, table
from bench.observability import ENOUGH_S, FIGURES, compared, median_interval


def test_a_change_of_three_per_cent_is_found_under_noise_and_outliers():
    noise = random.Random(5)
    asked: list[str] = []

    def seconds(factor: float):
        def run(name: str) -> float:
            asked.append(name)
            return factor * noise.lognormvariate(0.0, 0.01) * (10.0 if name.startswith("pair-3-") else 1.0)

        return run

    found = compared({"on": seconds(1.03), "off": seconds(1.0)}, pairs=20, most=20)
    assert found["pairs"] == 20 and len(asked) == 2 + 40
    assert found["lower"] < 0.03 < found["value"] < 0.05
    assert asked[2:6] == ["pair-0-off", "pair-0-on", "pair-1-on", "pair-1-off"]  # who goes first changes


def test_a_machine_that_is_not_quiet_gets_more_pairs_up_to_the_end_of_the_time():
    noise, now = random.Random(1), [0.0]

    def run(name: str) -> float:
        now[0] += 5.0
        return noise.lognormvariate(0.0, 0.5)

    assert compared({"on": run, "off": run}, pairs=20, most=60, clock=lambda: now[0])["pairs"] == int(ENOUGH_S / 10.0)


@pytest.mark.parametrize(("n", "low", "high"), [(6, 1, 6), (20, 6, 15), (25, 8, 18)])
def test_the_interval_of_the_median_is_that_of_the_binomial_law(n: int, low: int, high: int):
    assert median_interval([float(number) for number in range(1, n + 1)]) == (low, high)


def test_every_figure_has_a_bar():
    assert {name for name, _ in FIGURES.values()} <= BARS.keys()
    assert "MISSED" in table({"metrics_overhead": {"value": 0.06}}) and "ok" in table({"metrics_overhead": {"value": 0.04}})
