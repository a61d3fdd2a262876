"""gossip: peers without a server, in random schedules; the ops on plain numbers say whose training a model holds."""

from __future__ import annotations

from typing import Any

import pytest

from fog_common.errors import ConfigError, OpError
from fog_common.machine import Cast, Command, Delivered, Event, Finish, Handle, Joined, Left, Peer, Ran, Run, Slots, Started
from fog_learning.job import Evaluation, Job, Stragglers, Train
from fog_learning.methods import resolve_method
from fog_learning.methods.gossip import GossipPeer, Observer
from fog_learning.methods.gossip_messages import Here, Report
from fog_sim.plain_ops import OPS, SLOTS, flat, shares
from support.schedules import Faults, Schedule, Seat


def job(rounds: int = 3, evaluation: Evaluation = Evaluation(), **method: Any) -> Job:
    return Job("test", {"name": "gossip", **method}, {"name": "mlp"}, train=Train(rounds=rounds), evaluation=evaluation)


def run(peers: int, spec: Job, seed: int = 0, faults: Faults = Faults(), watch: Any = lambda *_: None) -> tuple[Schedule, Finish]:
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
    history = observer(schedule).history
    assert [record.round for record in history] == [1, 2, 3]
    assert all(record.numbers["consensus_error"] < 1e-9 for record in history)


@pytest.mark.parametrize("seed", range(10))
def test_on_a_ring_a_few_turns_leave_a_disagreement_that_is_measured(seed: int):
    schedule, finish = run(6, job(consensus={"graph": "ring", "turns": 2}), seed)
    weights = weights_of(schedule, finish)
    assert sum(weights[1:]) == pytest.approx(1.0)
    error = observer(schedule).history[-1].numbers["consensus_error"]
    assert error > 0.01
    assert abs(weights[0] - flat(3, 6)) < 1.0


@pytest.mark.parametrize("seed", range(80))
def test_it_ends_whatever_crashes_and_every_model_is_a_mean(seed: int):
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=6, leaves=seed % 3, absent=("peer-3",) if seed % 2 else ())
    graph = ["ring", "full", "small_world"][seed % 3]
    schedule, finish = run(5, job(consensus={"graph": graph, "turns": 2}), seed, faults)
    weights = weights_of(schedule, finish)
    assert sum(weights[1:]) == pytest.approx(1.0)
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in weights[1:])
    assert [record.round for record in observer(schedule).history] == [1, 2, 3]


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
        resolve_method(Job("x", {"name": "gossip"}, {"name": "mlp"}, stragglers=Stragglers(quorum=0.5)))


def test_reports_that_come_in_any_order_after_an_outage_each_count_in_their_round():
    peers = tuple(Peer(f"peer-{i}", "peer", i, f"n{i}", "s", "edge", incarnation=1, since=1) for i in range(2))
    observer = Observer(evaluation=Evaluation(where="none"), rounds=9, seed=0)
    observer.step(Started(peers), 0.0)
    for number in (3, 1, 2):
        observer.step(Delivered("peer-0", Report(number, 10, Slots.of(0), {"loss": 1.0})), 1.0)
    assert observer.round == 0
    for number in (4, 1, 3, 2):
        observer.step(Delivered("peer-1", Report(number, 10, Slots.of(1), {"loss": 1.0})), 2.0)
    assert [(record.round, record.updates) for record in observer.history] == [(1, 2), (2, 2), (3, 2)]
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
