"""A job whose roster is empty: a method all of whose roles are free, live over mosquitto. Terms of a series, added up at one place.

| op    | runs on | inputs          | numbers in          | outputs | numbers out |
|-------|---------|-----------------|---------------------|---------|-------------|
| terms | part    |                 | round, part, length | value   |             |
| add   | total   | sum?, value{i}… |                     | sum     | gap         |

A round: total -> parts Ask; part -> total Terms. The sum goes to pi²/6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import pytest
from msgspec import Meta, Struct, field

from fog_common.runtime.machine import (
    Cast,
    Command,
    Delivered,
    Event,
    Failed,
    Joined,
    Machine,
    Measure,
    Peer,
    Ran,
    Ref,
    Rewound,
    RoundRecord,
    Run,
    Save,
    Send,
    Started,
    Waiting,
)
from fog_learning.backend.base import Result
from fog_learning.job.sections import Evaluation, JobFile
from fog_learning.methods.base import Headline, Method, Role
from fog_learning.ops.row import Op
from fog_learning.rounds.ledger import Ledger
from support.extension import offer

PARTS: Final = 2


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    rounds: Annotated[int, Meta(ge=1)] = 10
    length: Annotated[int, Meta(ge=1)] = 100
    """Terms of each part in a round."""


class Ask(Struct, frozen=True, tag="Ask"):
    """Total -> parts: a round begins, or begins again."""

    round: int


class Terms(Struct, frozen=True, tag="Terms"):
    """Part -> total. Counts once per round and part."""

    round: int
    part: int
    value: Ref


class Part(Machine):
    part: int
    length: int

    def step(self, event: Event, now: float) -> list[Command]:
        match event:
            case Delivered(_, Ask(number)):
                return [Run("terms", {}, ("terms", number), {"round": number, "part": self.part, "length": self.length})]
            case Ran(("terms", int(number)), refs):
                return [Send("total", Terms(number, self.part, refs["value"]), latest=True)]
        return []


class Total(Machine):
    ledger: Ledger
    values: dict[int, Ref] = field(default_factory=dict)
    """By part, in the open round."""
    adding: bool = False
    sum: Ref | None = None
    """Of all closed rounds."""

    def step(self, event: Event, now: float) -> list[Command]:
        if self.ledger.over:
            return []
        match event:
            case Started():
                return self._open()
            case Rewound() | Joined():
                return [Cast("part", Ask(self.ledger.round), latest=True)]
            case Delivered(_, Terms(number, part, value)) if number == self.ledger.round and part not in self.values and not self.adding:
                self.values[part] = value
                self.adding = len(self.values) == PARTS
                refs = {f"value{part}": self.values[part] for part in sorted(self.values)}
                return [Run("add", refs if self.sum is None else {**refs, "sum": self.sum}, ("added", number))] if self.adding else []
            case Ran(("added", int(number)), refs, numbers):
                self.sum = refs["sum"]
                closed = self.ledger.close(RoundRecord(number, now, PARTS, 0, {"gap": numbers["gap"]}))
                following = self.ledger.finish(self.sum) if self.ledger.last else self._open()
                return [Measure("gap", numbers["gap"]), *closed, Save(number), *following]
            case Failed((op, *_), why):
                return self.ledger.fail(f"{op} failed: {why}")
        return []

    def waiting(self, now: float) -> Waiting | None:
        return Waiting("terms", len(self.values), PARTS)

    def progress(self) -> int:
        return self.ledger.shown

    def _open(self) -> list[Command]:
        self.values, self.adding = {}, False
        return [Cast("part", Ask(self.ledger.open()), latest=True)]


def build(job: JobFile, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    if peer.role == "total":
        return Total(ledger=Ledger(plan.rounds, Evaluation(where="none")))
    return Part(part=int(peer.task.removeprefix("part-")), length=plan.length)


def rounds(job: JobFile, plan: Struct) -> int:
    assert isinstance(plan, Plan)
    return plan.rounds


def terms(backend: Any, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
    return {"value": _scalar(part_of(int(numbers["round"]), int(numbers["part"]), int(numbers["length"])))}, {}


def add(backend: Any, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
    total = math.fsum(float(value["x"]) for _, value in sorted(inputs.items()))
    return {"sum": _scalar(total)}, {"gap": math.pi**2 / 6 - total}


def part_of(number: int, part: int, length: int) -> float:
    """The sum of the terms that a part has in a round."""
    first = ((number - 1) * PARTS + part) * length + 1
    return math.fsum(1.0 / k**2 for k in range(first, first + length))


def _scalar(value: float) -> Any:
    import torch

    from fog_learning.ops.values import Weights

    return Weights({"x": torch.as_tensor(value, dtype=torch.float64)})


SERIES: Final = Method(
    name="series",
    title="Terms of a series, without any data",
    source="Euler 1735",
    plan=Plan,
    roles=(
        Role("part", Part, bound="free", count=PARTS, talks_to=("total",)),
        Role("total", Total, bound="free", stateful=True, talks_to=("part",)),
    ),
    messages=(Ask, Terms),
    ops=(
        Op(name="terms", function=f"{__name__}:terms", family="series", numbers=("round", "part", "length"), outputs=("value",)),
        Op(name="add", function=f"{__name__}:add", family="series", inputs=("sum?", "value0…"), outputs=("sum",), gives=("gap",)),
    ),
    root="total",
    build=build,
    headline=(Headline("gap", "distance from the limit", better="less"),),
    rounds=rounds,
)

# -- the test ------------------------------------------------------------------------------

ROUNDS: Final = 30
LENGTH: Final = 50


def expected() -> float:
    """The gap of a run in which every part of every round counts once, added in the order of a run."""
    total = 0.0
    for number in range(1, ROUNDS + 1):
        total = math.fsum([total, *(part_of(number, part, LENGTH) for part in range(PARTS))])
    return math.pi**2 / 6 - total


def test_live_a_job_without_data_tasks_is_placed_runs_to_its_result_and_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from e2e.conftest import Fleet
    from fogctl.fleet.broker import find_mosquitto
    from fogctl.fleet.local_fleet import CLOUD_NODE
    from support.broker import needs
    from support.cli import shown_by_fogctl

    needs("mosquitto", find_mosquitto())
    offer(tmp_path / "site", monkeypatch, "series", Path(__file__), "SERIES")
    methods = {"methods": ["series"]}
    spec = {
        "name": "basel",
        "method": {"name": "series", "rounds": ROUNDS, "length": LENGTH},
        "model": {"name": "mlp", "hidden": [4]},
        "placement": {"roles": {"part": {"names": ["agent-1", "agent-2"]}, "total": {"tier": ["cloud"]}}},
    }
    with Fleet(tmp_path / "fleet", 2, broker="mosquitto", agent_options=methods, coordinator_options=methods) as fleet, fleet.client() as client:
        fleet.wait_for_nodes(client, 3)
        client.request("job.submit", spec=spec)
        status = fleet.finished(client, "basel")
        places = {task["task"]: task["node"] for task in status["tasks"]}
        assert places.keys() == {"total", "part-0", "part-1"} and places["total"] == CLOUD_NODE
        assert {places["part-0"], places["part-1"]} == {"agent-1", "agent-2"}, "side by side"
        assert (status["round"], status["rounds"], status["nodes"]) == (ROUNDS, ROUNDS, 0)
        assert [record["round"] for record in status["history"]] == list(range(1, ROUNDS + 1))
        assert status["metrics"]["gap"] == expected()
        screen = shown_by_fogctl(fleet.broker_config.port, "job", "status", "basel")
        assert "distance from the limit" in screen and "finished" in screen
        assert all(task in screen for task in places)
        shown_by_fogctl(fleet.broker_config.port, "job", "result", "basel", "--out", str(tmp_path))
    from safetensors.torch import load_file

    assert math.pi**2 / 6 - load_file(tmp_path / "basel.safetensors")["x"].item() == expected()
