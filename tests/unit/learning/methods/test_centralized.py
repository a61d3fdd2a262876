"""centralized: samples go up once and with consent; then it is plain training on the union batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fog_common.errors import ConfigError, Refused
from fog_common.runtime.machine import Blob, Command, Delivered, Event, Finish, Joined, Peer, Run, Save, Send, Started
from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import Data, Evaluation, JobFile, Partition, Privacy, Stragglers, Train
from fog_learning.methods import resolve_method
from fog_learning.methods.centralized.center import Center
from fog_learning.methods.centralized.messages import AskSamples, NoSamples, Samples
from fog_learning.methods.centralized.source import SampleSource
from support.few import few
from support.inline import Inline
from support.schedules import Faults, Op, Schedule, Seat

Value = dict[str, Any]
CONSENT = Privacy(share_samples=True)


def job(privacy: Privacy = CONSENT, rounds: int = 3, evaluation: Evaluation = Evaluation(), **more: Any) -> JobFile:
    method = more.pop("method", {"name": "centralized", "round_steps": 4})
    return JobFile("test", method, {"name": "mlp", "hidden": [16]}, train=Train(rounds=rounds), evaluation=evaluation, privacy=privacy, **more)


def peer(task: str, slot: int = -1) -> Peer:
    return Peer(task, "center" if slot < 0 else "source", slot, f"n-{task}", "site", "edge", incarnation=1, since=1)


# -- step by step ------------------------------------------------------------------------------


def test_without_consent_the_job_is_refused() -> None:
    with pytest.raises(ConfigError, match="share_samples: centralized"):
        resolve_method(job(privacy=Privacy()))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"evaluation": Evaluation(where="federated")}, "evaluation.where"),
        ({"stragglers": Stragglers(quorum=0.5)}, "stragglers"),
        ({"method": {"name": "centralized", "round_steps": 0}}, "method.round_steps"),
    ],
)
def test_a_bad_plan_is_named(more: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        resolve_method(job(**more))


def test_the_node_is_asked_for_consent_too() -> None:
    backend = TorchBackend(JobFile("x", {"name": "fedavg"}, {"name": "mlp"}), {"source-0": 0}, 1, env={})
    with pytest.raises(Refused, match="share_samples"):
        backend.run("samples", "source-0", {}, {"slot": 0})


def test_a_source_that_was_asked_answers_once_per_question() -> None:
    source = SampleSource(slot=2)
    source.step(Started(), 0.0)
    (run,) = source.step(Delivered("center", AskSamples()), 1.0)
    assert isinstance(run, Run)
    assert source.step(Delivered("center", AskSamples()), 1.0) == []


def test_it_waits_visibly_until_every_live_source_has_sent() -> None:
    found, plan = resolve_method(job())
    center = found.build(job(), plan, peer("center"))
    assert isinstance(center, Center)
    center.step(Started((peer("center"), peer("ada", 0), peer("bob", 1))), 0.0)
    center.phase, center.weights = "collecting", Blob("w", 4)
    assert center.step(Delivered("ada", Samples(0, Blob("x", 4), 10)), 1.0) == []
    waiting = center.waiting(2.0)
    assert waiting is not None
    assert (waiting.what, waiting.have, waiting.need, waiting.who) == ("samples", 1, 2, ("bob",))
    assert center.step(Joined(peer("ada", 0)), 2.0) == [], "its samples are here already"
    assert center.step(Joined(peer("cyd", 2)), 2.0) == [Send("cyd", AskSamples(), latest=True)]
    (finish,) = center.step(Delivered("bob", NoSamples(1, "samples stay on this node")), 3.0)
    assert isinstance(finish, Finish)
    assert "slot 1 does not share its samples: samples stay on this node" in finish.why


# -- random schedules --------------------------------------------------------------------------


def _train(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
    weights = inputs["weights"]
    slots = sorted(inputs[name]["slot"] for name in inputs if name.startswith("samples"))
    assert weights["round"] == numbers["round"] - 1
    assert inputs.get("opt", 0) == weights["round"]
    return {"weights": {"round": numbers["round"], "slots": slots}, "opt": numbers["round"]}, {"loss": 1.0, "examples": 8.0}


OPS: dict[str, Op] = {
    "init": lambda task, inputs, numbers: ({"weights": {"round": 0}}, {}),
    "samples": lambda task, inputs, numbers: ({"samples": {"slot": numbers["slot"]}}, {"examples": 5.0}),
    "train_union": _train,
    "evaluate": lambda task, inputs, numbers: ({}, {"accuracy": inputs["weights"]["round"] / 10, "loss": 0.5}),
}


def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
    if isinstance(seat.machine, SampleSource):
        assert not any(isinstance(command, Save) for command in commands)


@pytest.mark.parametrize(
    "faults", [Faults(), Faults(duplicate=0.3, early_wake=0.1), Faults(crashes=6), Faults(crashes=3, leaves=2, absent=("source-1",))]
)
def test_any_schedule_trains_every_round_once(faults: Faults) -> None:
    for seed in range(30):
        schedule = Schedule(job(), 4, OPS, seed, faults, watch)
        finish = schedule.run()
        assert finish.why == ""
        result = finish.refs["weights"]
        assert isinstance(result, Blob)
        weights = schedule.contents[result.digest]
        assert weights["round"] == 3
        if not faults.crashes:
            assert weights["slots"] == [0, 1, 2, 3], "everybody's samples are in"
        center = schedule.seats["center"].machine
        assert isinstance(center, Center)
        assert [record.round for record in schedule.seats["center"].history] == [1, 2, 3]


# -- the same numbers as the other methods ------------------------------------------------------


def losses(
    method: dict[str, Any], optimizer: dict[str, Any], roles: str, partition: Partition = Partition("dirichlet")
) -> tuple[list[float], Inline]:
    the_job = JobFile(
        "equal",
        method,
        {"name": "mlp", "hidden": [16]},
        data=Data("digits", partition, train_limit=180),
        train=Train(rounds=6, batch_size=16, dtype="float64", **optimizer),
        privacy=CONSENT,
        seed=4,
    )
    backend = TorchBackend(the_job, {**{f"{roles}-{slot}": slot for slot in range(3)}, "root": -1}, 3, env={})
    inline = Inline(the_job, backend, 3)
    inline.run()
    return inline.measured["loss"], inline


@pytest.mark.parametrize("optimizer", few([{"lr": 0.1, "momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}], 1))
def test_centralized_and_fcddt_are_the_same_training(optimizer: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    central, one = losses({"name": "centralized", "round_steps": 1}, optimizer, "source")
    split, other = losses({"name": "fcddt", "round_steps": 1}, optimizer, "front")
    assert max(abs(a - b) / b for a, b in zip(central, split, strict=True)) < 1e-9
    ours, theirs = one.weights(), other.weights()
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12) for name in theirs)


def test_with_equal_parts_and_plain_sgd_fedsgd_is_the_same_too() -> None:
    torch.set_num_threads(1)
    central, one = losses({"name": "centralized", "round_steps": 1}, {"lr": 0.1}, "source", Partition("iid"))
    fedsgd, other = losses({"name": "fedavg", "local_steps": 1}, {"lr": 0.1}, "trainer", Partition("iid"))
    assert max(abs(a - b) / b for a, b in zip(central, fedsgd, strict=True)) < 1e-9
    ours, theirs = one.weights(), other.weights()
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12) for name in theirs)
