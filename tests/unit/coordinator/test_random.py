"""Whatever happens, in whatever order: what must always hold of the coordinator's tables."""

from __future__ import annotations

import random

import pytest

from fog_common.wire.api.states import ENDED
from fog_common.wire.messages import Presence
from fog_coordinator.core import Core
from fog_coordinator.state.rules import Rules
from support.stand_ins import StandIn, World

pytestmark = pytest.mark.thorough

RULES = Rules(heartbeat_s=1.0, grace_s=2.0, move_after_s=2.0, orphan_after_s=6.0)
SEEDS = range(60)


def act(world: World, dice: random.Random) -> None:
    """Something that happens in a fleet."""
    names = sorted(world.nodes)
    node = world.nodes[dice.choice(names)]
    match dice.randrange(12):
        case 0 | 1 if node.up:
            world.kill(node.name, dice.choice([0.0, 0.1, 3.0]))
        case 2 | 3 if not node.up:
            world.boot(node.name)
        case 4 if node.up and node.started:
            job = dice.choice(sorted(node.started))
            node.restart_worker(world.now, job)
            world.fly("", node.heartbeat(world.now))
        case 5 if node.up:
            world.fly("", Presence(node.name, dice.choice([node.nonce, "old"]), False))  # a will, rightly or wrongly
        case 6 if world.core is not None:
            world.cut_after = dice.randrange(4)  # dies somewhere among its next effects
        case 7 if world.core is None:
            world.start_core()
        case 8 if node.up:
            world.fly("", node.goodbye())
        case 9 if world.core is not None:
            world.ask("node.drain", node=node.name, undo=dice.random() < 0.6)
        case 10 if world.flying:
            world.flying.append((world.now + dice.uniform(0, 3), *dice.choice(world.flying)[1:]))  # twice, and late
        case 11 if world.flying:
            world.flying.remove(dice.choice(world.flying))
        case _:
            world.train()


def check_state(world: World) -> None:
    if world.core is not None and (broken := world.core.validate_state()):
        raise AssertionError("\n".join([*broken, *world.core.story("digits")]))


def check_tables(world: World) -> None:
    tables: dict[tuple[str, int], object] = {}
    instances: dict[tuple[str, str, int], tuple[str, int]] = {}
    newest: dict[str, int] = {}
    heard: dict[tuple[str, str], int] = {}
    for node, placement in world.told:
        key = (placement.job, placement.view)
        assert tables.setdefault(key, placement.tasks) == placement.tasks, f"two tables of view {key}"
        tasks = [peer.task for peer in placement.tasks]
        assert len(tasks) == len(set(tasks))
        assert sum(peer.task == placement.root for peer in placement.tasks) == 1
        for peer in placement.tasks:
            assert peer.since <= placement.view
            if peer.live:
                where = (peer.node, peer.incarnation)
                assert instances.setdefault((placement.job, peer.task, peer.since), where) == where, "one instance, two places"
        assert placement.view >= newest.get(placement.job, 0), "a view went back"
        newest[placement.job] = placement.view
        assert placement.view >= heard.get((node, placement.job), 0)
        heard[node, placement.job] = placement.view
        assert placement.rewind_view <= placement.view


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_of_events(seed: int):
    dice = random.Random(seed)
    nodes = [StandIn("cloud-1", "cloud", "cloud"), StandIn("cloud-2", "cloud", "cloud"), *(StandIn(f"pi-{n}") for n in (1, 2, 3))]
    world = World(*nodes[dice.randrange(2) :], rules=RULES, seed=seed)
    world.run(1.0)
    world.submit()
    for _ in range(60):
        if dice.random() < 0.6:
            act(world, dice)
        world.run(dice.choice([0.05, 0.2, 1.0, 4.0]))
        check_state(world)
        if world.core is not None and dice.random() < 0.3:
            status = world.status()
            ended = status["state"] in ENDED
            assert ended or status["waits"] or status["state"] == "running", status
            if not ended and set(world.live()) != {task["task"] for task in status["tasks"]}:
                assert status["waits"], "tasks do not run, and nobody says why"
    check_tables(world)
    # all is well again: the job ends
    world.cut_after = None
    if world.core is None:
        world.start_core()
    for name in sorted(world.nodes):
        world.ask("node.drain", node=name, undo=True)
        world.nodes[name].draining = False
        if not world.nodes[name].up:
            world.boot(name)
    for _ in range(60):
        world.run(1.0)
        world.train()
    check_tables(world)
    assert world.status()["state"] == "finished", world.status()["line"]


@pytest.mark.parametrize("seed", range(20))
def test_a_core_from_the_journal_behaves_like_the_original(seed: int):
    dice = random.Random(seed)
    world = World(StandIn("cloud-1", "cloud", "cloud"), *(StandIn(f"pi-{n}") for n in (1, 2, 3)), rules=RULES, seed=seed)
    world.run(1.0)
    world.submit()
    for _ in range(15):
        while dice.random() < 0.5:
            act(world, dice)
        world.cut_after = None
        if world.core is None:
            world.start_core()
        world.run(dice.choice([0.2, 1.0, 4.0]))
    assert world.core is not None
    copy = Core("copy", world.tables, RULES)
    copy.on_connected(world.now)
    assert copy.validate_state() == []
    assert copy.book.names == world.core.book.names
    for entry in world.core.book:
        job, known = entry.job, copy.book[entry.job.id]
        other = known.job
        assert copy.placement(other) == world.core.placement(job)
        for key in ("state", "roster", "view", "rewind", "rewind_view", "spec", "token", "started_at", "ended_at", "digest"):
            assert getattr(other, key) == getattr(job, key), key
        assert known.history.rounds == entry.history.rounds
        assert list(known.log.lines) == list(entry.log.lines)


def test_two_runs_with_one_seed_are_the_same():
    def run() -> list[object]:
        dice = random.Random(5)
        world = World(StandIn("cloud-1", "cloud", "cloud"), *(StandIn(f"pi-{n}") for n in range(4)), rules=RULES, seed=5)
        world.run(1.0)
        world.submit()
        for _ in range(40):
            act(world, dice)
            world.run(0.5)
        return list(world.effects)

    assert run() == run()
