"""Methods with several free tasks, and with no data tasks at all: placed, drained, killed, recovered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from fog_coordinator.placement.free import free_tasks, worker_bytes
from fog_learning.costs.demands import WORKER_BYTES
from fog_learning.job.reading import job_from
from fog_learning.job.sections import JobFile
from fog_learning.methods import METHODS
from fog_learning.methods.base import Method, Role
from support.stand_ins import StandIn, World

MACHINE = METHODS["fedavg"].roles[0].machine


def method(*roles: Role, root: str = "server") -> Method:
    return replace(METHODS["fedavg"], roles=roles, root=root)


SERVER = Role("server", MACHINE, "free", stateful=True)
SOURCE = Role("source", MACHINE, "slot")
JUNCTION = Role("junction", MACHINE, "free", count=2)
TOY = method(SOURCE, JUNCTION, SERVER)


def world_of(toy: Method, *nodes: StandIn) -> World:
    def check(spec: Mapping[str, Any]) -> tuple[JobFile, Method]:
        return job_from(spec), toy

    world = World(*nodes, check=check)
    world.run(1.0)
    return world


def running(toy: Method = TOY, *more: StandIn, **job: Any) -> World:
    clouds = [StandIn(f"cloud-{i}", "cloud", "cloud") for i in (1, 2, 3)]
    world = world_of(toy, *clouds, *(StandIn(f"pi-{i}") for i in (1, 2)), *more)
    world.submit(method={"name": "gossip"}, **job)
    world.run(3.0)
    assert world.status()["state"] == "running", world.status()["line"]
    return world


def test_task_ids_are_the_roles_name_or_numbered_where_there_are_several():
    file = job_from({"name": "x", "method": {"name": "gossip"}, "model": {"name": "mlp"}})
    by_job = replace(JUNCTION, name="part", count=lambda job, plan: job.train.rounds)
    found = free_tasks(file, method(SOURCE, SERVER, JUNCTION, by_job))
    assert [(task.task, task.index) for task in found[:3]] == [("server", 0), ("junction-0", 0), ("junction-1", 1)]
    assert len(found) == 3 + file.train.rounds


def test_every_free_task_is_placed_and_the_best_nodes_share_them():
    world = running()
    live = world.live()
    assert live.keys() == {"junction-0", "junction-1", "server", "source-0", "source-1"}
    assert sorted(live[task] for task in ("junction-0", "junction-1", "server")) == ["cloud-1", "cloud-2", "cloud-3"]
    tasks = {task["task"]: task for task in world.status()["tasks"]}
    assert tasks["junction-1"]["parent"] == "server" and tasks["server"]["parent"] == ""


def test_two_free_tasks_share_the_only_node_and_its_worker():
    world = world_of(TOY, StandIn("pi-1"))
    world.submit(method={"name": "gossip"})
    world.run(3.0)
    assert set(world.live().values()) == {"pi-1"} and len(world.live()) == 4
    assert len(world.nodes["pi-1"].started) == 1


def test_a_drained_node_hands_over_all_of_its_free_tasks():
    world = running()
    there = [task for task, node in world.live().items() if node == "cloud-2"]
    world.body("node.drain", node="cloud-2")
    world.run(5.0)
    live = world.live()
    assert there and all(live[task] not in ("cloud-2", "") for task in there) and len(live) == 5


@pytest.mark.parametrize("task", ["server", "junction-0", "junction-1"])
def test_a_free_task_whose_node_is_gone_recovers_and_the_others_stay(task: str):
    world = running()
    world.train()
    world.run(1.0)
    before = world.live()
    world.kill(before[task])
    world.run(world.rules.orphan_after_s + world.rules.silent_s + 5.0)
    after = world.live()
    assert after[task] != before[task]
    assert {name: node for name, node in after.items() if name != task} == {name: node for name, node in before.items() if name != task}


def test_a_job_without_data_tasks_is_placed_on_free_nodes_alone():
    world = running(method(replace(SERVER, count=1), JUNCTION))
    assert world.live().keys() == {"server", "junction-0", "junction-1"}
    texts = [event["text"] for event in world.body("job.logs", job="digits")["events"]]
    assert any(text.startswith("preparing:") and "data on" not in text for text in texts)


def test_several_free_tasks_obey_the_placement_section():
    fogs = [StandIn(f"fog-{i}", "fog", "hall") for i in (1, 2)]
    world = running(TOY, *fogs, placement={"tier": ["fog"]})
    assert {world.live()[task] for task in ("server", "junction-0", "junction-1")} == {"fog-1", "fog-2"}
    world.body("node.drain", node="fog-1")
    world.run(5.0)
    assert {world.live()[task] for task in ("server", "junction-0", "junction-1")} == {"fog-2"}
    world.body("node.drain", node="fog-2")
    world.run(5.0)
    assert "no other node can take it" in world.status()["line"]
    assert "cloud-1, cloud-2 and 3 more: not of tier fog (placement)" in world.status()["line"]


def test_tasks_of_one_node_add_up_their_memory():
    assert worker_bytes([]) == 0
    assert worker_bytes([WORKER_BYTES + 5]) == WORKER_BYTES + 5
    assert worker_bytes([WORKER_BYTES + 5, WORKER_BYTES + 7, WORKER_BYTES]) == WORKER_BYTES + 12
    need = 400  # of 536 MB that are free: two tasks together need 550
    world = world_of(TOY, *(StandIn(f"cloud-{i}", "cloud", "cloud") for i in (1, 2)), StandIn("pi-1"))
    world.submit(method={"name": "gossip"}, resources={"memory_mb": need}, nodes={"select": {"names": ["pi-1"]}})
    world.run(3.0)
    assert world.status()["line"] == "queued: server needs 550 MB, largest free is 537 MB on pi-1"
    world.nodes["cloud-3"] = StandIn("cloud-3", "cloud", "cloud")
    world.boot("cloud-3")
    world.run(3.0)
    assert world.status()["state"] == "running"
    assert sorted(world.live()[task] for task in ("server", "junction-0", "junction-1")) == ["cloud-1", "cloud-2", "cloud-3"]


def test_each_role_has_constraints_of_its_own():
    fogs = [StandIn(f"fog-{i}", "fog", "hall") for i in (1, 2)]
    world = running(TOY, *fogs, placement={"tier": ["fog"], "roles": {"server": {"names": ["cloud-2"]}}})
    assert world.live()["server"] == "cloud-2"
    assert {world.live()[task] for task in ("junction-0", "junction-1")} == {"fog-1", "fog-2"}
    world.kill("cloud-2")
    world.run(world.rules.orphan_after_s + world.rules.silent_s + 5.0)
    assert "server" not in world.live(), "no other node is admitted"
