"""fedavg: random schedules of all its machines."""

from __future__ import annotations

from typing import Any

import pytest

from fog_common.errors import OpError
from fog_common.runtime.machine import (
    Command,
    Event,
    Ran,
    Rewound,
    Run,
    Started,
)
from fog_learning.job.sections import Evaluation, Stragglers
from fog_learning.methods.fedavg.server import Server
from support.fedavg_steps import OPS, job, train
from support.few import few
from support.schedules import Faults, Schedule, Seat, Stuck


class Watch:
    """What must never happen, checked after every step."""

    def __init__(self) -> None:
        self.lineage: dict[int, list[list[float]]] = {}
        self.aggregated: set[tuple[int, int]] = set()
        self.late = 0

    def __call__(self, schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        server = seat.machine
        if not isinstance(server, Server):
            return
        if isinstance(event, Started | Rewound):
            label = event.label if isinstance(event, Rewound) else 0
            self.lineage = {round_: parts for round_, parts in self.lineage.items() if round_ <= label}
        for command in commands:
            if isinstance(command, Run) and command.op == "mean":
                key = (seat.lives, server.round)
                assert key not in self.aggregated, f"round {server.round} was aggregated twice"
                self.aggregated.add(key)
        if isinstance(event, Ran) and event.tag[0] == "weights":
            parts = seat.values[event.refs["weights"].name]["parts"] if event.refs["weights"].name in seat.values else []
            self.lineage[int(event.tag[1])] = parts
            for slot, round_, n in parts:
                age = int(event.tag[1]) - round_
                assert 0 <= age <= (server.stragglers.late_rounds if server.stragglers.late == "accept" else 0)
                assert n == pytest.approx((10 + slot) * (1 + age) ** -server.stragglers.staleness)
                self.late += age > 0
            counted = [(slot, round_) for parts in self.lineage.values() for slot, round_, _ in parts]
            assert len(counted) == len(set(counted)), f"counted twice: {sorted(counted)}"
        deadlines = [at for at in server.closing.wakes_at() if at is not None]
        if server.phase == "open" and deadlines:
            assert seat.wake_at is not None, "a round is open with a deadline, but no wake-up is pending"
            assert seat.wake_at <= min(deadlines)
        assert len(server.heard) <= 2 + server.stragglers.late_rounds
        if server.phase == "open":
            assert server.waiting(0.0) is not None


JOBS = {
    "plain": job(),
    "fedopt": job(server_optimizer="adam"),
    "quorum": job(stragglers=Stragglers(quorum=0.5)),
    "fixed": job(stragglers=Stragglers(deadline_s=2.0)),
    "both": job(stragglers=Stragglers(quorum=0.5, deadline_s=2.0, grace_s=0.5)),
    "accept": job(rounds=6, stragglers=Stragglers(quorum=0.4, deadline_s=1.0, late="accept", late_rounds=2)),
    "federated": job(evaluation=Evaluation(where="federated", every=2)),
    "none": job(evaluation=Evaluation(where="none")),
}
FAULTS = {
    "calm": Faults(duplicate=0.0, early_wake=0.0),
    "noisy": Faults(duplicate=0.3, early_wake=0.1, lost_wake=0.3),
    "crashing": Faults(crashes=8),
    "shrinking": Faults(crashes=3, leaves=2, absent=("trainer-1", "trainer-3")),
}


@pytest.mark.parametrize("faults", few(FAULTS, 2))
@pytest.mark.parametrize("kind", few(JOBS, 2))
def test_any_schedule_ends_with_every_round_closed_once(kind: str, faults: str) -> None:
    late = 0
    for seed in range(15):
        watch = Watch()
        schedule = Schedule(JOBS[kind], 4, OPS, seed, FAULTS[faults], watch)
        finish = schedule.run()
        rounds = JOBS[kind].train.rounds
        assert finish.why == "", f"seed {seed}: {finish.why}"
        root = schedule.seats["server"].machine
        assert isinstance(root, Server)
        assert [record.round for record in schedule.seats["server"].history] == list(range(1, rounds + 1)), f"seed {seed}"
        if kind != "none":
            assert "accuracy" in finish.numbers
        if faults in ("calm", "noisy") and kind in ("plain", "federated"):
            assert all(record.updates == 4 and record.examples == 46 for record in schedule.seats["server"].history), (
                f"seed {seed}: somebody was not waited for"
            )
            assert [sorted(slot for slot, _, _ in parts) for parts in watch.lineage.values()] == [[0, 1, 2, 3]] * rounds
        late += watch.late
    assert (late > 0) == (kind == "accept"), "late updates count where the job says so, and nowhere else"


def test_a_job_whose_trainers_are_all_gone_says_what_it_waits_for() -> None:
    schedule = Schedule(job(rounds=50), 1, OPS, seed=1)
    for _ in range(40):
        schedule.act()
    schedule._kill("trainer-0", publish=True)
    with pytest.raises(Stuck, match="what='trainers', have=0, need=1"):
        schedule.run()


def test_ops_that_fail_now_and_then_cost_updates_but_not_the_job() -> None:
    calls = {"n": 0}

    def flaky(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        calls["n"] += 1
        if calls["n"] % 5 == 0:
            raise OpError("out of memory")
        return train(task, inputs, numbers)

    for seed in range(10):
        schedule = Schedule(job(rounds=6), 4, {**OPS, "train": flaky}, seed, watch=Watch())
        assert schedule.run().why == ""
        assert schedule.measured["troubled_updates"] > 0
