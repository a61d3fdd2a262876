"""fog: silent links between members, and what crosses the uplink of a cluster."""

from __future__ import annotations

import pytest

from fog_common.runtime.machine import (
    Command,
    Delivered,
    Event,
    Joined,
    Send,
)
from fog_learning.backend.plain_ops import OPS, flat, shares
from fog_learning.clusters.messages import Call, Neighbours, PassOn
from fog_learning.methods import resolve_method
from support.few import few
from support.fog_runs import Watch, job, run, weights_of
from support.schedules import Faults, Schedule, Seat
from support.trees import star, tree


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


@pytest.mark.thorough
@pytest.mark.parametrize("graph", few(["measured", "ring"], 1))
def test_a_link_that_was_silent_is_left_out_of_later_rounds_until_one_of_its_ends_is_a_new_instance(graph: str):
    """Else each round would wait for it for `stall_s`."""
    spec = job(rounds=6, mode="d2d", consensus={"graph": graph, "shrink": 1e-10, "stall_s": 50.0})
    watch = Watch(1e-6)
    schedule = Schedule(spec, 0, OPS, 1, Faults(duplicate=0.0), watch, star(5))
    linked: dict[int, list[set[str]]] = {}

    def saw(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        watch(schedule, seat, event, commands)
        for command in commands:
            if isinstance(command, Send) and isinstance(command.message, Neighbours):
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
    assert [record.numbers["slots"] for record in schedule.seats["root"].history] == [5.0] * 6


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


@pytest.mark.thorough
@pytest.mark.parametrize("mode", few(["vertical", "d2d"], 1))
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


@pytest.mark.parametrize("seed", few(range(40), 4))
def test_a_vertical_round_goes_on_when_the_neighbour_who_should_pass_the_call_is_gone(seed: int):
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=8, leaves=1, absent=("t1", "t4"), spare=("root",))
    _, finish, watch = run(tree(2, 3), job(rounds=4, mode="vertical"), seed, faults)
    assert not finish.why
    assert sorted(watch.included) == [1, 2, 3, 4]
