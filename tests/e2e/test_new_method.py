"""A method from outside the product, all of it in this one file: darts thrown at a square estimate pi. The pattern for a new method.

Two free roles beside the one that owns slots, ops of its own, a headline number that is not an accuracy. The product finds it by its entry
point; the tests below run it live and simulated, place it, drain and kill its nodes, and look at it as people do.

| op       | runs on | inputs                | numbers in         | outputs      | numbers out |
|----------|---------|-----------------------|--------------------|--------------|-------------|
| throw    | thrower |                       | round, slot, darts | hits         | thrown      |
| estimate | tally   | total?, hits{slot} …  |                    | total, value |             |
| judge    | judge   | value                 |                    |              | error       |

A round: tally -> throwers Throw; thrower -> tally Hits; tally -> judge Estimate; judge -> tally Verdict.
"""

from __future__ import annotations

import math
import time
import urllib.request
from collections.abc import Iterator, Mapping
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
    Left,
    Machine,
    Measure,
    Numbers,
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
from fog_learning.costs.demands import Demands, Phase
from fog_learning.job.sections import Evaluation, JobFile
from fog_learning.methods.base import Headline, Method, Role
from fog_learning.models import ModelSpec
from fog_learning.ops.row import Op, Work
from fog_learning.rounds.ledger import Ledger
from support.extension import offer

# -- the method ----------------------------------------------------------------------------


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    rounds: Annotated[int, Meta(ge=1)] = 10
    darts: Annotated[int, Meta(ge=1)] = 1000
    """Of each thrower in a round."""


class Throw(Struct, frozen=True, tag="Throw"):
    """Tally -> throwers: a round begins, or begins again."""

    round: int


class Hits(Struct, frozen=True, tag="Hits"):
    """Thrower -> tally. Counts once per round and slot."""

    round: int
    slot: int
    hits: Ref
    thrown: int


class Estimate(Struct, frozen=True, tag="Estimate"):
    """Tally -> judge."""

    round: int
    value: Ref


class Verdict(Struct, frozen=True, tag="Verdict"):
    """Judge -> tally."""

    round: int
    error: float


class Thrower(Machine):
    slot: int
    darts: int
    tally: str = ""

    def step(self, event: Event, now: float) -> list[Command]:
        match event:
            case Delivered(sender, Throw(number)):
                self.tally = sender
                return [Run("throw", {}, ("thrown", number), {"round": number, "slot": self.slot, "darts": self.darts})]
            case Ran(("thrown", int(number)), refs, numbers):
                return [Send(self.tally, Hits(number, self.slot, refs["hits"], int(numbers["thrown"])), keep=number)]
        return []


class Tally(Machine):
    ledger: Ledger
    throwers: dict[str, int] = field(default_factory=dict)
    """Live throwers: task -> slot."""
    judge: str = ""
    """The live judge; '' if there is none."""
    heard: dict[int, Hits] = field(default_factory=dict)
    """By slot, in the open round."""
    total: Ref | None = None
    """Hits and darts of all closed rounds."""
    weights: Ref | None = None
    """The newest estimate."""
    counting: bool = False
    since: float = 0.0

    def step(self, event: Event, now: float) -> list[Command]:
        if self.ledger.over:
            return []
        match event:
            case Started(roster):
                self._meet(roster)
                return self._open(now)
            case Rewound(_, roster):  # what stands behind the Save, the Cast included, is performed again
                self._meet(roster)
            case Joined(peer) if peer.role == "judge":
                self.judge = peer.task
                return self._ask()
            case Joined(peer) if peer.role == "thrower":
                self.throwers[peer.task] = peer.slot
                return [] if peer.slot in self.heard else [Send(peer.task, Throw(self.ledger.round), latest=True)]
            case Left(peer, False) if peer.role == "thrower":
                self.throwers.pop(peer.task, None)
                return self._count()
            case Delivered(sender, Hits() as hits) if hits.round == self.ledger.round and self.throwers.get(sender) == hits.slot:
                if hits.slot in self.heard or self.counting:
                    return []
                self.heard[hits.slot] = hits
                return self._count()
            case Ran(("estimated", number), refs) if number == self.ledger.round:
                self.total, self.weights = refs["total"], refs["value"]
                return self._ask()
            case Delivered(_, Verdict(number, error)) if number == self.ledger.round and self.counting:
                return self._close(error, now)
            case Failed((what, *_), why):
                return self.ledger.fail(f"{what} failed in round {self.ledger.round}: {why}")
        return []

    def waiting(self, now: float) -> Waiting | None:
        if self.counting:
            return Waiting("the judge's verdict", who=(self.judge,) if self.judge else (), since=self.since)
        missing = tuple(task for task, slot in self.throwers.items() if slot not in self.heard)
        return Waiting("throws", len(self.heard), len(self.heard) + len(missing), missing, self.since)

    def progress(self) -> int:
        return self.ledger.shown

    def figures(self) -> Numbers:
        return self.ledger.numbers

    def _meet(self, roster: tuple[Peer, ...]) -> None:
        self.throwers = {peer.task: peer.slot for peer in roster if peer.role == "thrower"}
        self.judge = next((peer.task for peer in roster if peer.role == "judge"), "")

    def _open(self, now: float) -> list[Command]:
        self.heard, self.counting, self.since = {}, False, now
        return [Cast("thrower", Throw(self.ledger.open()), latest=True)]

    def _count(self) -> list[Command]:
        if self.counting or not self.heard or any(slot not in self.heard for slot in self.throwers.values()):
            return []
        self.counting = True
        refs = {f"hits{slot}": self.heard[slot].hits for slot in sorted(self.heard)}
        return [Run("estimate", refs if self.total is None else {**refs, "total": self.total}, ("estimated", self.ledger.round))]

    def _ask(self) -> list[Command]:
        if not self.counting or not self.judge or self.weights is None:
            return []
        return [Send(self.judge, Estimate(self.ledger.round, self.weights), latest=True)]

    def _close(self, error: float, now: float) -> list[Command]:
        number, thrown = self.ledger.round, sum(hits.thrown for hits in self.heard.values())
        closed = self.ledger.close(RoundRecord(number, now, len(self.heard), thrown, {"pi_error": error}))
        assert self.weights is not None
        following = self.ledger.finish(self.weights) if self.ledger.last else self._open(now)
        return [Measure("pi_error", error), *closed, Save(number), *following]


class Judge(Machine):
    tally: str = ""
    judged: int = 0

    def step(self, event: Event, now: float) -> list[Command]:
        match event:
            case Delivered(sender, Estimate(number, value)):
                self.tally = sender
                return [Run("judge", {"value": value}, ("judged", number))]
            case Ran(("judged", int(number)), _, numbers):
                saved: list[Command] = [Save(number)] if number > self.judged else []
                self.judged = max(self.judged, number)
                return [*saved, Send(self.tally, Verdict(number, numbers["error"]), latest=True)]
        return []

    def progress(self) -> int:
        return self.judged


def build(job: JobFile, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    match peer.role:
        case "tally":
            return Tally(ledger=Ledger(plan.rounds, Evaluation(where="none")))
        case "judge":
            return Judge()
    return Thrower(slot=peer.slot, darts=plan.darts)


def rounds(job: JobFile, plan: Struct) -> int:
    assert isinstance(plan, Plan)
    return plan.rounds


def demands(job: JobFile, plan: Struct, spec: ModelSpec, slots: int, test_examples: int) -> tuple[Demands, ...]:
    assert isinstance(plan, Plan)
    cycle = (
        Phase("thrower", 10.0 * plan.darts, to="tally", bytes=8),
        Phase("tally", 10.0 * slots, to="judge", bytes=16),
        Phase("judge", 10.0, to="tally", bytes=8),
        Phase("tally", 0.0, to="thrower", bytes=8, cast=True),
    )
    return (Demands(title="darts", cycle=cycle, memory=dict.fromkeys(("thrower", "tally", "judge"), 300_000_000)),)


def throw(backend: Any, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
    return {"hits": _tensors(hits=thrown(int(numbers["round"]), int(numbers["slot"]), int(numbers["darts"])))}, {"thrown": float(numbers["darts"])}


def estimate(backend: Any, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
    hits = sum(inputs[name]["hits"] for name in sorted(inputs))
    return {"total": _tensors(hits=hits), "value": _tensors(pi=4.0 * hits[0].item() / hits[1].item())}, {}


def judge(backend: Any, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
    return {}, {"error": abs(float(inputs["value"]["pi"]) - math.pi)}


def thrown(number: int, slot: int, darts: int) -> list[int]:
    """[darts in the quarter circle, all darts] of a slot in a round."""
    from fog_learning.data.streams import stream

    points = stream("darts", slot, number).rand(darts, 2)
    return [int(((points**2).sum(axis=1) <= 1.0).sum()), darts]


def _tensors(**values: Any) -> Any:
    import torch

    from fog_learning.ops.values import Weights

    return Weights({name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()})


def _flops(work: Work, numbers: Mapping[str, float | int | str]) -> float:
    return 10.0 * float(numbers["darts"])


DARTS = Method(
    name="darts",
    title="Pi by darts: throwers, a tally, a judge",
    source="Laplace 1812",
    plan=Plan,
    roles=(
        Role("thrower", Thrower, bound="slot", talks_to=("tally",)),
        Role("tally", Tally, bound="free", stateful=True, talks_to=("thrower", "judge")),
        Role("judge", Judge, bound="free", stateful=True, talks_to=("tally",)),
    ),
    messages=(Throw, Hits, Estimate, Verdict),
    ops=(
        Op(
            name="throw",
            function=f"{__name__}:throw",
            family="darts",
            numbers=("round", "slot", "darts"),
            outputs=("hits",),
            gives=("thrown",),
            flops=_flops,
        ),
        Op(name="estimate", function=f"{__name__}:estimate", family="darts", inputs=("total?", "hits0…"), outputs=("total", "value")),
        Op(name="judge", function=f"{__name__}:judge", family="darts", inputs=("value",), gives=("error",)),
    ),
    root="tally",
    build=build,
    headline=(Headline("pi_error", "distance from pi", better="less"),),
    demands=demands,
    rounds=rounds,
)

# -- the tests -----------------------------------------------------------------------------

ROUNDS: Final = 400
DARTS_EACH: Final = 20_000
PATIENCE_S: Final = 120.0


def spec(rounds: int, darts: int, nodes: list[str]) -> dict[str, Any]:
    return {
        "name": "pi",
        "method": {"name": "darts", "rounds": rounds, "darts": darts},
        "model": {"name": "mlp", "hidden": [4]},
        "nodes": {"select": {"tier": [], "names": nodes}},
    }


def expected(rounds: int, slots: int, darts: int) -> float:
    """The estimate of a run in which every slot's throw of every round counts once."""
    inside = sum(thrown(number, slot, darts)[0] for number in range(1, rounds + 1) for slot in range(slots))
    return 4.0 * inside / (rounds * slots * darts)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers the method: this file and an entry point."""
    offer(tmp_path / "site", monkeypatch, "darts", Path(__file__), "DARTS")


@pytest.fixture
def allowed(installed: None) -> Iterator[None]:
    """This process may load the method, as a configuration with `methods: [darts]` says."""
    from fog_learning.methods import METHODS

    with METHODS.allowed(["darts"]):
        yield


def places_of(status: dict[str, Any]) -> dict[str, str]:
    return {task["task"]: task["node"] for task in status["tasks"] if task["slot"] < 0}


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("kind", ["none", "kill_worker", "power_loss", "drain"])
def test_simulated_the_estimate_is_that_of_an_undisturbed_run_whatever_happens_to_the_free_tasks(kind: str):
    from fog_sim.costs import torch_backend
    from fog_sim.faults import Fault, Schedule
    from fog_sim.links import PRESETS
    from fog_sim.world import Simulation

    world = Simulation(5, PRESETS["lan"], torch_backend, seed=5)
    nodes = ["node-1", "node-2", "node-3"]
    world.submit(spec(60, 200, nodes))
    moves = [] if kind == "none" else [Fault(0.3, kind, "cloud-1", 60.0), Fault(9.0, kind, "cloud-1", 60.0)]  # type: ignore[arg-type]
    world.inject(Schedule(moves))
    status = world.run("pi", 600.0)
    assert status["state"] == "finished", status["line"]
    assert status["round"] == status["rounds"] == 60
    assert [record["round"] for record in status["history"]] == list(range(1, 61))
    value = expected(60, 3, 200)
    assert status["metrics"]["pi_error"] == abs(value - math.pi)
    assert {figure["name"] for figure in status["headline"]} == {"pi_error"}
    assert set(places_of(status)) == {"tally", "judge"}
    if kind in ("power_loss", "drain"):
        assert "cloud-1" not in places_of(status).values()


@pytest.mark.usefixtures("installed")
def test_live_it_is_placed_drained_killed_recovered_and_shown(tmp_path: Path):
    from fogctl.fleet.broker import find_mosquitto
    from fogctl.fleet.local_fleet import CLOUD_NODE, LocalFleet
    from support.broker import needs
    from support.cli import shown_by_fogctl

    needs("mosquitto", find_mosquitto())
    methods = {"methods": ["darts"]}
    with LocalFleet(tmp_path / "fleet", 3, broker="mosquitto", agent_options=methods, coordinator_options=methods) as fleet, fleet.client() as client:
        fleet.start_agent("spare-1")
        fleet.start_agent("spare-2")
        fleet.wait_for_nodes(client, 6)
        client.request("job.submit", spec=spec(ROUNDS, DARTS_EACH, fleet.agents))

        def until(what: str, good: Any) -> dict[str, Any]:
            end = time.monotonic() + PATIENCE_S
            while not good(status := client.request("job.status", job="pi")):
                assert status["state"] not in {"failed", "cancelled", "finished"}, (what, status["line"], status["problems"])
                assert time.monotonic() < end, (what, status["line"], status["waits"])
            return dict(status)

        placed = until("a first round", lambda status: status["round"] >= 3)
        assert set(places_of(placed).values()) == {CLOUD_NODE}
        client.request("node.drain", node=CLOUD_NODE)
        drained = until("both off the drained node", lambda status: CLOUD_NODE not in places_of(status).values())
        home = places_of(drained)["tally"]
        begun = drained["round"]
        until("a round at the new place", lambda status: status["round"] > begun + 3)
        fleet.kill(home)
        until("the root at another node", lambda status: places_of(status)["tally"] != home)
        screen = shown_by_fogctl(fleet.broker_config.port, "top", "--once")
        assert "pi_error" in screen or "distance from pi" in screen
        final = until("the end", lambda status: status["state"] == "finished")
        assert final["state"] == "finished", final["why"]
        assert final["metrics"]["pi_error"] == abs(expected(ROUNDS, 3, DARTS_EACH) - math.pi)
        assert "distance from pi" in shown_by_fogctl(fleet.broker_config.port, "job", "status", "pi")
        shown_by_fogctl(fleet.broker_config.port, "job", "plot", "pi", "--out", str(tmp_path / "pi.svg"))
        assert "distance from pi" in (tmp_path / "pi.svg").read_text()
        with urllib.request.urlopen(fleet.metrics_url) as page:
            samples = page.read().decode()
        assert any(line.startswith("fog_job_headline{") and 'name="pi_error"' in line for line in samples.splitlines())
