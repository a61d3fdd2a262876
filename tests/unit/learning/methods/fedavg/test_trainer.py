"""fedavg: the trainer step by step, branches of weights, and the plan."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fog_common.errors import ConfigError
from fog_common.runtime.machine import (
    Blob,
    Delivered,
    Failed,
    Handle,
    Joined,
    Ran,
    Run,
    Save,
    Send,
    Slots,
    Started,
    WakeAt,
    Woke,
)
from fog_learning.job.sections import JobFile, Stragglers
from fog_learning.methods import METHODS, resolve_method
from fog_learning.methods.fedavg.messages import NoUpdate, RoundCall, Update
from fog_learning.methods.fedavg.server import Server
from fog_learning.methods.fedavg.trainer import Trainer
from support.fedavg_steps import ADA, BOB, BRANCH, CYD, SERVER, job, kinds, opened, update

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
        resolve_method(job(**section) if "name" not in section else JobFile("x", section, {}))


def test_methods_are_known_by_their_names() -> None:
    assert all(method.name == name and method.role(method.root) for name, method in METHODS.items())
