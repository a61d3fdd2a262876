"""fedavg: the server, step by step."""

from __future__ import annotations

import msgspec
import pytest

from fog_common.runtime.machine import (
    Blob,
    Cast,
    Close,
    Delivered,
    Failed,
    Finish,
    Handle,
    Joined,
    Left,
    Measure,
    Ran,
    Rewound,
    Run,
    Save,
    Send,
    Slots,
    WakeAt,
    Woke,
)
from fog_learning.job.sections import Stragglers
from fog_learning.methods.fedavg.messages import NoUpdate, RoundCall, Update
from fog_learning.methods.fedavg.server import Server
from support.fedavg_steps import ADA, BOB, BRANCH, CYD, SERVER, kinds, opened, update


def test_the_first_round_opens_when_a_trainer_is_there_and_until_then_says_so() -> None:
    server = opened()
    waiting = server.waiting(3.0)
    assert waiting is not None
    assert (waiting.what, waiting.have, waiting.need) == ("trainers", 0, 1)
    commands = server.step(Joined(ADA), 4.0)
    assert commands == [Cast("trainer", RoundCall(1, Handle("w0"), branch=BRANCH), latest=True)]


def test_every_update_is_added_as_it_comes_and_the_last_one_closes_the_round() -> None:
    server = opened(ADA, BOB)
    assert kinds(server.step(Delivered("ada", update(0)), 1.0)) == ["accumulate"]
    last = server.step(Delivered("bob", update(1)), 2.0)
    assert kinds(last) == ["accumulate", "mean"]
    after = server.step(Ran(("weights", 1), {"weights": Handle("w1")}), 3.0)
    assert kinds(after) == ["Save", "Measure", "Measure", "Cast", "evaluate"]
    assert after[0] == Save(1)


def test_the_loss_of_a_round_is_the_mean_by_examples_and_the_accuracy_comes_with_the_evaluation() -> None:
    server = opened(ADA, BOB)
    server.step(Delivered("ada", update(0, examples=30)), 1.0)
    server.step(Delivered("bob", update(1, examples=10)), 2.0)
    server.step(Ran(("weights", 1), {"weights": Handle("w1")}), 3.0)
    close, *measured = server.step(Ran(("rated", 1), {}, {"accuracy": 0.9, "loss": 0.3}), 4.0)
    assert measured == [Measure("accuracy", 0.9), Measure("rated_loss", 0.3)]
    assert isinstance(close, Close)
    record = close.record
    assert (record.updates, record.examples, record.closed_at) == (2, 40, 3.0)
    assert record.numbers == {"loss": 1.25, "accuracy": 0.9, "rated_loss": 0.3}


def test_with_quorum_1_it_waits_for_all_and_names_who_is_missing() -> None:
    server = opened(ADA, BOB, CYD)
    server.step(Delivered("ada", update(0)), 1.0)
    assert server.step(Woke(), 1000.0) == []
    waiting = server.waiting(1000.0)
    assert waiting is not None
    assert (waiting.what, waiting.have, waiting.need, waiting.who, waiting.until) == ("updates", 1, 3, ("bob", "cyd"), None)


@pytest.mark.parametrize("quorum", [0.9, 1.0])
def test_the_fixed_deadline_closes_the_round_with_one_update_at_any_quorum(quorum: float) -> None:
    server = opened(ADA, BOB, CYD, stragglers=Stragglers(quorum=quorum, deadline_s=60.0))
    assert WakeAt(60.0) in server.step(Delivered("ada", update(0)), 10.0)
    waiting = server.waiting(10.0)
    assert waiting is not None
    assert (waiting.have, waiting.need, waiting.who, waiting.until) == (1, 3, ("bob", "cyd"), 60.0)
    assert kinds(server.step(Woke(), 60.0)) == ["mean"]


def test_nobody_answered_at_the_fixed_deadline_keeps_the_round_open_and_the_first_update_closes_it_at_once() -> None:
    server = opened(ADA, BOB, CYD, stragglers=Stragglers(quorum=0.9, deadline_s=60.0))
    assert server.step(Woke(), 60.0) == []
    waiting = server.waiting(61.0)
    assert waiting is not None
    assert (waiting.have, waiting.need, waiting.until) == (0, 3, None)
    assert kinds(server.step(Delivered("bob", update(1)), 70.0)) == ["accumulate", "mean"]


def test_a_quorum_closes_the_round_before_the_fixed_deadline() -> None:
    server = opened(ADA, BOB, stragglers=Stragglers(quorum=0.5, deadline_s=60.0, grace_s=2.0))
    assert WakeAt(12.0) in server.step(Delivered("ada", update(0)), 10.0)
    waiting = server.waiting(10.0)
    assert waiting is not None
    assert waiting.until == 12.0
    assert kinds(server.step(Woke(), 12.0)) == ["mean"]


def test_a_round_that_closed_at_its_deadline_is_followed_by_one_with_a_deadline_of_its_own() -> None:
    server = opened(ADA, BOB, stragglers=Stragglers(deadline_s=60.0))
    server.step(Delivered("ada", update(0)), 10.0)
    server.step(Woke(), 60.0)
    assert WakeAt(125.0) in server.step(Ran(("weights", 1), {"weights": Handle("w1")}), 65.0)


def test_an_early_wake_up_changes_nothing_and_is_asked_for_again() -> None:
    server = opened(ADA, BOB, stragglers=Stragglers(deadline_s=60.0))
    server.step(Delivered("ada", update(0)), 10.0)
    assert server.step(Woke(), 20.0) == [WakeAt(60.0)]


def test_the_adaptive_deadline_of_the_first_round_comes_from_its_own_arrivals() -> None:
    server = opened(ADA, BOB, CYD, stragglers=Stragglers(quorum=0.7, mad_factor=4.0, grace_s=1.0))
    assert kinds(server.step(Delivered("ada", update(0)), 10.0)) == ["accumulate"]
    commands = server.step(Delivered("bob", update(1)), 12.0)  # median 11, MAD 1
    assert commands[-1] == WakeAt(15.0)
    assert kinds(server.step(Woke(), 15.0)) == ["mean"]


def test_a_trainer_speaks_for_its_own_slot_only() -> None:
    server = opened(ADA, BOB)
    for said in (update(1), Update(1, Blob("x", 4), 99, Slots.of(0, 1)), Update(1, Blob("x", 4), 99, Slots()), NoUpdate(1, Slots.of(1), "no disk")):
        assert server.step(Delivered("ada", said), 1.0) == [Measure("bad_updates", 1)]
    assert server.answers == []
    assert kinds(server.step(Delivered("bob", update(1)), 2.0)) == ["accumulate"], "bob's own is counted"


def test_a_repeated_update_is_not_added() -> None:
    server = opened(ADA, BOB)
    server.step(Delivered("ada", update(0)), 1.0)
    assert kinds(server.step(Delivered("ada", update(0)), 2.0)) == ["Measure"]
    assert kinds(server.step(Delivered("agg", Update(1, Blob("x", 4), 99, Slots.of(0, 2), branch=BRANCH)), 2.0)) == ["Measure"], (
        "an overlapping set counts as repeated"
    )


def test_a_late_update_is_dropped_or_counts_less_in_the_next_round() -> None:
    for late in ("drop", "accept"):
        server = opened(ADA, BOB, stragglers=Stragglers(deadline_s=5.0, late=late, staleness=1.0))
        server.step(Delivered("ada", update(0)), 1.0)
        server.step(Woke(), 5.0)
        assert kinds(server.step(Delivered("bob", update(1)), 5.5)) == ["Measure"], "while averaging"
        assert kinds(server.step(Delivered("bob", update(1)), 5.6)) == ["Measure"], "and repeated"
        server.step(Ran(("weights", 1), {"weights": Handle("w1")}), 6.0)
        msgspec.msgpack.decode(msgspec.msgpack.encode(server), type=Server)
        commands = server.step(Delivered("ada", update(0, 2, branch=server.branch)), 7.0)
        adds = [(command.refs["add"], command.numbers["n"]) for command in commands if isinstance(command, Run)]
        own = (Blob("0-2", 4), 10)
        assert adds == ([own] if late == "drop" else [(Blob("1-1", 4), 5.0), own])
        server.step(Woke(), 12.0)
        after = server.step(Ran(("weights", 2), {"weights": Handle("w2")}), 12.0)
        assert Measure("staleness_rounds", 0.0 if late == "drop" else 1.0) in after


def test_an_update_that_gets_too_old_while_it_waits_is_dropped() -> None:
    server = opened(ADA, BOB, stragglers=Stragglers(deadline_s=5.0, late="accept", late_rounds=1))
    for number, at in ((1, 0.0), (2, 10.0)):
        server.step(Delivered("ada", update(0, number, branch=server.branch)), at + 1.0)
        server.step(Woke(), at + 5.0)
        if number == 1:
            server.step(Ran(("weights", 1), {"weights": Handle("w1")}), 10.0)
    server.step(Delivered("bob", update(1, 1)), 16.0)  # one round late now, two when the next one opens
    server.step(Ran(("weights", 2), {"weights": Handle("w2")}), 17.0)
    assert kinds(server.step(Delivered("ada", update(0, 3, branch=server.branch)), 18.0)).count("accumulate") == 1


def test_a_trainer_that_leaves_is_no_longer_waited_for() -> None:
    server = opened(ADA, BOB)
    server.step(Delivered("ada", update(0)), 1.0)
    assert kinds(server.step(Left(BOB), 2.0)) == ["mean"]


def test_a_round_does_not_close_between_two_instances_of_a_trainer() -> None:
    server = opened(ADA, BOB)
    server.step(Delivered("ada", update(0)), 1.0)
    assert server.step(Left(BOB, in_order=True), 2.0) == []
    assert kinds(server.step(Joined(BOB), 2.0)) == ["Send"]
    assert kinds(server.step(Delivered("bob", update(1)), 3.0)) == ["accumulate", "mean"]


def test_a_trainer_that_joins_gets_the_round_unless_it_has_answered_already() -> None:
    server = opened(ADA)
    assert server.step(Joined(BOB), 1.0) == [Send("bob", RoundCall(1, Handle("w0"), branch=BRANCH), latest=True)]
    server.step(Delivered("ada", update(0)), 2.0)
    assert server.step(Joined(ADA), 3.0) == []


def test_an_update_that_cannot_be_added_is_left_out_and_the_round_goes_on() -> None:
    server = opened(ADA, BOB)
    server.step(Delivered("ada", update(0)), 1.0)
    server.step(Failed(("added", 1, 0), "shape (3,) is not (4,)"), 1.5)
    assert kinds(server.step(Delivered("bob", update(1)), 2.0)) == ["accumulate", "mean"]
    server.step(Ran(("weights", 1), {"weights": Handle("w1")}), 3.0)
    close = server.step(Ran(("rated", 1), {}, {"accuracy": 0.9, "loss": 0.3}), 4.0)[0]
    assert isinstance(close, Close) and close.record.updates == 1


def test_when_every_trainer_is_in_trouble_the_job_fails_with_the_reason() -> None:
    server = opened(ADA, BOB)
    server.step(Delivered("ada", NoUpdate(1, Slots.of(0), "training failed: out of memory")), 1.0)
    commands = server.step(Delivered("bob", NoUpdate(1, Slots.of(1), "training failed: out of memory")), 2.0)
    (finish,) = [command for command in commands if isinstance(command, Finish)]
    assert "slot 0: training failed: out of memory" in finish.why
    assert server.step(Woke(), 99.0) == []


def test_after_the_last_round_it_evaluates_and_finishes() -> None:
    server = opened(ADA, rounds=1)
    server.step(Delivered("ada", update(0)), 1.0)
    assert kinds(server.step(Ran(("weights", 1), {"weights": Handle("w1")}), 2.0)) == ["Save", "Measure", "Measure", "evaluate"]
    commands = server.step(Ran(("rated", 1), {}, {"accuracy": 0.97, "loss": 0.1}), 3.0)
    assert commands[-1] == Finish({"weights": Handle("w1")}, {"loss": 1.0, "accuracy": 0.97, "rated_loss": 0.1})


def test_the_server_optimizer_gets_old_weights_mean_and_moments() -> None:
    server = opened(ADA, server_optimizer="adam", server_lr=0.1)
    run = server.step(Delivered("ada", update(0)), 1.0)[-1]
    assert isinstance(run, Run)
    assert run.refs == {"weights": Handle("w0"), "mean": Handle("mean1")}
    server.step(Ran(("weights", 1), {"weights": Handle("w1"), "m": Handle("m1"), "v": Handle("v1")}), 2.0)
    run = server.step(Delivered("ada", update(0, 2, branch=server.branch)), 3.0)[-1]
    assert isinstance(run, Run)
    assert run.refs == {"weights": Handle("w1"), "mean": Handle("mean2"), "m": Handle("m1"), "v": Handle("v1")}


def test_a_server_that_comes_back_goes_on_in_the_round_of_its_save() -> None:
    server = opened()
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(server), type=Server)
    assert kinds(again.step(Rewound(0, (SERVER, ADA)), 1.0)) == ["Cast"], "it was saved while nobody was there"
