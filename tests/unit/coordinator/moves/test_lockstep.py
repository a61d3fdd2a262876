"""Methods whose tasks must all stand at the same label: who falls back takes the job along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from fog_coordinator.state.rules import NOTHING
from fog_learning.job.reading import job_from
from fog_learning.job.sections import JobFile
from fog_learning.methods import METHODS
from fog_learning.methods.base import Method, Role
from support.stand_ins import StandIn, World


def lockstep(spec: Mapping[str, Any]) -> tuple[JobFile, Method]:
    method = METHODS["fedavg"]
    roles = (
        Role("server", method.roles[0].machine, bound="free", stateful=True),
        Role("trainer", method.roles[1].machine, bound="slot", stateful=True),
    )
    return job_from(spec), replace(method, roles=roles, lockstep=True)


def stepping(labels: dict[str, dict[str, list[int]]]) -> World:
    """A running job whose nodes have these Saves: node -> task -> labels (copies included)."""
    world = World(StandIn("cloud-1", "cloud", "cloud"), StandIn("pi-1"), StandIn("pi-2"), check=lockstep)
    world.run(1.0)
    world.submit()
    world.run(2.0)
    assert len(world.live()) == 3
    for node, saves in labels.items():
        world.nodes[node].disk["digits"] = saves
    world.run(2.0)
    return world


EVEN = {
    "cloud-1": {"server": [3, 4]},
    "pi-1": {"trainer-0": [3, 4], "server": [3, 4]},
    "pi-2": {"trainer-1": [3, 4]},
}


def last(world: World):
    return world.told[-1][1]


def restart(world: World, name: str) -> None:
    world.nodes[name].restart_worker(world.now, "digits")
    world.fly("", world.nodes[name].heartbeat(world.now))
    world.run(2.0)


def test_the_first_start_is_no_fall_back():
    assert last(stepping(EVEN)).rewind is None


def test_a_restarted_task_takes_all_back_to_the_common_label():
    world = stepping({**EVEN, "pi-2": {"trainer-1": [2, 3]}})  # it had not yet saved 4
    restart(world, "pi-2")
    placement = last(world)
    assert (placement.rewind, placement.rewind_view) == (3, placement.view)
    assert "back to label 3, for trainer-1" in str(world.body("job.logs", job="digits")["events"])


def test_the_same_label_is_a_fall_back_too():
    world = stepping(EVEN)  # its peers may have done steps since then
    restart(world, "pi-2")
    assert last(world).rewind == 4


def test_a_moved_task_continues_at_the_label_of_its_copy():
    world = stepping({**EVEN, "pi-1": {"trainer-0": [3, 4], "server": [2, 3]}})
    assert world.status()["buddies"]["server"] == "pi-1"
    world.kill("cloud-1")
    world.run(10.0)
    assert world.live()["server"] == "pi-1"
    assert last(world).rewind == 3


def test_the_rewind_stays_in_later_tables_with_its_view():
    world = stepping(EVEN)
    restart(world, "pi-2")
    decided = last(world).view
    world.kill("pi-2")
    world.run(world.rules.return_s + 2.0)
    assert (last(world).rewind, last(world).rewind_view) == (4, decided)
    assert last(world).view > decided


def test_a_data_task_whose_saves_are_too_old_does_not_stop_the_others():
    world = stepping({**EVEN, "pi-2": {"trainer-1": [1]}})
    restart(world, "pi-2")
    assert last(world).rewind is None
    assert "trainer-1 must catch up" in str(world.body("job.logs", job="digits")["events"])


def test_without_any_save_all_begin_anew():
    world = stepping({})
    restart(world, "pi-2")
    assert last(world).rewind == NOTHING
    assert world.nodes["cloud-1"].jobs["digits"].history_seen == 0
