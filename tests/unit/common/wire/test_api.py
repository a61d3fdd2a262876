"""The control API: every reply of a real coordinator comes out of the wire as it went in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fog_common.wire import messages
from fog_common.wire.api.shown import shown
from fog_common.wire.api.states import ENDED, JOB_STATES
from fog_common.wire.api.verbs import (
    QUESTIONS,
    CancelJob,
    DrainNode,
    FetchResult,
    ListJobs,
    ListNodes,
    Ping,
    PlanJob,
    Question,
    ReadJob,
    ReadLog,
    ReadNode,
    ReadTop,
    ReadTree,
    SubmitJob,
)
from fog_common.wire.messages import Reply
from fog_coordinator.reading import verbs
from fog_coordinator.state.effects import Answer
from support.reports import MeasuringNode
from support.stand_ins import SPEC, World

ASKED: list[Question[Any]] = [
    Ping(),
    PlanJob({**SPEC, "name": "other"}),
    ListJobs(),
    ReadJob("digits"),
    ReadLog("digits"),
    ListNodes(),
    ReadTop(),
    ReadNode("pi-1"),
    ReadTree("digits"),
    ReadTree(),
    DrainNode("pi-2"),
    SubmitJob({**SPEC, "name": "second"}),
    CancelJob("second"),
    FetchResult("digits"),
]


@pytest.fixture(scope="module")
def world() -> World:
    world = World(MeasuringNode("cloud-1", "cloud", "cloud"), MeasuringNode("pi-1"), MeasuringNode("pi-2"))
    world.run(1.0)
    world.submit(budgets={"time_s": 500})
    world.run(2.0)
    for _ in range(3):
        world.train()
        world.run(1.0)
    return world


def test_every_verb_is_asked_here() -> None:
    assert {question.verb for question in ASKED} == set(QUESTIONS)


@pytest.mark.parametrize("question", ASKED, ids=lambda question: question.verb)
def test_a_reply_comes_out_of_the_wire_as_it_went_in(world: World, question: Question[Any]) -> None:
    if isinstance(question, FetchResult):
        for _ in range(30):
            world.train()
            world.run(1.0)
        assert world.status()["state"] in ENDED
    assert world.core is not None
    verbs.answer(world.core, world.now, "operator", "s", messages.Request("r", question.verb, msgspec.to_builtins(question)))
    reply = next(effect.reply for effect in world.core.take() if isinstance(effect, Answer))
    assert not reply.exit_code, reply.error
    assert type(reply.body) is question.body
    heard = messages.decode(messages.encode(reply))
    assert isinstance(heard, Reply)
    assert msgspec.convert(heard.body, question.body) == reply.body
    assert shown(msgspec.convert(heard.body, question.body)) == shown(reply.body)


def test_a_status_in_json_has_the_numbers_of_rounds_beside_the_other_keys(world: World) -> None:
    body = world.body("job.status", job="digits")
    assert {"round", "wall_s", "updates", "examples", "bytes", "joules", "accuracy", "loss"} <= set(body["history"][-1])
    assert [figure["name"] for figure in body["headline"]] == ["accuracy", "loss"]
    assert body["headline"][1]["title"] == "training loss"
    assert body["state"] in JOB_STATES


def test_an_unknown_argument_is_refused(world: World) -> None:
    reply = world.ask("job.status", job="digits", lines=3)
    assert (reply.exit_code, "lines" in reply.error) == (2, True)
