"""fog: trees of clusters in random schedules. Weights carry how much of each slot they hold, so every count can be checked."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_common.runtime.machine import (
    Blob,
    Command,
    Delivered,
    Event,
    Finish,
    Handle,
    Joined,
    Left,
    Measure,
    Peer,
    Ran,
    Rewound,
    Run,
    Save,
    Send,
    Started,
)
from fog_learning.backend.plain_ops import OPS, SLOTS, examples, flat, gain, shares
from fog_learning.clusters.graphs import full, ring
from fog_learning.clusters.messages import Call, Contribution, Links, PassOn, Ready
from fog_learning.clusters.tradeoff import LinkCosts, choose
from fog_learning.job.sections import Evaluation, Job, Layer, Stragglers, Topology, Train
from fog_learning.methods import resolve_method
from support.schedules import Faults, Schedule, Seat
from support.trees import star, tree


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


def test_a_slow_copy_of_a_call_takes_no_newer_ones_place():
    spec = job(mode="d2d")
    method, plan = resolve_method(spec)
    peers = tree(2, 3)
    leaf = next(peer for peer in peers if peer.role == "trainer")
    trainer = method.build(spec, plan, leaf)
    trainer.step(Started(peers), 0.0)

    def call(number: int) -> Call:
        return Call(number, number, Blob(f"w{number}", 4), leaf.parent, (1, 1), d2d=True)

    assert [command.op for command in trainer.step(Delivered(leaf.parent, call(4)), 1.0) if isinstance(command, Run)] == ["train"]
    for number in (6, 5):
        assert trainer.step(Delivered("a-neighbour", call(number)), 1.5) == [], "one at a time"
    after = trainer.step(Ran(("trained", 4, 1), {"weights": Handle("h")}, {"examples": 3.0, "loss": 1.0}), 2.0)
    assert [command.numbers["round"] for command in after if isinstance(command, Run)] == [6]


# -- sideways ------------------------------------------------------------------------------------


@pytest.mark.parametrize("uplink", ["sample", "diversity"])
@pytest.mark.parametrize("graph", ["full", "ring", "geometric", "small_world", "measured"])
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


@pytest.mark.parametrize("graph", ["measured", "ring"])
def test_a_link_that_was_silent_is_left_out_of_later_rounds_until_one_of_its_ends_is_a_new_instance(graph: str):
    """Else each round would wait for it for `stall_s`."""
    spec = job(rounds=6, mode="d2d", consensus={"graph": graph, "shrink": 1e-10, "stall_s": 50.0})
    watch = Watch(1e-6)
    schedule = Schedule(spec, 0, OPS, 1, Faults(duplicate=0.0), watch, star(5))
    linked: dict[int, list[set[str]]] = {}

    def saw(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        watch(schedule, seat, event, commands)
        for command in commands:
            if isinstance(command, Send) and isinstance(command.message, Links):
                linked.setdefault(command.message.epoch[-1], []).extend({command.to, name} for name in command.message.links)

    schedule.watch = saw
    again = False
    while schedule.seats["root"].finished is None:
        schedule.act()
        schedule.letters = [x for x in schedule.letters if not (type(x.message).__name__ == "Share" and {x.sender, x.to} == {"t0", "t1"})]
        if not again and schedule.root_saved == 3:
            again = True
            old = schedule._kill("t1", publish=False)
            schedule._return("t1", gone=(old,))
    assert not schedule.seats["root"].finished.why
    assert schedule.measured["broken_links"] == 2  # once, and once more for the new instance
    tried = [number for number in sorted(linked) if {"t0", "t1"} in linked[number]]
    assert tried[0] == 1
    assert len(tried) == 2
    assert all(number == 1 or number >= 4 for number in tried)
    assert [record.numbers["slots"] for record in schedule.seats["root"].machine.progress()[1]] == [5.0] * 6  # type: ignore[union-attr]


def test_links_that_the_cluster_cannot_do_without_are_tried_again():
    spec = job(mode="d2d")
    method, plan = resolve_method(spec)
    head = method.build(spec, plan, star(3)[0]).head  # type: ignore[attr-defined]
    head.meet(star(3), ("t0", "t1", "t2"))
    head.agreement.broken = [("t0", "t2"), ("t1", "t2")]  # t2 was away, not its links
    head.agreement.mend(("t0", "t1", "t2"))
    assert head.agreement.broken == []
    head.agreement.broken = [("t0", "t2")]
    head.agreement.mend(("t0", "t1", "t2"))
    assert head.agreement.broken == [("t0", "t2")]


# -- what crosses the uplink ---------------------------------------------------------------------


def test_d2d_sends_one_vector_down_and_one_up_per_cluster():
    schedule, _, _ = run(tree(5, 5), job(rounds=4, mode="d2d", consensus={"turns": 3}), 0, Faults(duplicate=0.0))
    # each round: 2 calls to the aggregators' first … (the root's cluster is d2d, too, but its members are of two sites: vertical)
    assert schedule.sent["Contribution"] == 4 * (2 + 2)
    assert schedule.sent["Call"] == 4 * (2 + 10)


def test_the_head_calls_one_member_who_passes_the_weights_on():
    calls: list[tuple[str, str]] = []

    def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        calls.extend((seat.peer.task, command.to) for command in commands if isinstance(command, Send) and isinstance(command.message, Call))

    Schedule(job(rounds=1, mode="d2d", consensus={"turns": 1}), 0, OPS, 0, Faults(duplicate=0.0), watch, star(4)).run()
    assert len([to for sender, to in calls if sender == "root"]) == 1
    assert {to for _, to in calls} == {"t0", "t1", "t2", "t3"}


@pytest.mark.parametrize("mode", ["vertical", "d2d"])
def test_who_joins_in_a_round_takes_the_model_from_a_neighbour_of_its_site(mode: str):
    """Whose Call came first, and whether a neighbour had one when the head was told of the newcomer."""
    calls: list[tuple[str, str]] = []
    asked: list[str] = []

    def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        if (
            isinstance(event, Joined)
            and seat.peer.task == "a1"
            and event.peer.task == "t4"
            and any("t4" in getattr(x.message, "relay", ()) for x in sent(commands))
        ):
            asked.extend(x.to for x in sent(commands) if isinstance(x.message, PassOn))
        if seat.peer.task == "t4" and isinstance(event, Delivered) and isinstance(event.message, Call):
            calls.append((event.sender, event.message.head))

    def sent(commands: list[Command]) -> list[Send]:
        return [command for command in commands if isinstance(command, Send)]

    relayed = 0
    for seed in range(12):
        calls.clear()
        asked.clear()
        spec = job(rounds=8, mode=mode, consensus={"shrink": 1e-10})
        Schedule(spec, 0, OPS, seed, Faults(duplicate=0.0, absent=("t4",)), watch, tree(2, 3)).run()
        if asked:
            relayed += 1
            assert asked[0] in ("t2", "t3")
            assert calls[0] == (asked[0], "a1")
    assert relayed, "it never joined in a round: the test shows nothing"


@pytest.mark.parametrize("seed", range(40))
def test_a_vertical_round_goes_on_when_the_neighbour_who_should_pass_the_call_is_gone(seed: int):
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=8, leaves=1, absent=("t1", "t4"), spare=("root",))
    _, finish, watch = run(tree(2, 3), job(rounds=4, mode="vertical"), seed, faults)
    assert not finish.why
    assert sorted(watch.included) == [1, 2, 3, 4]


# -- schedules -----------------------------------------------------------------------------------


def test_only_a_fraction_of_the_clusters_takes_part_and_not_always_the_same():
    schedule, _, _ = run(tree(2, 2, 2, 2), job(rounds=8, mode="vertical", clusters=0.5))
    records = schedule.seats["root"].machine.progress()[1]  # type: ignore[union-attr]
    assert [record.numbers["slots"] for record in records] == [4.0] * 8
    assert len({record.examples for record in records}) > 1


def test_clusters_are_sampled_beside_trainers_of_the_root_that_always_take_part():
    peers = (*tree(2, 2, 2, 2), Peer("t8", "trainer", 8, "n8", "s8", "thing", parent="root"))
    _, _, watch = run(peers, job(rounds=8, mode="vertical", clusters=0.5))
    assert all(len(slots) == 5 and 8 in slots for slots in watch.included.values())
    assert {slot for slots in watch.included.values() for slot in slots} == set(range(9))


@pytest.mark.parametrize("seed", range(20))
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
    spec = Job("x", {"name": "fog", "period": [2, 2]}, {"name": "mlp"}, topology=Topology(layers=[Layer(on="edge")]))
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
        record = next(record for record in [*root.unrated, *root.history] if record.round == number)
        assert (record.examples, record.numbers["slots"]) == (total, sum(len(update.slots) for update in given))
        assert sum(weights[1:]) == pytest.approx(1.0, abs=1e-6)
        for update in given:
            assert sum(weights[1 + slot] for slot in update.slots) == pytest.approx(update.examples / total, abs=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_in_block_rounds_survive_crashes(seed: int):
    mode = "d2d" if seed % 2 else "vertical"
    period = [3, [3, 2]][seed // 2 % 2]
    spec = job(rounds=2, mode=mode, period=period, consensus={"shrink": 1e-10, "stall_s": 500.0})
    watch = BlockWatch()
    leaves = Faults(duplicate=0.2, crashes=6, leaves=seed % 3, spare=("root",))
    schedule = Schedule(spec, 0, OPS, seed, leaves if seed % 4 < 2 else Faults(duplicate=0.2, crashes=6), watch, tree(2, 1, 2, between=2))
    assert weights_of(schedule, schedule.run()) == watch.rounds[2]


@pytest.mark.parametrize("seed", range(10))
def test_a_slot_that_misses_the_last_in_block_round_still_counts_in_the_block(seed: int):
    """t1 is lost after its first training: what it gave is in the cluster's weights, and in its weight at the root."""
    watch = BlockWatch()
    schedule = Schedule(job(rounds=1, mode="vertical", period=2), 0, OPS, seed, Faults(duplicate=0.0), watch, tree(2, 2))
    while schedule.seats["root"].finished is None:
        schedule.act()
        aggregator: Any = schedule.seats["a0"].machine
        if aggregator.block == 1 and schedule.seats["t1"].peer.live:
            schedule._kill("t1", publish=True)
    record = schedule.seats["root"].machine.progress()[1][0]  # type: ignore[union-attr]
    assert record.numbers["slots"] == 4
    assert record.examples == sum(examples(slot) for slot in range(4))


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


def test_the_weights_go_down_to_one_member_or_to_all_and_that_is_counted():
    relayed = choose(full(10), 1, 4_000_000, LinkCosts(), "uplink")
    direct = choose(full(10), 1, 4_000_000, LinkCosts(), "uplink", relay=False)
    assert (relayed.d2d_up_bytes, direct.d2d_up_bytes, relayed.vertical_up_bytes) == (2 * 4_000_000, 11 * 4_000_000, 20 * 4_000_000)
    costs = LinkCosts(up_j_per_byte=1e-6, d2d_j_per_byte=0.0)
    assert choose(full(10), 1, 4_000_000, costs, "energy", relay=False).d2d_j == pytest.approx(11 * 4e6 * 1e-6)


def linked(bytes_s: float, byte_j: float, rtt_s: float = 0.02, members: int = 4) -> tuple[Peer, ...]:
    """One cluster; the last member's link is as given, the others' are ten times as good."""
    server, *trainers = star(members)
    links = [(10 * bytes_s, byte_j / 10, rtt_s / 10)] * (members - 1) + [(bytes_s, byte_j, rtt_s)]
    return server, *(replace(peer, bytes_s=rate, byte_j=j, rtt_s=trip) for peer, (rate, j, trip) in zip(trainers, links, strict=True))


@pytest.mark.parametrize(
    ("peers", "method", "d2d"),
    [
        (linked(1e6, 2e-6), {}, True),  # an uplink of 2 uJ/B against 0.36 among neighbours
        (linked(1e6, 1e-8), {}, False),  # a wired one: nothing to save
        (linked(1e4, 1e-8), {"objective": "latency"}, False),  # one copy down and one up either way, and turns besides
        (linked(1e6, 1e-8), {"objective": "uplink"}, True),
        (linked(1e6, 2e-6), {"consensus": {"graph": "ring", "turns": 50}}, False),  # too many turns
        (star(4), {}, True),  # nothing is known of the links: the job's costs, LTE and WiFi
        (star(4), {"costs": {"up_j_per_byte": 1e-8}}, False),
    ],
)
def test_auto_decides_by_the_links_of_the_members_and_says_why(peers: tuple[Peer, ...], method: dict[str, Any], d2d: bool):
    notes: set[str] = set()
    calls: set[bool] = set()

    def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        calls.update(command.message.d2d for command in commands if isinstance(command, Send) and isinstance(command.message, Call))
        if seat.peer.role == "server" and seat.machine.note():  # type: ignore[union-attr]
            notes.add(seat.machine.note())  # type: ignore[union-attr]

    finish = Schedule(job(mode="auto", **method), 0, OPS, 0, Faults(), watch, peers).run()
    assert not finish.why
    assert calls == {d2d}
    objective = method.get("objective", "energy")
    assert all(note.startswith(f"{'d2d' if d2d else 'vertical'}: {objective}: d2d ") for note in notes)
    assert notes


def test_auto_weighs_the_slowest_and_dearest_link_of_those_called():
    head = resolve_method(job(mode="auto"))[0].build(job(mode="auto"), resolve_method(job(mode="auto"))[1], star(4)[0]).head  # type: ignore[attr-defined]
    peers = linked(2e6, 3e-6, 0.08)
    head.meet(peers, ("t0", "t1", "t2", "t3"))
    head.called = ("t0", "t1", "t2", "t3")
    links = head._links()
    assert (links.up_bytes_s, links.up_j_per_byte, links.up_latency_s) == (2e6, 3e-6, 0.04)
    assert (links.d2d_bytes_s, links.d2d_j_per_byte) == (LinkCosts().d2d_bytes_s, LinkCosts().d2d_j_per_byte)
    head.called = ("t0", "t1")
    assert head._links().up_bytes_s == 2e7


def test_auto_knows_the_size_of_the_first_weights():
    """They are a handle at the root; the op that made them says how large they are."""
    spec = job(mode="auto")
    method, plan = resolve_method(spec)
    server = method.build(spec, plan, star(4)[0])
    server.step(Started(star(4)), 0.0)
    server.step(Ran(("init",), {"weights": Handle("w")}, {"bytes": 4e6}), 0.0)
    assert server.head.choice().vertical_up_bytes == 2 * 4 * 4_000_000  # type: ignore[attr-defined]


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
