"""fog: trees of clusters in random schedules. Weights carry how much of each slot they hold, so every count can be checked."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fog_common.errors import ConfigError
from fog_common.machine import Command, Event, Finish, Measure, Peer, Run, Save, Send
from fog_learning.job import Evaluation, Job, Stragglers, Train
from fog_learning.methods import resolve_method
from fog_learning.methods.cluster import Call
from fog_learning.methods.consensus import full, ring
from fog_learning.methods.tradeoff import LinkCosts, choose
from fog_sim.plain_ops import OPS, SLOTS, examples, flat, gain, shares
from support.schedules import Faults, Schedule, Seat

# -- fleets ------------------------------------------------------------------------------------


def star(trainers: int) -> tuple[Peer, ...]:
    return (
        Peer("root", "server", -1, "c", "cloud", "cloud"),
        *(Peer(f"t{i}", "trainer", i, f"n{i}", "s0", "thing", parent="root") for i in range(trainers)),
    )


def tree(*clusters: int, between: int = 0) -> tuple[Peer, ...]:
    """A server over aggregators of so many trainers; between > 0: groups of so many aggregators under one more layer."""
    peers, slot = [Peer("root", "server", -1, "c", "cloud", "cloud")], 0
    for index, size in enumerate(clusters):
        parent = f"g{index // between}" if between else "root"
        if between and index % between == 0:
            peers.append(Peer(parent, "aggregator", -1, f"f{parent}", "fog", "fog", parent="root"))
        peers.append(Peer(f"a{index}", "aggregator", -1, f"e{index}", f"s{index}", "edge", parent=parent))
        for _ in range(size):
            peers.append(Peer(f"t{slot}", "trainer", slot, f"n{slot}", f"s{index}", "thing", parent=f"a{index}"))
            slot += 1
    return tuple(peers)


def job(rounds: int = 3, stragglers: Stragglers = Stragglers(), **method: Any) -> Job:
    return Job("test", {"name": "fog", **method}, {"name": "mlp"}, train=Train(rounds=rounds), stragglers=stragglers)


class Watch:
    """Checks the weights of every round that the root saves: each slot counted once, in proportion, trained from the round before."""

    def __init__(self, tolerance: float = 1e-9) -> None:
        self.tolerance = tolerance
        self.errors: list[float] = []
        self.rounds: dict[int, list[float]] = {0: [0.0] * (1 + SLOTS)}
        self.included: dict[int, list[int]] = {}
        self.means: dict[str, list[Any]] = {}

    def __call__(self, schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Measure) and command.name == "consensus_error":
                self.errors.append(command.value)
            if isinstance(command, Run) and command.op in ("mean", "join", "spread"):
                life = f"{seat.peer.task}/{seat.peer.incarnation}/{seat.machine.head.line}/{command.op}"  # type: ignore[union-attr]
                assert command.tag not in self.means.setdefault(life, []), "one round was averaged twice"
                self.means[life].append(command.tag)
            if isinstance(command, Save) and seat.peer.task == "root" and command.label:
                self.check(command.label, schedule.contents[schedule._blob(seat, seat.machine.weights).digest], seat.machine)  # type: ignore[union-attr]

    def check(self, number: int, weights: list[float], root: Any) -> None:
        slots = [slot for slot in range(SLOTS) if abs(weights[1 + slot]) > 1e-4]
        self.rounds[number], self.included[number] = weights, slots
        if self.tolerance:
            assert weights[1:] == pytest.approx(shares(slots), abs=self.tolerance)
            before = self.rounds[number - 1][0]
            trained = sum(examples(slot) * (0.5 * before + gain(slot)) for slot in slots) / sum(examples(slot) for slot in slots)
            assert weights[0] == pytest.approx(trained, abs=self.tolerance)
            record = next(record for record in [*root.unrated, *root.history] if record.round == number)
            assert record.numbers["slots"] == len(slots)
            assert record.examples == sum(examples(slot) for slot in slots)


def run(peers: tuple[Peer, ...], spec: Job, seed: int = 0, faults: Faults = Faults(), tolerance: float = 1e-9) -> tuple[Schedule, Finish, Watch]:
    watch = Watch(tolerance)
    schedule = Schedule(spec, 0, OPS, seed, faults, watch, peers)
    return schedule, schedule.run(), watch


def weights_of(schedule: Schedule, finish: Finish) -> list[float]:
    assert not finish.why, finish.why
    ref = finish.refs["weights"]
    value: list[float] = schedule.contents[ref.digest]  # type: ignore[union-attr]
    return value


# -- a tree that averages upwards is federated averaging -----------------------------------------


@pytest.mark.parametrize(
    "peers",
    [star(5), tree(2, 3), tree(1, 4), tree(2, 1, 2, between=2), tree(1, 1, 3, between=2)],
    ids=["star", "two layers", "uneven", "three layers", "deep"],
)
@pytest.mark.parametrize("seed", range(6))
def test_a_vertical_tree_equals_the_flat_star(peers: tuple[Peer, ...], seed: int):
    schedule, finish, _ = run(peers, job(mode="vertical", local_steps=1), seed)
    weights = weights_of(schedule, finish)
    assert weights[0] == pytest.approx(flat(3, 5), rel=1e-12)
    assert weights[1:] == pytest.approx(shares(range(5)), rel=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_a_vertical_tree_counts_every_slot_once_whatever_crashes(seed: int):
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=8)
    peers = [tree(2, 1, 2, between=2), tree(3, 2), star(4)][seed % 3]
    schedule, finish, watch = run(peers, job(mode="vertical"), seed, faults)
    assert weights_of(schedule, finish) == watch.rounds[3]
    assert sorted(watch.included) == [1, 2, 3]


# -- sideways ------------------------------------------------------------------------------------


@pytest.mark.parametrize("uplink", ["sample", "diversity"])
@pytest.mark.parametrize("graph", ["full", "ring", "geometric", "small_world"])
@pytest.mark.parametrize("peers", [star(5), tree(2, 3), tree(3, 1, 1, between=2)], ids=["star", "two layers", "three layers"])
def test_d2d_with_enough_turns_equals_the_flat_star(peers: tuple[Peer, ...], graph: str, uplink: str):
    spec = job(mode="d2d", uplink=uplink, consensus={"graph": graph, "shrink": 1e-10})
    schedule, finish, watch = run(peers, spec, 3, tolerance=1e-6)
    weights = weights_of(schedule, finish)
    assert weights[0] == pytest.approx(flat(3, 5), abs=1e-6)
    assert weights[1:] == pytest.approx(shares(range(5)), abs=1e-6)
    assert all(error < 1e-6 for error in watch.errors)


@pytest.mark.parametrize("seed", range(60))
def test_d2d_counts_nothing_twice_and_loses_nothing_whatever_crashes(seed: int):
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=6)
    peers = [tree(3, 2), tree(2, 1, 2, between=2), star(4)][seed % 3]
    uplink = "diversity" if seed % 2 else "sample"
    spec = job(mode="d2d", uplink=uplink, consensus={"graph": "ring", "shrink": 1e-10, "stall_s": 500.0})
    schedule, finish, watch = run(peers, spec, seed, faults, tolerance=1e-6)
    assert weights_of(schedule, finish) == watch.rounds[3]
    assert sorted(watch.included) == [1, 2, 3]


@pytest.mark.parametrize("seed", range(40))
def test_members_that_leave_for_good_do_not_stop_the_round(seed: int):
    faults = Faults(duplicate=0.2, crashes=2, leaves=2, spare=("root",))
    peers = [tree(3, 3), star(5), tree(2, 2, 2, between=2)][seed % 3]
    mode = ["d2d", "vertical", "auto"][seed % 3]
    spec = job(mode=mode, consensus={"shrink": 1e-10, "stall_s": 500.0}, downlink="relay" if seed % 2 else "direct")
    schedule, finish, watch = run(peers, spec, seed, faults, tolerance=1e-6)
    assert weights_of(schedule, finish) == watch.rounds[3]


def test_few_turns_leave_an_error_and_it_is_reported():
    exact, _, _ = run(star(6), job(rounds=1, mode="vertical"))
    schedule, finish, watch = run(star(6), job(rounds=1, mode="d2d", consensus={"graph": "ring", "turns": 2}), tolerance=0.0)
    mean = weights_of(exact, exact.seats["root"].finished)  # type: ignore[arg-type]
    away = math.dist(weights_of(schedule, finish), mean)
    assert 0 < away <= watch.errors[0] * (1 + 1e-9)
    record = schedule.seats["root"].machine.progress()[1][0]  # type: ignore[union-attr]
    assert record.numbers["consensus_error"] == watch.errors[0]


def test_max_error_adds_turns_until_the_measured_error_is_below_it():
    _, _, watch = run(star(6), job(rounds=2, mode="d2d", consensus={"graph": "ring", "turns": 1, "max_error": 1e-7}), tolerance=1e-6)
    assert len(watch.errors) == 2
    assert all(error <= 1e-7 for error in watch.errors)


def test_a_link_that_is_silent_is_left_out_and_the_consensus_begins_again():
    spec = job(rounds=1, mode="d2d", consensus={"graph": "ring", "shrink": 1e-10, "stall_s": 5.0})
    schedule = Schedule(spec, 0, OPS, 1, Faults(duplicate=0.0), Watch(1e-6), star(5))

    def cut() -> None:
        schedule.letters = [x for x in schedule.letters if not (type(x.message).__name__ == "Share" and {x.sender, x.to} == {"t0", "t1"})]

    while schedule.seats["root"].finished is None:
        schedule.act()
        cut()
    weights = weights_of(schedule, schedule.seats["root"].finished)
    assert schedule.measured["broken_links"] >= 1
    assert weights[0] == pytest.approx(flat(1, 5), abs=1e-6)
    assert weights[1:] == pytest.approx(shares(range(5)), abs=1e-6)


# -- what crosses the uplink ---------------------------------------------------------------------


def test_d2d_sends_one_vector_down_and_one_up_per_cluster():
    schedule, _, _ = run(tree(5, 5), job(rounds=4, mode="d2d", consensus={"turns": 3}), 0, Faults(duplicate=0.0))
    # each round: 2 calls to the aggregators' first … (the root's cluster is d2d, too, but its members are of two sites: vertical)
    assert schedule.sent["Update"] == 4 * (2 + 2)
    assert schedule.sent["Call"] == 4 * (2 + 10)


def test_the_head_calls_one_member_who_passes_the_weights_on():
    calls: list[tuple[str, str]] = []

    def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        calls.extend((seat.peer.task, command.to) for command in commands if isinstance(command, Send) and isinstance(command.message, Call))

    Schedule(job(rounds=1, mode="d2d", consensus={"turns": 1}), 0, OPS, 0, Faults(duplicate=0.0), watch, star(4)).run()
    assert len([to for sender, to in calls if sender == "root"]) == 1
    assert {to for _, to in calls} == {"t0", "t1", "t2", "t3"}


# -- schedules -----------------------------------------------------------------------------------


def test_only_a_fraction_of_the_clusters_takes_part_and_not_always_the_same():
    schedule, _, _ = run(tree(2, 2, 2, 2), job(rounds=8, mode="vertical", clusters=0.5))
    records = schedule.seats["root"].machine.progress()[1]  # type: ignore[union-attr]
    assert [record.numbers["slots"] for record in records] == [4.0] * 8
    assert len({record.examples for record in records}) > 1


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


@pytest.mark.parametrize("seed", range(20))
def test_in_block_rounds_survive_crashes(seed: int):
    mode = "d2d" if seed % 2 else "vertical"
    spec = job(rounds=2, mode=mode, period=3, consensus={"shrink": 1e-10, "stall_s": 500.0})
    schedule, finish, watch = run(tree(2, 1, 2, between=2), spec, seed, Faults(duplicate=0.2, crashes=6), tolerance=0.0)
    assert weights_of(schedule, finish) == watch.rounds[2]


def test_quorum_closes_a_round_without_the_slowest():
    spec = job(rounds=3, stragglers=Stragglers(quorum=0.6, deadline_s=30.0), mode="vertical")
    schedule = Schedule(spec, 0, OPS, 4, Faults(duplicate=0.0, early_wake=0.0), peers=star(5))
    while schedule.seats["root"].finished is None:
        schedule.act()
        schedule.seats["t4"].ops.clear()  # it never ends its training
    records = schedule.seats["root"].machine.progress()[1]  # type: ignore[union-attr]
    assert [record.numbers["slots"] for record in records] == [4.0, 4.0, 4.0]


# -- choice --------------------------------------------------------------------------------------


def test_auto_goes_sideways_where_that_is_cheaper_and_says_why():
    costs = LinkCosts(up_j_per_byte=1e-5, d2d_j_per_byte=1e-7)
    cheap = choose(full(10), 1, 4_000_000, costs, "energy")
    assert cheap.d2d
    assert cheap.why.startswith("energy: d2d ")
    dear = choose(ring(10), 200, 4_000_000, costs, "energy")
    assert not dear.d2d
    assert dear.d2d_j == pytest.approx(2 * 4e6 * 1e-5 + (200 * 20 * 4e6 + 9 * 4e6) * 1e-7)
    assert choose(ring(10), 200, 4_000_000, costs, "uplink").d2d
    assert not choose(ring(10), 200, 4_000_000, costs, "latency").d2d


def test_members_of_several_sites_average_upwards():
    peers = (*star(2)[:2], Peer("t1", "trainer", 1, "n1", "elsewhere", "thing", parent="root"))
    schedule, finish, watch = run(peers, job(mode="d2d"))
    assert watch.errors == []
    assert weights_of(schedule, finish)[0] == pytest.approx(flat(3, 2), rel=1e-12)


def test_what_fog_cannot_do_is_refused():
    with pytest.raises(ConfigError, match=r"evaluation\.where"):
        resolve_method(Job("x", {"name": "fog"}, {"name": "mlp"}, evaluation=Evaluation(where="federated")))
    with pytest.raises(ConfigError, match=r"stragglers\.late"):
        resolve_method(Job("x", {"name": "fog"}, {"name": "mlp"}, stragglers=Stragglers(late="accept")))
    with pytest.raises(ConfigError, match=r"method\.consensus\.shrink"):
        resolve_method(Job("x", {"name": "fog", "consensus": {"shrink": 2.0}}, {"name": "mlp"}))


def test_saves_carry_no_half_done_consensus():
    saved: list[str] = []

    def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        if any(isinstance(command, Save) for command in commands) and seat.peer.role != "server":
            saved.append(seat.machine.member.mixing.phase)  # type: ignore[union-attr]

    Schedule(job(mode="d2d"), 0, OPS, 0, Faults(), watch, tree(2, 3)).run()
    assert saved
    assert set(saved) == {"idle"}
