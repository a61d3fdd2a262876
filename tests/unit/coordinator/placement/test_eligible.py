"""One eligibility: every place that picks a node agrees with `refusals`."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.wire.api.states import OFFLINE, ONLINE, RUNNING, UNKNOWN
from fog_common.wire.messages import Announce, Profile, WorkerState
from fog_coordinator.placement.eligible import TaskNeeds, absent, is_there, occupied, refusals, task_of
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node
from fog_learning.job.sections import Placing
from support.few import few
from support.stand_ins import StandIn, World

JOB = Job("j", "j", "u", "", {}, "fedavg", "server", False, 1, 0.0, 0)
ANY = TaskNeeds("server", "free")


def node(name: str = "n", **profile: Any) -> Node:
    return Node(name, Profile(**{"tier": "fog", "site": "hall", **profile}), state=ONLINE, nonce="1")


def kinds(found: Node | None, task: TaskNeeds = ANY, job: Job = JOB, busy: dict[str, str] | None = None) -> list[str]:
    return [reason.kind for reason in refusals(found, task, job, busy or {})]


def test_a_node_without_a_refusal_may_take_the_task():
    assert kinds(node()) == []
    assert is_there(node())


@pytest.mark.parametrize(
    ("changed", "kind", "text"),
    [
        ({"state": OFFLINE, "why": "its connection ended"}, "offline", "offline: its connection ended"),
        ({"state": UNKNOWN}, "unheard", "not heard of yet"),
        ({"drain": True}, "leaving", "draining"),
        ({"goodbye": True}, "leaving", "draining"),
    ],
)
def test_an_absent_node_takes_nothing(changed: dict[str, Any], kind: str, text: str):
    found = replace(node(), **changed)
    reason = absent(found)
    assert reason is not None and (reason.kind, reason.text) == (kind, text)
    assert kinds(found) == [kind]


def test_every_reason_is_named_with_its_numbers():
    unknown = absent(None)
    assert unknown is not None and unknown.kind == "unseen"
    tight = node(memory_bytes=1 << 30, memory_free_bytes=300_000_000)
    found = refusals(tight, TaskNeeds("server", "free", 900_000_000, Placing(tier=["cloud"])), JOB, {"n": "other"})
    assert [reason.kind for reason in found] == ["busy", "constraint", "memory"]
    assert [reason.text for reason in found] == ["busy with other", "not of tier cloud (placement)", "900 MB needed, 300 MB free"]
    assert (found[2].need, found[2].free, found[0].job) == (900_000_000, 300_000_000, "other")


def test_a_worker_that_refuses_is_a_refusal_in_its_own_words():
    found = node()
    found.workers = {"j": WorkerState("j", 1, "refused", problems=("torch is missing",))}
    assert [reason.text for reason in refusals(found, ANY, JOB, {})] == ["torch is missing"]


def test_a_node_of_the_job_needs_room_for_the_task_beside_those_on_their_way_there():
    """A worker that runs has its interpreter (250 MB), and what its live tasks need, already."""
    live = Seat("server", "server", -1, "n", "hall", "fog", incarnation=1)
    coming = Seat("judge", "judge", -1, "n", "hall", "fog")
    job = replace(JOB, state=RUNNING, seats=[live, coming], needs={"server": 400_000_000, "judge": 300_000_000})

    def short_of(free: int, task: TaskNeeds, runs: bool) -> int:
        found = node(memory_bytes=1 << 30, memory_free_bytes=free)
        found.workers = {"j": WorkerState("j", 1, "ready")} if runs else {}
        return sum(reason.need for reason in refusals(found, task, job, {}) if reason.kind == "memory")

    third = TaskNeeds("third", "free", 350_000_000, task="third")
    assert (short_of(149_000_000, third, True), short_of(150_000_000, third, True)) == (150_000_000, 0)
    assert (short_of(399_000_000, third, False), short_of(400_000_000, third, False)) == (400_000_000, 0)
    own = TaskNeeds("judge", "free", 300_000_000, task="judge")
    assert (short_of(49_000_000, own, True), short_of(50_000_000, own, True)) == (50_000_000, 0)


# -- in the coordinator ----------------------------------------------------------------------


@dataclass
class Small(StandIn):
    free: int = 1 << 29
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def profile(self) -> Profile:
        return replace(super().profile, memory_free_bytes=self.free, labels=self.labels)


def check_every_move(world: World, job: str, before: dict[str, str]) -> dict[str, str]:
    """Tasks that have moved since went to nodes without a refusal; what the node itself has changed since does not count."""
    assert world.core is not None
    core = world.core
    now = core.book[job].job
    busy = occupied(core.book.jobs, core.rules, but=job)
    after = {seat.task: seat.successor or seat.node for seat in now.seats}
    for seat in now.seats:
        if seat.movable and after[seat.task] != before.get(seat.task):
            found = [reason.kind for reason in refusals(core.registry.get(after[seat.task]), task_of(now, seat), now, busy)]
            assert not {"constraint", "memory", "busy", "refused"} & set(found), (seat.task, after[seat.task], found)
    return after


@pytest.mark.parametrize("method", ["fedavg", "fog"], ids=["with prices", "without"])
def test_a_cloud_node_without_room_is_passed_over(method: str):
    things = [StandIn(f"pi-{i}", "thing") for i in (1, 2)]
    world = World(Small("cloud-1", "cloud", "cloud", free=300_000_000), Small("fog-1", "fog", "hall", free=1 << 30), *things)
    world.run(1.0)
    world.submit(method={"name": method}, resources={"memory_mb": 400}, nodes={"select": {"tier": ["thing"]}})
    world.run(3.0)
    assert world.live()["server"] == "fog-1"


@pytest.mark.parametrize("seed", few(range(20), 2))
@pytest.mark.parametrize("method", ["fedavg", "fog"])
def test_admission_drain_and_recovery_never_pick_a_node_with_a_refusal(seed: int, method: str):
    dice = random.Random(seed)
    nodes: list[StandIn] = [StandIn("cloud-1", "cloud", "cloud")]
    for number in range(8):
        tier = dice.choice(["edge", "fog", "cloud"])
        problems = {"digits": ("torch is missing",)} if dice.random() < 0.2 else {}
        labels = {"gpu": "yes"} if dice.random() < 0.5 else {}
        nodes.append(
            Small(f"{tier}-{number}x", tier, dice.choice(["hall-1", "hall-2"]), problems, free=dice.choice([1 << 28, 1 << 30]), labels=labels)
        )
    things = [StandIn(f"pi-{i}", "thing", f"hall-{i % 2 + 1}") for i in range(4)]
    world = World(*nodes, *things)
    world.run(1.0)
    where = dice.choice([{}, {"placement": {"labels": {"gpu": "yes"}}}, {"placement": {"tier": ["fog", "cloud"]}}])
    world.submit(method={"name": method}, nodes={"select": {"tier": ["thing"]}}, resources={"memory_mb": 400}, **where)
    before = check_every_move(world, "digits", {})
    for _ in range(25):
        name = dice.choice(nodes).name
        match dice.randrange(4):
            case 0:
                world.body("node.drain", node=name, undo=dice.random() < 0.5)
            case 1 if world.nodes[name].up:
                world.kill(name)
            case 2 if not world.nodes[name].up:
                world.boot(name)
            case _:
                world.train(until=100)
        for _ in range(dice.randrange(1, 60)):
            world.step(0.25)
            before = check_every_move(world, "digits", before)


def refused() -> World:
    """cloud-2 has refused to take the server over; one of two others has it now."""
    problems = {"digits": ("data set digits not found",)}
    clouds = [StandIn("cloud-1", "cloud", "home"), StandIn("cloud-2", "cloud", "home", problems=problems)]
    world = World(*clouds, *(StandIn(f"pi-{i}") for i in (1, 2)))
    world.run(1.0)
    world.submit()
    world.run(3.0)
    world.train()
    world.kill("cloud-1")
    world.run(30.0)
    assert world.live()["server"] in ("pi-1", "pi-2")
    assert world.core is not None
    assert world.core.book["digits"].job.refusers["cloud-2"].text == "data set digits not found"
    return world


def drain(world: World) -> None:
    """The server's node drains, the other one does not any more."""
    here = world.live()["server"]
    for name in ("pi-1", "pi-2"):
        world.body("node.drain", node=name, undo=name != here)
    world.run(40.0)


def announce(world: World) -> None:
    world.kill("cloud-2", 0.0)
    world.run(1.0)
    world.boot("cloud-2")
    world.run(1.0)


@pytest.mark.parametrize("how", ["announced", "profile"])
def test_a_node_that_was_mended_is_asked_again(how: str):
    world = refused()
    node = world.nodes["cloud-2"]
    node.problems = {}
    if how == "announced":
        announce(world)
    else:
        world.deliver("", Announce("cloud-2", node.nonce, replace(node.profile, datasets=("digits",))))
    drain(world)
    assert world.live()["server"] == "cloud-2"
    assert world.core is not None
    assert world.core.book["digits"].job.refusers == {}


def test_a_node_that_still_refuses_is_asked_once_per_connection():
    world = refused()
    node = world.nodes["cloud-2"]
    for _ in range(2):
        before = node.incarnations["digits"]
        drain(world)
        assert world.live()["server"].startswith("pi-")
        assert node.incarnations["digits"] == before, "it is not asked for nothing"
        announce(world)
        drain(world)
        assert world.live()["server"].startswith("pi-")
        assert node.incarnations["digits"] > before, "it is asked once"


def test_the_same_problem_of_many_nodes_is_said_once():
    names = [f"pi-{i:02}" for i in range(1, 13)]
    world = World(StandIn("cloud-1", "cloud", "cloud"), *(StandIn(name, problems={"digits": ("torch is missing",)}) for name in names))
    world.run(1.0)
    world.submit()
    world.run(3.0)
    assert world.status()["problems"] == ["pi-01, pi-02 and 10 more: torch is missing"]
