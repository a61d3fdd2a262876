"""Every wait is visible in `job status`, and says since when, and until when where something bounds it."""

from __future__ import annotations

from typing import Any

import pytest

from fog_common.runtime.machine import Waiting
from fog_common.wire.api.verbs import ReadJob
from fog_common.wire.messages import Heartbeat, TaskState, WorkerState
from fog_coordinator.state.rules import Rules
from fog_sim.campaign import chaos
from fog_sim.costs import standin_backend
from fog_sim.faults import Fault, Schedule
from fog_sim.world import Simulation
from fogctl.show.watch import details
from support.stand_ins import StandIn, World


def running(*more: StandIn, **options: Any) -> World:
    world = World(StandIn("cloud-1", "cloud", "cloud"), StandIn("pi-1"), StandIn("pi-2"), *more, **options)
    world.run(1.0)
    world.submit()
    world.run(9.0)
    assert world.status()["state"] == "running"
    return world


def wait(status: dict[str, Any], words: str) -> dict[str, Any]:
    found = [wait for wait in status["waits"] if words in wait["what"]]
    assert len(found) == 1, (words, status["waits"])
    assert 0 < found[0]["since"] <= status["now"]
    return found[0]


def report(world: World, name: str, worker: WorkerState) -> None:
    node = world.nodes[name]
    world.deliver("", Heartbeat(name, node.nonce, 99, (worker,), uptime_s=world.now + 1.0))
    assert world.core is not None
    world.core.on_timer(world.now + 0.2)


def test_a_full_disk_is_a_wait_of_its_node_with_the_next_try():
    world = running()
    view = world.status()["view"]
    report(world, "pi-1", WorkerState("digits", 1, "ready", view, ("cannot save: No space left on device",), waited_s=5.0, retry_s=1.5))
    status = world.status()
    found = wait(status, "pi-1: cannot save: No space left on device, tries again in")
    assert found["who"] == ["pi-1"]
    assert round(found["since_s"], 3) == 5.0
    assert round(found["until_s"], 3) == 1.5
    assert status["problems"] == [], "said once"


def test_a_full_disk_in_virtual_time():
    world = Simulation(2, chaos.SLOW, standin_backend, seed=1)
    name = world.submit(chaos.JOB)
    world.inject(Schedule([Fault(3.0, "disk_full", "cloud-1", 9.0)]))
    world.kernel.run(world.kernel.now + 9.0)
    found = wait(world.status(name), "cloud-1: cannot save")
    assert found["since_s"] > 2.0
    assert found["until_s"] is not None
    assert found["until_s"] <= 2.0
    assert world.run(name, 100.0)["state"] == "finished"
    assert not world.status(name)["waits"]


def test_a_task_that_is_not_the_root_says_what_it_waits_for_but_not_in_the_one_line():
    world = running()
    status = world.status()
    task = next(task for task in status["tasks"] if task["task"] == "trainer-0")
    waiting = TaskState("trainer-0", task["since"], waiting=Waiting("round", since=1.0), now=4.0)
    report(world, "pi-1", WorkerState("digits", 1, "ready", status["view"], tasks=(waiting,)))
    status = world.status()
    found = wait(status, "trainer-0 on pi-1 waits for round")
    assert round(found["since_s"]) == 3
    assert "trainer-0" not in status["line"]
    assert any("trainer-0 on pi-1 waits for round for 3 s" in line for line in details(world.look(ReadJob("digits"))))


def test_a_drain_says_since_when():
    world = running()
    world.run(5.0)
    world.body("node.drain", node="pi-2")
    world.run(3.0)
    found = wait(world.status(), "trainer-1 waits for pi-2: draining")
    assert round(found["since_s"]) == 3


def test_a_worker_that_starts_again_says_when():
    world = running(rules=Rules(return_s=0.0))
    report(world, "pi-1", WorkerState("digits", 1, "exited", problems=("exit code 1",), waited_s=2.0, retry_s=6.0))
    found = wait(world.status(), "trainer-0 waits for pi-1: worker exited: exit code 1, starts again in")
    assert (round(found["since_s"]), round(found["until_s"])) == (2, 6)


def test_a_task_that_waits_for_its_state_says_from_whom():
    world = running(StandIn("cloud-2", "cloud", "cloud"))
    assert world.core is not None
    seat = world.core.book["digits"].job.seat("server")
    assert seat is not None
    seat.fetch, seat.fetched, seat.live_at = "pi-1", False, world.now
    view = world.status()["view"]
    report(world, "cloud-1", WorkerState("digits", 1, "ready", view))
    world.run(0.0)
    assert wait(world.status(), "server is restored on cloud-1 from pi-1")["who"] == ["pi-1"]


def test_what_was_not_heard_of_since_the_coordinators_start_is_a_wait_that_ends():
    world = running()
    world.kill_core()
    world.run(1.0)
    world.start_core()
    assert world.core is not None
    world.core.on_timer(world.now + 0.01)
    found = wait(world.status(), "server is taken to run on cloud-1, which was not heard of yet")
    assert found["until_s"] is not None
    assert found["until_s"] <= world.rules.silent_s
    assert "computing" not in world.status()["line"]


@pytest.mark.parametrize("gone_s", [5.0, 30.0])
def test_a_server_without_a_copy_says_when_it_begins_anew(gone_s: float):
    world = running()
    world.kill("cloud-1", 0.0)
    world.run(gone_s)
    found = wait(world.status(), "server waits for cloud-1: offline")
    assert round(found["since_s"]) == round(gone_s)
    assert found["until_s"] is not None
    assert round(found["until_s"]) == round(world.rules.orphan_after_s - gone_s)


def test_a_job_that_waits_for_its_workers_to_end_has_its_own_limit():
    from fog_coordinator.accounts.reports import Ending

    ending = Ending(2.0)
    ending.add(1.0, "first", {"pi-1"})
    ending.add(5.0, "second", {"pi-1"})
    assert (ending.until("first"), ending.until("second"), ending.until("third")) == (3.0, 7.0, None)
