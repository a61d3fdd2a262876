"""Which segment of a chain goes where: the dynamic programme against trying everything."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_coordinator.placement.chain import Segment, Way, best_chains
from fog_coordinator.placement.greedy import greedy
from fog_coordinator.placement.steady import Steady

pytestmark = pytest.mark.thorough


class Instance:
    """A small random chain: speeds of places, FLOPs and memory of blocks, bytes of cuts, links between places."""

    def __init__(self, blocks, stages, required, speed, room, link):
        self.blocks, self.stages, self.required = blocks, stages, required
        self.speed, self.room, self.link = speed, room, link

    def price(self, segment: Segment[str], before: Segment[str] | None) -> float | None:
        work = self.blocks[segment.first : segment.last]
        if sum(size for _, size, _ in work) > self.room[segment.place]:
            return None
        seconds = max(flops for flops, _, _ in work) + sum(flops for flops, _, _ in work) / self.speed[segment.place]  # not additive over blocks
        if before is not None:
            seconds += self.blocks[segment.first - 1][2] * self.link[before.place, segment.place]
        return seconds

    def everything(self) -> list[Way[str]]:
        """All plans: each block says its stage, stages do not go back; each stage that is used says its place."""
        ways = []
        n = len(self.blocks)
        for stages_of in product(range(len(self.stages)), repeat=n):
            if list(stages_of) != sorted(stages_of) or not set(self.required) <= set(stages_of):
                continue
            used = sorted(set(stages_of))
            for places in product(*(self.stages[stage] for stage in used)):
                segments, price = [], 0.0
                for stage, place in zip(used, places, strict=True):
                    first = stages_of.index(stage)
                    segment = Segment(stage, place, first, first + stages_of.count(stage))
                    extra = self.price(segment, segments[-1] if segments else None)
                    if extra is None:
                        break
                    price += extra
                    segments.append(segment)
                else:
                    ways.append(Way(price, tuple(segments)))
        return sorted(ways, key=lambda way: way.price)


@st.composite
def instances(draw) -> Instance:
    whole = st.integers(1, 9)
    stages, names = [], []
    for stage in range(draw(st.integers(1, 4))):
        here = [f"s{stage}p{index}" for index in range(draw(st.integers(1, 3)))]
        stages.append(here)
        names += here
    blocks = draw(st.lists(st.tuples(whole, whole, whole), min_size=1, max_size=5))
    required = draw(st.sets(st.integers(0, len(stages) - 1), max_size=len(stages)))
    return Instance(
        blocks,
        stages,
        tuple(sorted(required)),
        {name: draw(whole) for name in names},
        {name: draw(st.integers(4, 40)) for name in names},
        {pair: draw(st.integers(0, 9)) for pair in product(names, names)},
    )


@settings(max_examples=400, deadline=None)
@given(instances(), st.integers(1, 4))
def test_dynamic_programming_equals_brute_force(instance: Instance, keep: int):
    """The cheapest plan and the runners-up, for prices that depend on the place before and do not add up over blocks."""
    found = best_chains(len(instance.blocks), instance.stages, instance.price, required=instance.required, keep=keep)
    everything = instance.everything()
    assert [round(way.price, 9) for way in found] == [round(way.price, 9) for way in everything[:keep]]
    assert len({way.segments for way in found}) == len(found)
    for way in found:
        assert way.segments in {other.segments for other in everything}


def test_an_impossible_chain_has_no_plan():
    assert best_chains(2, [["a"]], lambda segment, before: None) == []
    assert best_chains(1, [["a"], ["b"]], lambda segment, before: 1.0, required=(0, 1)) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(5, 30))
def test_greedy_gives_what_fits_and_for_one_task_the_best(needs: list[int], costs: list[int], room: int):
    places = list(range(len(costs)))

    def price(chosen: dict[int, int]) -> float | None:
        load = [sum(needs[task] for task, at in chosen.items() if at == place) for place in places]
        return None if max(load) > room else float(sum(needs[task] * costs[at] for task, at in chosen.items()))

    found = greedy([(task, float(need)) for task, need in enumerate(needs)], dict.fromkeys(range(len(needs)), places), price)
    best = min((cost for at in product(places, repeat=len(needs)) if (cost := price(dict(enumerate(at)))) is not None), default=None)
    if found is None:
        assert best is None or len(needs) > 1
    else:
        cost = price(found)
        assert cost is not None and best is not None and cost >= best
        assert len(needs) > 1 or cost == best


# -- hysteresis ----------------------------------------------------------------------------


def ready(steady: Steady, now: float, best: float, name: str = "b", current: float | None = 10.0) -> bool:
    return steady.ready(now, current, best, name, margin=0.2, hold_s=60.0)


def test_a_small_win_never_moves_anything():
    steady = Steady()
    assert not any(ready(steady, float(now), 8.5) for now in range(0, 1000, 10))


def test_a_clear_win_moves_only_when_it_has_held():
    steady = Steady()
    assert [ready(steady, now, 5.0) for now in (0.0, 30.0, 59.0, 60.0)] == [False, False, False, True]


def test_a_win_that_comes_and_goes_begins_anew():
    steady = Steady()
    assert not ready(steady, 0.0, 5.0)
    assert not ready(steady, 50.0, 9.0)
    assert not ready(steady, 61.0, 5.0)
    assert ready(steady, 121.0, 5.0)


def test_two_plans_that_take_turns_move_nothing():
    steady = Steady()
    assert not any(ready(steady, float(now), 5.0, "b" if now % 100 else "c") for now in range(0, 2000, 50))


def test_a_plan_that_is_not_possible_any_more_is_left_at_once():
    assert ready(Steady(), 0.0, 50.0, current=None)
