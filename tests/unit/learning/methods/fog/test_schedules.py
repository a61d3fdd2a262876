"""fog: sampled clusters, periods and quorums in random schedules."""

from __future__ import annotations

from typing import Any

import pytest

from fog_common.errors import ConfigError
from fog_common.runtime.machine import (
    Command,
    Delivered,
    Event,
    Joined,
    Left,
    Peer,
    Rewound,
    Send,
)
from fog_learning.backend.plain_ops import OPS, examples, gain
from fog_learning.clusters.messages import Contribution, Ready
from fog_learning.job.sections import JobFile, Layer, Stragglers, Topology
from fog_learning.methods import resolve_method
from support.few import few
from support.fog_runs import Watch, job, run, weights_of
from support.schedules import Faults, Schedule, Seat
from support.trees import star, tree


def test_only_a_fraction_of_the_clusters_takes_part_and_not_always_the_same():
    schedule, _, _ = run(tree(2, 2, 2, 2), job(rounds=8, mode="vertical", clusters=0.5))
    records = schedule.seats["root"].history
    assert [record.numbers["slots"] for record in records] == [4.0] * 8
    assert len({record.examples for record in records}) > 1


def test_clusters_are_sampled_beside_trainers_of_the_root_that_always_take_part():
    peers = (*tree(2, 2, 2, 2), Peer("t8", "trainer", 8, "n8", "s8", "thing", parent="root"))
    _, _, watch = run(peers, job(rounds=8, mode="vertical", clusters=0.5))
    assert all(len(slots) == 5 and 8 in slots for slots in watch.included.values())
    assert {slot for slots in watch.included.values() for slot in slots} == set(range(9))


@pytest.mark.parametrize("seed", few(range(20), 4))
def test_sampled_clusters_are_counted_once_whatever_crashes(seed: int):
    peers = (*tree(2, 2, 1), Peer("t5", "trainer", 5, "n5", "s5", "thing", parent="root"))
    schedule, finish, watch = run(peers, job(rounds=4, mode="vertical", clusters=0.6), seed, Faults(duplicate=0.2, crashes=6))
    assert weights_of(schedule, finish) == watch.rounds[4]


@pytest.mark.parametrize("seed", range(5))
def test_in_block_rounds_happen_between_two_updates_to_the_parent(seed: int):
    schedule, finish, _ = run(tree(2, 3), job(rounds=2, mode="vertical", period=3), seed, Faults(duplicate=0.2), tolerance=0.0)
    groups, w = [[0, 1], [2, 3, 4]], 0.0
    for _ in range(2):
        ends = []
        for group in groups:
            own = w
            for _ in range(3):
                own = sum(examples(slot) * (0.5 * own + gain(slot)) for slot in group) / sum(examples(slot) for slot in group)
            ends.append((own, sum(examples(slot) for slot in group)))
        w = sum(n * own for own, n in ends) / sum(n for _, n in ends)
    assert weights_of(schedule, finish)[0] == pytest.approx(w, rel=1e-12)


def test_each_layer_has_a_period_of_its_own():
    """Two in-block rounds of the edge nodes for each of three of the fog nodes."""
    spec = job(rounds=2, mode="vertical", period=[2, 3])
    schedule, finish, _ = run(tree(2, 1, 2, between=2), spec, 1, Faults(duplicate=0.2), tolerance=0.0)

    def block(groups: Any, w: float, times: int) -> tuple[float, int]:
        """groups: slots, or lists of groups, which run blocks of their own."""
        if isinstance(groups, int):
            return 0.5 * w + gain(groups), examples(groups)
        n = 0
        for _ in range(times):
            ends = [block(group, w, 2) for group in groups]
            n = sum(count for _, count in ends)
            w = sum(count * end for end, count in ends) / n
        return w, n

    w = 0.0
    for _ in range(2):
        ends = [block([[0, 1], [2]], w, 3), block([[3, 4]], w, 3)]
        w = sum(count * end for end, count in ends) / sum(count for _, count in ends)
    assert weights_of(schedule, finish)[0] == pytest.approx(w, rel=1e-12)


def test_periods_of_layers_that_do_not_exist_are_refused():
    spec = JobFile("x", {"name": "fog", "period": [2, 2]}, {"name": "mlp"}, topology=Topology(layers=[Layer(on="edge")]))
    with pytest.raises(ConfigError, match=r"method\.period names 2 layers of inner nodes, topology\.layers 1"):
        resolve_method(spec)


class BlockWatch(Watch):
    """With in-block rounds: what anyone gives counts the examples of exactly the slots that it names, and the root weighs its members so."""

    def __init__(self) -> None:
        super().__init__(tolerance=0.0)
        self.given: dict[tuple[int, str], Ready | Contribution] = {}

    def __call__(self, schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Send) and isinstance(command.message, Ready | Contribution) and not getattr(command.message, "epoch", ()):
                said = command.message
                assert said.examples == sum(examples(slot) for slot in said.slots)
        if seat.peer.task == "root":
            if isinstance(event, Rewound):
                self.given.clear()
            if isinstance(event, Joined | Left):  # the part of a lost instance in a consensus is lost, what it gave upwards is not
                lost = event.peer.task
                self.given = {key: said for key, said in self.given.items() if key[1] != lost or isinstance(said, Contribution)}
            if isinstance(event, Delivered) and isinstance(event.message, Ready | Contribution) and not getattr(event.message, "epoch", ()):
                self.given.setdefault((event.message.number, event.sender), event.message)
        super().__call__(schedule, seat, event, commands)

    def check(self, number: int, weights: list[float], root: Any) -> None:
        super().check(number, weights, root)
        given = [update for (round_, _), update in self.given.items() if round_ == number]
        total = sum(update.examples for update in given)
        record = root.ledger.record(number)
        assert record is not None
        assert (record.examples, record.numbers["slots"]) == (total, sum(len(update.slots) for update in given))
        assert sum(weights[1:]) == pytest.approx(1.0, abs=1e-6)
        for update in given:
            assert sum(weights[1 + slot] for slot in update.slots) == pytest.approx(update.examples / total, abs=1e-6)


@pytest.mark.parametrize("seed", few(range(40), 4))
def test_in_block_rounds_survive_crashes(seed: int):
    mode = "d2d" if seed % 2 else "vertical"
    period = [3, [3, 2]][seed // 2 % 2]
    spec = job(rounds=2, mode=mode, period=period, consensus={"shrink": 1e-10, "stall_s": 500.0})
    watch = BlockWatch()
    leaves = Faults(duplicate=0.2, crashes=6, leaves=seed % 3, spare=("root",))
    schedule = Schedule(spec, 0, OPS, seed, leaves if seed % 4 < 2 else Faults(duplicate=0.2, crashes=6), watch, tree(2, 1, 2, between=2))
    assert weights_of(schedule, schedule.run()) == watch.rounds[2]


@pytest.mark.parametrize("seed", few(range(10), 3))
def test_a_slot_that_misses_the_last_in_block_round_still_counts_in_the_block(seed: int):
    """t1 is lost after its first training: what it gave is in the cluster's weights, and in its weight at the root."""
    watch = BlockWatch()
    schedule = Schedule(job(rounds=1, mode="vertical", period=2), 0, OPS, seed, Faults(duplicate=0.0), watch, tree(2, 2))
    while schedule.seats["root"].finished is None:
        schedule.act()
        aggregator: Any = schedule.seats["a0"].machine
        if aggregator.block == 1 and schedule.seats["t1"].peer.live:
            schedule._kill("t1", publish=True)
    record = schedule.seats["root"].history[0]
    assert record.numbers["slots"] == 4
    assert record.examples == sum(examples(slot) for slot in range(4))


def test_quorum_closes_a_round_without_the_slowest():
    spec = job(rounds=3, stragglers=Stragglers(quorum=0.6, deadline_s=30.0), mode="vertical")
    schedule = Schedule(spec, 0, OPS, 4, Faults(duplicate=0.0, early_wake=0.0), peers=star(5))
    while schedule.seats["root"].finished is None:
        schedule.act()
        schedule.seats["t4"].ops.clear()  # it never ends its training
    records = schedule.seats["root"].history
    assert [record.numbers["slots"] for record in records] == [4.0, 4.0, 4.0]
