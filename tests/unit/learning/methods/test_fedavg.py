"""fedavg: single steps as sentences, then random schedules of all its machines."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fog_common.errors import ConfigError, OpError
from fog_common.runtime.machine import (
    Blob,
    Cast,
    Command,
    Delivered,
    Event,
    Failed,
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
    Slots,
    Started,
    WakeAt,
    Woke,
)
from fog_learning.job.sections import Evaluation, Job, Stragglers, Train
from fog_learning.methods import METHODS, resolve_method
from fog_learning.methods.fedavg.server import NoUpdate, RoundCall, Server, Trainer, Update
from support.schedules import Faults, Schedule, Seat, Stuck

# -- symbolic ops: weights say whose updates they hold ---------------------------------------


def _train(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    assert inputs["weights"]["round"] == numbers["round"] - 1, "trained from weights of another round"
    return {"weights": {"update": [[numbers["slot"], numbers["round"]]]}}, {"examples": 10 + numbers["slot"], "loss": 1.0}


def _accumulate(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    return {"sum": [*inputs.get("sum", []), [*inputs["add"]["update"][0], numbers["n"]]]}, {}


def _mean(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    if "sum" not in inputs:
        raise OpError("nothing to average")
    return {"weights": {"round": max(round_ for _, round_, _ in inputs["sum"]), "parts": inputs["sum"]}}, {}


def _server_opt(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    assert inputs["mean"]["round"] == numbers["round"]
    return {"weights": inputs["mean"], "m": inputs.get("m", 0) + 1, "v": 0}, {}


def _rate(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    return {}, {"accuracy": inputs["weights"]["round"] / 10, "loss": 0.5, "examples": 5.0}


OPS = {
    "init": lambda task, inputs, numbers: ({"weights": {"round": 0, "parts": []}}, {}),
    "train": _train,
    "accumulate": _accumulate,
    "mean": _mean,
    "server_opt": _server_opt,
    "evaluate": _rate,
    "evaluate_local": _rate,
}


def job(rounds: int = 4, stragglers: Stragglers = Stragglers(), evaluation: Evaluation = Evaluation(), **method: Any) -> Job:
    return Job("test", {"name": "fedavg", **method}, {"name": "mlp"}, train=Train(rounds=rounds), stragglers=stragglers, evaluation=evaluation)


def peer(task: str, slot: int = -1) -> Peer:
    return Peer(task, "server" if slot < 0 else "trainer", slot, f"n-{task}", "site", "edge", incarnation=1)


SERVER, ADA, BOB, CYD = peer("server"), peer("ada", 0), peer("bob", 1), peer("cyd", 2)


BRANCH = ""
"""Of the first weights."""


def opened(*trainers: Peer, **options: Any) -> Server:
    """A server in round 1, opened at t=0."""
    the_job = job(**options)
    method, plan = resolve_method(the_job)
    server = method.build(the_job, plan, SERVER)
    assert isinstance(server, Server)
    server.step(Started((SERVER, *trainers)), 0.0)
    server.step(Ran(("init",), {"weights": Handle("w0")}), 0.0)
    return server


def update(slot: int, round_: int = 1, examples: int = 10, branch: str = BRANCH) -> Update:
    return Update(round_, Blob(f"{slot}-{round_}", 4), examples, Slots.of(slot), {"loss": 1.0 + slot}, branch)


def kinds(commands: list[Command]) -> list[str]:
    return [command.op if isinstance(command, Run) else type(command).__name__ for command in commands]


# -- the server, step by step ----------------------------------------------------------------


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
    server.step(Ran(("rated", 1), {}, {"accuracy": 0.9, "loss": 0.3}), 4.0)
    (record,) = server.progress()[1]
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
    server.step(Ran(("rated", 1), {}, {"accuracy": 0.9, "loss": 0.3}), 4.0)
    assert server.progress()[1][0].updates == 1


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


# -- the trainer, step by step ---------------------------------------------------------------


def trainer(**options: Any) -> Trainer:
    the_job = job(**options)
    method, plan = resolve_method(the_job)
    machine = method.build(the_job, plan, ADA)
    assert isinstance(machine, Trainer)
    machine.step(Started((SERVER, ADA)), 0.0)
    return machine


TRAINED = Ran(("trained", 1), {"weights": Handle("h1")}, {"examples": 12, "loss": 0.5})


def test_a_trainer_answers_who_asked_and_keeps_the_update_until_the_root_has_saved_it() -> None:
    machine = trainer()
    (run,) = machine.step(Delivered("server", RoundCall(1, Blob("w0", 4))), 1.0)
    assert isinstance(run, Run)
    assert run.numbers == {"slot": 0, "layers": "", "round": 1, "steps": 10, "prox_mu": 0.0}
    save, send, _ = machine.step(TRAINED, 2.0)
    assert save == Save(1)
    assert send == Send("server", Update(1, Handle("h1"), 12, Slots.of(0), {"loss": 0.5}), keep=1)


def test_a_round_that_comes_twice_is_trained_once() -> None:
    machine = trainer()
    machine.step(Delivered("server", RoundCall(1, Blob("w0", 4))), 1.0)
    assert machine.step(Delivered("server", RoundCall(1, Blob("w0", 4))), 1.5) == []
    machine.step(TRAINED, 2.0)
    assert machine.step(Delivered("server", RoundCall(1, Blob("w0", 4))), 2.5) == []


def test_a_slow_trainer_skips_to_the_newest_round() -> None:
    machine = trainer()
    for number in (1, 2, 3):
        machine.step(Delivered("server", RoundCall(number, Blob("w", 4))), 1.0)
    commands = machine.step(TRAINED, 9.0)
    assert kinds(commands) == ["Measure", "train"], "the update of the closed round would not count"
    assert commands[-1].tag == ("trained", 3)
    machine = trainer(stragglers=Stragglers(quorum=0.5, late="accept"))
    for number in (1, 3, 2):
        machine.step(Delivered("server", RoundCall(number, Blob("w", 4))), 1.0)
    commands = machine.step(TRAINED, 9.0)
    assert kinds(commands) == ["Save", "Send", "Measure", "train"]
    assert commands[-1].tag == ("trained", 3)


def test_a_server_that_fell_back_is_obeyed() -> None:
    machine = trainer()
    machine.step(Delivered("server", RoundCall(7, Blob("w", 4))), 1.0)
    machine.step(Ran(("trained", 7), {"weights": Handle("h1")}, {"examples": 12, "loss": 0.5}), 2.0)
    assert machine.step(Delivered("server", RoundCall(6, Blob("w", 4))), 3.0) == [], "an old letter"
    machine.step(Joined(SERVER), 4.0)
    assert kinds(machine.step(Delivered("server", RoundCall(6, Blob("w", 4))), 5.0)) == ["train"]


def test_an_update_from_weights_that_the_server_before_lost_does_not_count() -> None:
    """It closed round 1, called round 2 and was lost with its Save; the one that follows closed round 1 again, with other updates."""
    server = opened(ADA, BOB)
    lost = Update(1, Blob("x", 4), 10, Slots.of(0), {"loss": 1.0}, branch="lost")
    assert kinds(server.step(Delivered("ada", lost), 2.0)) == ["Measure"]
    waiting = server.waiting(2.5)
    assert waiting is not None and waiting.who == ("ada", "bob"), "its slot is still open"
    assert kinds(server.step(Delivered("ada", update(0)), 3.0))[0] == "accumulate"


def closed_with(*slots: int) -> Server:
    """A server of three trainers that closed round 1 with these, in this order."""
    server = opened(ADA, BOB, CYD, stragglers=Stragglers(deadline_s=5.0, late="accept"))
    for slot in slots:
        server.step(Delivered(["ada", "bob", "cyd"][slot], update(slot)), 1.0)
    server.step(Woke(), 5.0)
    server.step(Ran(("weights", 1), {"weights": Handle("w1")}), 6.0)
    return server


def test_weights_made_of_the_same_updates_are_of_one_branch() -> None:
    assert closed_with(0, 1, 2).branch == closed_with(2, 0, 1).branch != closed_with(0, 1).branch != BRANCH
    one, other = closed_with(0, 1), closed_with(0, 1)
    other.step(Delivered("cyd", update(2)), 7.0)  # late: in the next round's mean
    for server in (one, other):
        server.step(Delivered("ada", update(0, 2, branch=server.branch)), 8.0)
        server.step(Woke(), 12.0)
        server.step(Ran(("weights", 2), {"weights": Handle("w2")}), 13.0)
    assert one.branch != other.branch


@pytest.mark.parametrize("slots", [(0, 1, 2), (0, 1)])
def test_what_was_trained_for_a_server_that_was_lost_counts_if_the_same_weights_are_made_again(slots: tuple[int, ...]) -> None:
    lost = closed_with(0, 1, 2).branch
    server = opened(ADA, BOB, CYD, stragglers=Stragglers(deadline_s=5.0))
    assert server.step(Delivered("cyd", update(2, 2, branch=lost)), 0.5) == [], "it waits for round 2"
    assert kinds(server.step(Delivered("cyd", update(2, 99, branch=lost)), 0.5)) == ["Measure"]
    for slot in slots:
        server.step(Delivered(["ada", "bob", "cyd"][slot], update(slot)), 1.0)
    server.step(Woke(), 5.0)
    opening = server.step(Ran(("weights", 1), {"weights": Handle("w1")}), 6.0)
    assert "accumulate" not in kinds(opening), "the Save in this step knows no sum"
    assert WakeAt(6.0) in opening
    server = msgspec.msgpack.decode(msgspec.msgpack.encode(server), type=Server)
    assert kinds(server.step(Woke(), 6.0))[0] == ("accumulate" if slots == (0, 1, 2) else "Measure")
    waiting = server.waiting(6.5)
    assert waiting is not None and (waiting.have, waiting.need) == ((1, 3) if slots == (0, 1, 2) else (0, 3))


def test_a_round_that_is_called_anew_from_other_weights_is_trained_anew() -> None:
    machine = trainer()
    machine.step(Delivered("server", RoundCall(2, Blob("lost", 4), branch="lost")), 1.0)
    assert machine.step(Delivered("server", RoundCall(2, Blob("kept", 4), branch="kept")), 1.5) == [], "one at a time"
    again = machine.step(Ran(("trained", 2), {"weights": Handle("h1")}, {"examples": 12, "loss": 0.5}), 2.0)
    assert kinds(again) == ["Measure", "train"], "the first is not sent: it would not count"
    done = machine.step(Ran(("trained", 2), {"weights": Handle("h2")}, {"examples": 12, "loss": 0.5}), 3.0)
    assert [command.message.branch for command in done if isinstance(command, Send)] == ["kept"]
    assert machine.step(Delivered("server", RoundCall(2, Blob("kept", 4), branch="kept")), 4.0) == []


def test_trouble_is_reported_and_the_round_can_be_tried_again() -> None:
    machine = trainer()
    machine.step(Delivered("server", RoundCall(1, Blob("w", 4))), 1.0)
    commands = machine.step(Failed(("trained", 1), "out of memory"), 2.0)
    assert Send("server", NoUpdate(1, Slots.of(0), "training failed: out of memory"), latest=True) in commands
    assert kinds(machine.step(Delivered("server", RoundCall(1, Blob("w", 4))), 3.0)) == ["train"]


# -- the plan --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"local_steps": 0}, "method.local_steps"),
        ({"prox_mu": -1.0}, "method.prox_mu"),
        ({"prox_mu": float("nan")}, "method.prox_mu"),
        ({"server_lr": 0}, "method.server_lr"),
        ({"server_optimizer": "rmsprop"}, "adam"),
        ({"beta1": 1.0}, "method.beta1"),
        ({"locl_steps": 3}, "local_steps"),
        ({"layers": ["F1"]}, "evaluation.where"),
        ({"name": "fedavgg"}, "fedavg"),
        ({"name": 3}, "method.name"),
    ],
)
def test_a_bad_plan_is_named(section: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        resolve_method(job(**section) if "name" not in section else Job("x", section, {}))


def test_methods_are_known_by_their_names() -> None:
    assert all(method.name == name and method.role(method.root) for name, method in METHODS.items())


# -- random schedules ------------------------------------------------------------------------


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
        deadlines = [at for at in (server.closes_at, server._ends_at()) if at is not None]
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


@pytest.mark.parametrize("faults", FAULTS)
@pytest.mark.parametrize("kind", JOBS)
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
        assert [record.round for record in root.history] == list(range(1, rounds + 1)), f"seed {seed}"
        if kind != "none":
            assert "accuracy" in finish.numbers
        if faults in ("calm", "noisy") and kind in ("plain", "federated"):
            assert all(record.updates == 4 and record.examples == 46 for record in root.history), f"seed {seed}: somebody was not waited for"
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
        return _train(task, inputs, numbers)

    for seed in range(10):
        schedule = Schedule(job(rounds=6), 4, {**OPS, "train": flaky}, seed, watch=Watch())
        assert schedule.run().why == ""
        assert schedule.measured["troubled_updates"] > 0
