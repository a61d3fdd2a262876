"""Whose joules they are: by what the workers did, with their source, and none lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_common.telemetry.metrics import SOURCES, USES, joules
from fog_common.wire.messages import Heartbeat, Planes, WorkerState
from fog_coordinator.accounts.energy import forget_readings, share_energy
from fog_coordinator.state.jobs import Job, Seat


def job(name: str, *roles: str) -> Job:
    seats = [Seat(f"{role}-1", role, 0, "pi-1", "home", "edge") for role in roles]
    return Job(name, name, "ada", "", {}, "fedavg", "server", False, 5, 0.0, 1, seats=seats)


def worker(name: str, cpu: float, sent: int = 0, received: int = 0, incarnation: int = 1, **roles: float) -> WorkerState:
    counters = {"cpu_seconds": cpu, **{f"role_{role}_seconds": seconds for role, seconds in roles.items()}}
    return WorkerState(name, incarnation, "ready", sent=Planes(up=sent), received=Planes(cast=received), counters=counters)


def beat(*workers: WorkerState, nonce: str = "n1", source: str = "modelled", **uses: float) -> Heartbeat:
    counters = {joules(source, use): value for use, value in uses.items()}
    return Heartbeat("pi-1", nonce, workers=workers, counters=counters, energy_j={source: sum(uses.values())})


def test_two_jobs_share_by_cpu_seconds_and_bytes_and_idle_equally():
    a, b = job("a", "trainer"), job("b", "trainer")
    share_energy([a, b], beat(worker("a", 1.0), worker("b", 1.0), idle=10.0))
    share_energy([a, b], beat(worker("a", 4.0, sent=100), worker("b", 2.0, sent=300, received=7), idle=20.0, compute=8.0, send=4.0, receive=1.0))
    assert a.energy_by == pytest.approx(
        {"trainer/modelled/idle": 5.0, "trainer/modelled/compute": 6.0, "trainer/modelled/send": 1.0, "trainer/modelled/receive": 0.0}
    )
    assert b.energy_by == pytest.approx(
        {"trainer/modelled/idle": 5.0, "trainer/modelled/compute": 2.0, "trainer/modelled/send": 3.0, "trainer/modelled/receive": 1.0}
    )
    assert (a.node_joules["pi-1"], b.node_joules["pi-1"]) == pytest.approx((12.0, 11.0))


def test_roles_of_one_worker_share_by_the_time_that_each_computed():
    both = job("a", "server", "trainer")
    share_energy([both], beat(worker("a", 1.0, trainer=1.0), idle=1.0))
    share_energy([both], beat(worker("a", 5.0, trainer=4.0, server=1.0), idle=3.0, compute=8.0))
    assert both.energy_by == pytest.approx(
        {"server/modelled/idle": 1.0, "trainer/modelled/idle": 1.0, "server/modelled/compute": 2.0, "trainer/modelled/compute": 6.0}
    )


def test_joules_that_the_agent_cannot_divide_are_of_unknown_use():
    one = job("a", "trainer")
    for total in (5.0, 9.0):
        share_energy([one], Heartbeat("pi-1", "n1", workers=(worker("a", total),), energy_j={"measured": total}))
    assert one.energy_by == {"trainer/measured/unknown": 4.0} and one.energy_j == {"measured": 4.0}


def test_a_restart_of_the_agent_loses_nothing_of_the_new_one_and_a_stay_away_is_not_paid_for():
    one = job("a", "trainer")
    share_energy([one], beat(worker("a", 1.0), idle=100.0))
    share_energy([one], beat(worker("a", 1.0, incarnation=2), nonce="n2", idle=3.0))
    assert one.energy_j == {"modelled": 3.0}
    forget_readings([one], beat(nonce="n2", idle=50.0))
    last = share_energy([], beat(nonce="n2", idle=50.0))
    share_energy([one], beat(worker("a", 1.0, incarnation=3), nonce="n2", idle=60.0), last)
    assert one.energy_j == {"modelled": 13.0}


def test_nonsense_of_a_peer_is_not_counted():
    one = job("a", "trainer")
    for _ in range(2):
        share_energy([one], Heartbeat("pi-1", "n1", workers=(worker("a", 1.0),), energy_j={"magic": 5.0, "measured": float("nan"), "fitted": -1.0}))
    assert one.energy_j == {} and one.energy_by == {}


amount = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(st.tuples(amount, amount, amount, amount, amount, st.sampled_from(SOURCES)), min_size=2, max_size=8))
def test_all_that_a_node_used_is_shared_and_never_twice(steps):
    """Whatever the workers did: the shares add up to the node's joules, by source and by use."""
    jobs, total, cpu = (
        [job("a", "trainer"), job("b", "server", "trainer"), job("c")],
        dict.fromkeys((joules(s, u) for s in SOURCES for u in USES), 0.0),
        [0.0] * 3,
    )
    total[joules("measured", "idle")] = 1.0
    first = True
    for *grown, source in steps:
        if not first:
            for use, by in zip(USES, grown, strict=False):
                total[joules(source, use)] += by
            cpu = [seconds + by for seconds, by in zip(cpu, grown, strict=False)]
        first = False
        by_source = {source: sum(total[joules(source, use)] for use in USES) for source in SOURCES}
        workers = tuple(worker(each.id, cpu[number], sent=int(cpu[number]), trainer=cpu[number]) for number, each in enumerate(jobs))
        share_energy(jobs, Heartbeat("pi-1", "n1", workers=workers, counters=total, energy_j=by_source))
    for source in SOURCES:
        for use in USES:
            mine = sum(value for each in jobs for key, value in each.energy_by.items() if key.endswith(f"/{source}/{use}"))
            ours = total[joules(source, use)] - (1.0 if (source, use) == ("measured", "idle") else 0.0)
            assert mine == pytest.approx(ours, rel=1e-6, abs=1e-3)
    assert sum(sum(each.energy_j.values()) for each in jobs) == pytest.approx(sum(total.values()) - 1.0, rel=1e-6, abs=1e-3)
