"""fog: a tree that averages upwards or sideways equals the flat star, whatever crashes."""

from __future__ import annotations

import math

import pytest

from fog_common.runtime.machine import (
    Blob,
    Delivered,
    Handle,
    Peer,
    Ran,
    Run,
    Started,
)
from fog_learning.backend.plain_ops import flat, shares
from fog_learning.clusters.messages import Call
from fog_learning.methods import resolve_method
from support.few import few
from support.fog_runs import job, run, weights_of
from support.schedules import Faults
from support.trees import star, tree

# -- a tree that averages upwards is federated averaging -----------------------------------------


@pytest.mark.parametrize(
    "peers",
    [star(5), tree(2, 3), tree(1, 4), tree(2, 1, 2, between=2), tree(1, 1, 3, between=2)],
    ids=["star", "two layers", "uneven", "three layers", "deep"],
)
@pytest.mark.parametrize("seed", few(range(6), 1))
def test_a_vertical_tree_equals_the_flat_star(peers: tuple[Peer, ...], seed: int):
    schedule, finish, _ = run(peers, job(mode="vertical", local_steps=1), seed)
    weights = weights_of(schedule, finish)
    assert weights[0] == pytest.approx(flat(3, 5), rel=1e-12)
    assert weights[1:] == pytest.approx(shares(range(5)), rel=1e-12)


@pytest.mark.parametrize("seed", few(range(60), 4))
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
@pytest.mark.parametrize("graph", few(["full", "ring", "geometric", "small_world", "measured"], 1))
@pytest.mark.parametrize("peers", [star(5), tree(2, 3), tree(3, 1, 1, between=2)], ids=["star", "two layers", "three layers"])
def test_d2d_with_enough_turns_equals_the_flat_star(peers: tuple[Peer, ...], graph: str, uplink: str):
    spec = job(mode="d2d", uplink=uplink, consensus={"graph": graph, "shrink": 1e-10})
    schedule, finish, watch = run(peers, spec, 3, tolerance=1e-6)
    weights = weights_of(schedule, finish)
    assert weights[0] == pytest.approx(flat(3, 5), abs=1e-6)
    assert weights[1:] == pytest.approx(shares(range(5)), abs=1e-6)
    assert all(error < 1e-6 for error in watch.errors)


@pytest.mark.parametrize("seed", few(range(60), 4))
def test_d2d_counts_nothing_twice_and_loses_nothing_whatever_crashes(seed: int):
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=6)
    peers = [tree(3, 2), tree(2, 1, 2, between=2), star(4)][seed % 3]
    uplink = "diversity" if seed % 2 else "sample"
    spec = job(mode="d2d", uplink=uplink, consensus={"graph": "ring", "shrink": 1e-10, "stall_s": 500.0})
    schedule, finish, watch = run(peers, spec, seed, faults, tolerance=1e-6)
    assert weights_of(schedule, finish) == watch.rounds[3]
    assert sorted(watch.included) == [1, 2, 3]


@pytest.mark.parametrize("seed", few(range(40), 4))
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
    record = schedule.seats["root"].history[0]
    assert record.numbers["consensus_error"] == watch.errors[0]


@pytest.mark.thorough
def test_max_error_adds_turns_until_the_measured_error_is_below_it():
    _, _, watch = run(star(6), job(rounds=2, mode="d2d", consensus={"graph": "ring", "turns": 1, "max_error": 1e-7}), tolerance=1e-6)
    assert len(watch.errors) == 2
    assert all(error <= 1e-7 for error in watch.errors)
