"""gossip: peers without a server, in random schedules; the ops on plain numbers say whose training a model holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fog_common.errors import ConfigError, OpError
from fog_common.runtime.machine import Cast, Close, Command, Delivered, Event, Finish, Handle, Joined, Left, Peer, Ran, Run, Slots, Started
from fog_learning.backend.plain_ops import OPS, SLOTS, flat, shares
from fog_learning.clusters.graphs import components, edges_of, metropolis, ring, without
from fog_learning.clusters.mixing import Share
from fog_learning.job.sections import Evaluation, JobFile, Stragglers, Train
from fog_learning.methods import resolve_method
from fog_learning.methods.gossip.messages import Here, Report
from fog_learning.methods.gossip.observer import Observer
from fog_learning.methods.gossip.peer import GossipPeer
from fog_learning.rounds.ledger import Ledger
from fog_sim.costs import torch_backend
from fog_sim.links import Fleet, LinkModel
from fog_sim.shape import Group, places
from fog_sim.world import Simulation
from support.few import few
from support.schedules import Faults, Schedule, Seat


def job(rounds: int = 3, evaluation: Evaluation = Evaluation(), **method: Any) -> JobFile:
    return JobFile("test", {"name": "gossip", **method}, {"name": "mlp"}, train=Train(rounds=rounds), evaluation=evaluation)


def run(peers: int, spec: JobFile, seed: int = 0, faults: Faults = Faults(), watch: Any = lambda *_: None) -> tuple[Schedule, Finish]:
    schedule = Schedule(spec, peers, OPS, seed, faults, watch)
    return schedule, schedule.run()


def weights_of(schedule: Schedule, finish: Finish) -> list[float]:
    assert not finish.why, finish.why
    value: list[float] = schedule.contents[finish.refs["weights"].digest]  # type: ignore[union-attr]
    return value


def observer(schedule: Schedule) -> Observer:
    machine = schedule.seats["observer"].machine
    assert isinstance(machine, Observer)
    return machine


@pytest.mark.parametrize("seed", range(10))
def test_on_a_full_graph_one_turn_is_federated_averaging(seed: int):
    """All Metropolis weights of a full graph are 1/n: one turn gives everybody the mean."""
    schedule, finish = run(5, job(consensus={"graph": "full", "turns": 1}), seed)
    weights = weights_of(schedule, finish)
    assert weights[0] == pytest.approx(flat(3, 5), rel=1e-9)
    assert weights[1:] == pytest.approx(shares(range(5)), abs=1e-9)
    history = schedule.seats["observer"].history
    assert [record.round for record in history] == [1, 2, 3]
    assert all(record.numbers["consensus_error"] < 1e-9 for record in history)


@pytest.mark.parametrize("seed", range(10))
def test_on_a_ring_a_few_turns_leave_a_disagreement_that_is_measured(seed: int):
    schedule, finish = run(6, job(consensus={"graph": "ring", "turns": 2}), seed)
    weights = weights_of(schedule, finish)
    assert sum(weights[1:]) == pytest.approx(1.0)
    error = schedule.seats["observer"].history[-1].numbers["consensus_error"]
    assert error > 0.01
    assert abs(weights[0] - flat(3, 6)) < 1.0


@pytest.mark.parametrize("seed", few(range(80), 6))
def test_it_ends_whatever_crashes_and_every_model_is_a_mean(seed: int):
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=6, leaves=seed % 3, absent=("peer-3",) if seed % 2 else ())
    graph = ["ring", "full", "small_world"][seed % 3]
    schedule, finish = run(5, job(consensus={"graph": graph, "turns": 2}), seed, faults)
    weights = weights_of(schedule, finish)
    assert sum(weights[1:]) == pytest.approx(1.0)
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in weights[1:])
    assert [record.round for record in schedule.seats["observer"].history] == [1, 2, 3]


@pytest.mark.thorough
def test_a_newcomer_takes_the_model_of_one_who_is_there():
    started: list[Any] = []

    def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        if seat.peer.task == "peer-3":
            started.extend((command, seat.machine) for command in commands if isinstance(command, Run) and command.op == "train")

    late = 0
    for seed in range(12):
        started.clear()
        schedule, finish = run(4, job(rounds=12, consensus={"graph": "full"}), seed, Faults(absent=("peer-3",)), watch)
        assert sum(weights_of(schedule, finish)[1:]) == pytest.approx(1.0)
        if started and started[0][0].numbers["round"] > 1:
            late += 1
            machine = started[0][1]
            assert isinstance(machine, GossipPeer)
            assert not machine.new
    assert late, "it never came late: the test shows nothing"


def test_a_peer_alone_trains_and_is_not_asked_to_wait():
    schedule, finish = run(1, job())
    assert weights_of(schedule, finish)[0] == pytest.approx(flat(3, 1))


def test_without_evaluation_the_result_is_still_handed_out():
    schedule, finish = run(3, job(evaluation=Evaluation(where="none")))
    assert "accuracy" not in finish.numbers
    assert len(weights_of(schedule, finish)) == 1 + SLOTS


def test_a_peer_that_cannot_go_on_ends_the_job_with_its_reason():
    def train(task: str, inputs: Any, numbers: Any) -> Any:
        if task == "peer-1" and numbers["round"] == 2:
            raise OpError("training diverged")
        return OPS["train"](task, inputs, numbers)

    finish = Schedule(job(), 3, {**OPS, "train": train}, 0).run()
    assert finish.why == "peer-1 cannot go on: training failed in round 2: training diverged"


def test_what_gossip_cannot_do_is_refused():
    with pytest.raises(ConfigError, match=r"evaluation\.where"):
        resolve_method(job(evaluation=Evaluation(where="federated")))
    with pytest.raises(ConfigError, match="stragglers"):
        resolve_method(JobFile("x", {"name": "gossip"}, {"name": "mlp"}, stragglers=Stragglers(quorum=0.5)))


def test_reports_that_come_in_any_order_after_an_outage_each_count_in_their_round():
    peers = tuple(Peer(f"peer-{i}", "peer", i, f"n{i}", "s", "edge", incarnation=1, since=1) for i in range(2))
    observer = Observer(ledger=Ledger(9, Evaluation(where="none")), seed=0)
    observer.step(Started(peers), 0.0)
    for number in (3, 1, 2):
        observer.step(Delivered("peer-0", Report(number, 10, Slots.of(0), {"loss": 1.0})), 1.0)
    assert observer.round == 0
    reports = [Report(number, 10, Slots.of(1), {"loss": 1.0}) for number in (4, 1, 3, 2)]
    commands = [command for report in reports for command in observer.step(Delivered("peer-1", report), 2.0)]
    assert [(command.record.round, command.record.updates) for command in commands if isinstance(command, Close)] == [(1, 2), (2, 2), (3, 2)]
    observer.step(Left(peers[1]), 3.0)
    observer.step(Joined(peers[1]), 3.0)  # its fourth round is known already, and will not be told again
    observer.step(Delivered("peer-0", Report(6, 0, Slots(), {}, first=4)), 4.0)
    assert observer.round == 4
    observer.step(Delivered("peer-1", Report(5, 10, Slots.of(1), {"loss": 1.0})), 5.0)
    assert observer.round == 5


def test_a_peer_that_was_thought_to_be_gone_meets_the_others_again():
    """Only its neighbours were told; it was in the middle of an exchange, and would wait for them as they for it."""
    peers = tuple(Peer(f"peer-{i}", "peer", i, f"n{i}", "s", "edge", incarnation=1, since=1) for i in range(2))
    method, plan = resolve_method(job())
    peer = method.build(job(), plan, peers[0])
    assert isinstance(peer, GossipPeer)
    peer.step(Started(peers), 0.0)
    peer.step(Ran(("init",), {"weights": Handle("w")}), 0.0)
    peer.step(Delivered("peer-1", Here(peer.crew, 1, True, 1)), 0.0)
    peer.step(Ran(("trained", peer.begun), {"weights": Handle("x")}, {"examples": 1.0, "loss": 1.0}), 1.0)
    assert peer.phase == "mixing"
    assert peer.step(Delivered("peer-1", Here(peer.crew, 1, True, 1)), 1.0) == []  # a copy
    said = peer.step(Delivered("peer-1", Here(peer.crew, 1, False, 2)), 2.0)
    assert Cast("peer", Here(peer.crew, 1, True, 2), latest=True) in said
    assert peer.phase == "mixing"  # both are here: it goes on from the same input
    assert peer.input == Handle("x")


# -- gradient tracking -----------------------------------------------------------------------

STEPS, RATE = 4, 0.05


def slope(slot: int, x: float) -> float:
    """Gradient of node `slot`'s loss a/2 (x - b)²."""
    return (1.0 + slot) * (x - 3.0 * math.cos(slot))


def optimum(n: int) -> float:
    return sum((1.0 + slot) * 3.0 * math.cos(slot) for slot in range(n)) / sum(1.0 + slot for slot in range(n))


def _descend(task: str, inputs: Any, numbers: Any) -> Any:
    start = x = inputs["weights"][0]
    for _ in range(STEPS):
        x -= RATE * (slope(int(numbers["slot"]), x) + (inputs.get("correction") or [0.0])[0])
    trained = [x, (start - x) / (STEPS * RATE)] if numbers["tracking"] else [x]
    return {"weights": trained}, {"examples": 1, "loss": 1.0}


def _track(task: str, inputs: Any, numbers: Any) -> Any:
    c = (inputs.get("correction") or [0.0])[0] - inputs["trained"][1] + inputs["settled"][1]
    return {"weights": inputs["settled"][:1], "correction": [c]}, {}


QUADRATIC = {**OPS, "init": lambda task, inputs, numbers: ({"weights": [0.0]}, {}), "train": _descend, "track": _track}


def models(schedule: Schedule) -> tuple[list[float], list[float]]:
    """(weights, corrections) of all peers."""

    def value(seat: Seat, ref: Any) -> float:
        return float(schedule.contents[schedule._blob(seat, ref).digest][0]) if ref is not None else 0.0

    seats = [seat for seat in schedule.seats.values() if isinstance(seat.machine, GossipPeer)]
    return [value(seat, seat.machine.weights) for seat in seats], [value(seat, seat.machine.correction) for seat in seats]  # type: ignore[union-attr]


def tracked(n: int, rounds: int, seed: int = 0, tracking: bool = True) -> tuple[list[float], list[float]]:
    spec = job(rounds=rounds, tracking=tracking, consensus={"graph": "ring", "turns": 1})
    schedule = Schedule(spec, n, QUADRATIC, seed)
    finish = schedule.run()
    assert not finish.why, finish.why
    return models(schedule)


@pytest.mark.parametrize("seed", range(4))
def test_tracking_is_the_papers_formula(seed: int):
    n, rounds = 5, 7
    W = np.zeros((n, n))
    for i, row in enumerate(metropolis(ring(n))):
        for j, w in row.items():
            W[i, j] = w
    x, c = np.zeros(n), np.zeros(n)
    for _ in range(rounds):
        end = x.copy()
        for _ in range(STEPS):
            end = end - RATE * (np.array([slope(i, end[i]) for i in range(n)]) + c)
        z = (x - end) / (STEPS * RATE)
        x, c = W @ end, c - z + W @ z
    weights, corrections = tracked(n, rounds, seed)
    assert weights == pytest.approx(list(x), rel=1e-9)
    assert corrections == pytest.approx(list(c), rel=1e-9)


@pytest.mark.thorough
def test_with_tracking_unequal_nodes_reach_the_optimum_where_plain_steps_stay_off_it():
    right = optimum(5)
    weights, corrections = tracked(5, 120)
    assert max(abs(x - right) for x in weights) < 1e-8
    assert sum(corrections) == pytest.approx(0.0, abs=1e-9)
    assert corrections == pytest.approx([-slope(slot, right) for slot in range(5)], abs=1e-2)
    plain, _ = tracked(5, 120, tracking=False)
    assert max(abs(x - right) for x in plain) > 0.5
    assert abs(sum(plain) / 5 - right) > 0.1


@pytest.mark.parametrize("seed", few(range(40), 4))
def test_the_corrections_cancel_out_whatever_crashes(seed: int):
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=5, absent=("peer-3",) if seed % 2 else (), spare=("observer",))
    spec = job(rounds=8, tracking=True, consensus={"graph": "ring", "turns": 2})
    schedule = Schedule(spec, 5, QUADRATIC, seed, faults)
    assert not schedule.run().why
    machines = gossipers(schedule)
    if len(machines) == 5 and len({(peer.crew, peer.done, peer.phase) for peer in machines}) == 1:
        weights, corrections = models(schedule)
        assert sum(corrections) == pytest.approx(0.0, abs=1e-9)
        assert all(math.isfinite(x) for x in weights)


@pytest.mark.thorough
def test_with_torch_tracking_doubles_what_an_exchange_carries():
    def simulated(tracking: bool) -> tuple[float, dict[str, int]]:
        world = Simulation(
            places([Group("thing", 1, 4)]), Fleet(link=LinkModel(up_bytes_s=1e6, down_bytes_s=1e6, latency_s=0.01)), torch_backend, seed=2
        )
        spec = {
            "name": "tracking",
            "method": {"name": "gossip", "local_steps": 10, "tracking": tracking, "consensus": {"graph": "full", "turns": 1}},
            "model": {"name": "mlp", "hidden": [64]},
            "data": {"name": "digits", "partition": {"kind": "shards", "shards_per_node": 3}},
            "train": {"rounds": 30, "lr": 0.1},
            "nodes": {"select": {"tier": ["thing"]}},
            "evaluation": {"every": 10},
        }
        name = world.submit(spec)
        status = world.run(name, 3000.0)
        assert status["state"] == "finished", status["line"]
        return status["history"][-1]["accuracy"], status["bytes"]

    plain, once = simulated(False)
    corrected, twice = simulated(True)
    assert twice["d2d"] / once["d2d"] == pytest.approx(2.0, rel=0.15)
    assert corrected > plain - 0.02


def test_tracking_needs_plain_gradient_steps():
    for train, found in ((Train(momentum=0.9), r"momentum 0\.9"), (Train(optimizer="adam"), "adam")):
        with pytest.raises(ConfigError, match=rf"method\.tracking corrects plain gradient steps: .* got {found}"):
            resolve_method(JobFile("x", {"name": "gossip", "tracking": True}, {"name": "mlp"}, train=train))


# -- links that carry nothing ----------------------------------------------------------------


def gossipers(schedule: Schedule) -> list[GossipPeer]:
    return [seat.machine for seat in schedule.seats.values() if isinstance(seat.machine, GossipPeer)]


def severed(schedule: Schedule, *pairs: set[str]) -> Finish:
    """Run while no share crosses between these, in either direction."""
    while (finish := schedule.seats["observer"].finished) is None:
        schedule.act()
        schedule.actions += 1
        assert schedule.actions < 100_000, schedule.describe()
        schedule.letters = [x for x in schedule.letters if not (isinstance(x.message, Share) and {x.sender, x.to} in pairs)]
    return finish


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("graph", ["ring", "full"])
def test_a_link_that_carries_nothing_is_left_out_and_the_round_begins_again(graph: str, seed: int):
    spec = job(rounds=4, consensus={"graph": graph, "turns": 2, "stall_s": 100.0})  # longer than any letter of a schedule takes
    schedule = Schedule(spec, 5, OPS, seed, Faults(duplicate=0.2, lost_wake=0.1))
    finish = severed(schedule, {"peer-1", "peer-2"})
    assert sum(weights_of(schedule, finish)[1:]) == pytest.approx(1.0)
    assert [record.round for record in schedule.seats["observer"].history] == [1, 2, 3, 4]
    assert schedule.measured["broken_links"] >= 1
    for peer in gossipers(schedule):
        assert {tuple(end[0] for end in cut) for cut in peer.cuts} == {("peer-1", "peer-2")}
        assert peer.crew == gossipers(schedule)[0].crew
    assert schedule.measured["broken_links"] <= 2


@pytest.mark.parametrize("seed", few(range(20), 3))
def test_dead_links_and_crashes_together_come_to_an_end(seed: int):
    spec = job(rounds=4, consensus={"graph": ["ring", "full"][seed % 2], "turns": 2, "stall_s": 5.0})
    schedule = Schedule(spec, 5, OPS, seed, Faults(duplicate=0.2, lost_wake=0.1, crashes=4, leaves=seed % 2))
    finish = severed(schedule, {"peer-0", "peer-1"}, {"peer-2", "peer-3"})
    weights = weights_of(schedule, finish)
    assert sum(weights[1:]) == pytest.approx(1.0)
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in weights[1:])


def test_two_peers_with_a_dead_link_go_on_alone_and_the_disagreement_says_so():
    schedule = Schedule(job(rounds=3, consensus={"graph": "full", "turns": 1, "stall_s": 5.0}), 2, OPS, 0, Faults(duplicate=0.0))
    severed(schedule, {"peer-0", "peer-1"})
    history = schedule.seats["observer"].history
    assert [record.round for record in history] == [1, 2, 3]
    assert history[-1].numbers["consensus_error"] > 0.1


def test_a_neighbour_that_trains_for_long_is_no_dead_link():
    schedule = Schedule(job(rounds=2, consensus={"graph": "ring", "turns": 2, "stall_s": 5.0}), 4, OPS, 3, Faults(duplicate=0.0))
    slow = schedule.seats["peer-2"]
    while schedule.now < 100.0:
        held = [each for each in slow.ops if each.op == "train"]
        for each in held:
            slow.ops.remove(each)
        schedule.act()
        slow.ops.extendleft(reversed(held))
    assert schedule.sent["Silent"] >= 2, "nobody asked: the test shows nothing"
    finish = schedule.run()
    assert "broken_links" not in schedule.measured
    assert sum(weights_of(schedule, finish)[1:]) == pytest.approx(1.0)


def test_a_link_of_a_peer_that_begins_anew_is_tried_again():
    old, other = ("peer-0", 1, 1), ("peer-1", 1, 2)
    peers = tuple(Peer(f"peer-{i}", "peer", i, f"n{i}", "s", "edge", incarnation=1 + i, since=1) for i in range(2))
    method, plan = resolve_method(job())
    peer = method.build(job(), plan, peers[0])
    assert isinstance(peer, GossipPeer)
    peer.step(Started(peers), 0.0)
    peer.step(Ran(("init",), {"weights": Handle("w")}), 0.0)
    before = peer.crew
    peer.step(Delivered("peer-1", Here(0, 1, True, 1, ((old, other),))), 0.0)
    assert peer.cuts == [(old, other)]
    assert peer.crew != before
    peer.step(Joined(Peer("peer-1", "peer", 1, "n1", "s", "edge", incarnation=5, since=2)), 1.0)
    assert peer.cuts == []


def test_a_peer_says_how_long_it_waits():
    schedule = Schedule(job(consensus={"graph": "ring", "turns": 2, "stall_s": 5.0}), 4, OPS, 3, Faults(duplicate=0.0))
    while not any(peer.phase == "mixing" and peer.mixing.missing() for peer in gossipers(schedule)):
        schedule.act()
    waiting = next(peer.waiting(0.0) for peer in gossipers(schedule) if peer.phase == "mixing" and peer.mixing.missing())
    assert waiting is not None
    assert waiting.what == "neighbours (turn 1 of 2)"
    assert waiting.until is not None


@pytest.mark.parametrize(("n", "cut", "left"), [(4, {(0, 1)}, {(1, 2), (2, 3), (0, 3)}), (3, {(0, 1), (0, 2)}, {(1, 2)})])
def test_a_graph_without_cut_links(n: int, cut: set[tuple[int, int]], left: set[tuple[int, int]]):
    assert edges_of(without(ring(n), cut)) == left


def test_parts_that_fall_off_are_linked_again_where_that_is_possible():
    graph = without(ring(6), {(0, 1), (3, 4)})
    assert len(components(graph)) == 1
    assert not edges_of(graph) & {(0, 1), (3, 4)}


def test_keys_that_gossip_does_not_use_are_refused():
    for key, value in (("shrink", 0.5), ("max_error", 1.0), ("max_turns", 5)):
        with pytest.raises(ConfigError, match=rf"method\.consensus\.{key}: gossip exchanges for a fixed number of turns"):
            resolve_method(job(consensus={"turns": 1, key: value}))
