"""The coordinator's core: from submit to training, in virtual time."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fog_common.facts import NodeLink
from fog_common.wire.messages import Announce, Heartbeat, WorkerState
from fog_coordinator.state.rules import Rules
from support.running_jobs import fleet, running
from support.stand_ins import StandIn, World


def test_a_job_is_placed_prepared_and_begins():
    world = fleet()
    world.submit()
    assert world.status()["state"] == "preparing"
    assert "worker" in world.status()["line"]
    world.run(2.0)
    status = world.status()
    assert status["state"] == "running"
    assert world.live() == {"server": "cloud-1", "trainer-0": "pi-1", "trainer-1": "pi-2", "trainer-2": "pi-3"}
    assert status["view"] == 2  # one for the placement, one for the start: changes share a view


def test_peers_carry_the_links_that_were_measured_when_they_went_live():
    world = fleet(edges=1)
    core, node = world.core, world.nodes["pi-1"]
    assert core is not None
    core.on_announce(world.now, Announce("pi-1", node.nonce, replace(node.profile, bandwidth_bytes_s=2e6, rtt_s=0.03, byte_j=2e-6)))
    world.submit()
    world.run(2.0)

    def told() -> dict[str, NodeLink]:
        return {peer.task: peer.link for peer in world.told[-1][1].tasks}

    assert told() == {"server": NodeLink(), "trainer-0": NodeLink(rtt_s=0.03, bandwidth_bytes_s=2e6, byte_j=2e-6)}
    view = world.status()["view"]
    core.on_announce(world.now, Announce("pi-1", node.nonce, replace(node.profile, bandwidth_bytes_s=3e6, rtt_s=0.01, byte_j=2e-6)))
    world.run(2.0)
    assert world.status()["view"] == view  # a new figure is no new placement


def test_no_task_is_live_before_every_preflight_has_passed():
    world = fleet()
    world.submit()
    world.run(2.0)
    first_live = next(placement for _, placement in world.told if any(peer.live for peer in placement.tasks))
    assert all(peer.live for peer in first_live.tasks)


def test_one_node_is_enough():
    world = World(StandIn("pi-1"))
    world.run(1.0)
    world.submit()
    world.run(2.0)
    assert world.live() == {"server": "pi-1", "trainer-0": "pi-1"}


def test_problems_of_all_nodes_are_named_and_fail_the_job():
    world = fleet()
    world.nodes["pi-1"].problems["digits"] = ("data set 'digits' not found",)
    world.nodes["pi-3"].problems["digits"] = ("torch is missing",)
    world.submit()
    world.run(2.0)
    status = world.status()
    assert status["state"] == "failed"
    assert status["problems"] == ["pi-1: data set 'digits' not found", "pi-3: torch is missing"]
    assert status["refused"]
    assert all(not node.jobs for node in world.nodes.values())  # nothing is left behind


def test_an_offline_node_of_the_roster_is_waited_for_visibly():
    world = fleet()
    world.submit(nodes={"select": {"names": ["pi-1", "pi-9"]}})
    world.run(3.0)
    assert world.status()["line"] == "waiting for pi-9: never seen for 3 s"
    world.nodes["pi-9"] = StandIn("pi-9")
    world.boot("pi-9")
    world.run(2.0)
    assert world.status()["state"] == "running"


def test_with_a_quorum_a_job_begins_without_an_absent_node_and_names_it():
    world = fleet()
    world.submit(nodes={"select": {"names": ["pi-1", "pi-2", "pi-3", "pi-9"]}}, stragglers={"quorum": 0.75})
    world.run(3.0)
    status = world.status()
    assert status["state"] == "running"
    assert world.live() == {"server": "cloud-1", "trainer-0": "pi-1", "trainer-1": "pi-2", "trainer-2": "pi-3"}
    assert "trainer-3 waits for pi-9: never seen" in status["line"]
    texts = [event["text"] for event in world.body("job.logs", job="digits")["events"]]
    assert "preflight passed on 4 of 5 nodes, without pi-9: training begins" in texts
    world.nodes["pi-9"] = StandIn("pi-9")
    world.boot("pi-9")
    world.run(2.0)
    assert world.live()["trainer-3"] == "pi-9"


@pytest.mark.parametrize(("quorum", "names"), [(1.0, ["pi-1", "pi-2", "pi-9"]), (0.9, ["pi-1", "pi-8", "pi-9"])])
def test_a_job_waits_while_the_quorum_of_its_nodes_has_not_passed(quorum: float, names: list[str]):
    world = fleet()
    world.submit(nodes={"select": {"names": names}}, stragglers={"quorum": quorum})
    world.run(30.0)
    assert world.status()["state"] == "preparing"
    assert "waiting for" in world.status()["line"]


def test_a_quorum_does_not_overlook_what_a_node_found_to_be_wrong():
    world = fleet()
    world.nodes["pi-3"].problems["digits"] = ("data set 'digits' not found",)
    world.submit(stragglers={"quorum": 0.5})
    world.run(3.0)
    assert world.status()["state"] == "failed"


def test_a_quorum_does_not_begin_without_the_node_of_the_server():
    world = World(StandIn("pi-1"), StandIn("pi-2"))
    world.run(1.0)
    world.submit(stragglers={"quorum": 0.5})
    server = next(task["node"] for task in world.status()["tasks"] if task["task"] == "server")
    world.kill(server, 0.0)
    world.run(2.0)
    assert world.status()["state"] == "preparing"


def test_count_waits_until_so_many_nodes_are_there():
    world = fleet(edges=1)
    world.submit(nodes={"count": 2})
    assert world.status()["state"] == "waiting_nodes"
    assert world.status()["line"] == "waiting for nodes: 1 of 2 nodes that are of tier thing or edge"
    world.nodes["pi-2"] = StandIn("pi-2")
    world.boot("pi-2")
    world.run(2.0)
    assert world.status()["state"] == "running"
    assert len(world.live()) == 3


def test_a_worker_that_never_gets_ready_fails_its_job():
    world = fleet(edges=1)
    world.submit()
    core = world.core
    assert core is not None
    node = world.nodes["pi-1"]
    for incarnation in range(1, 6):
        worker = WorkerState("digits", incarnation, "exited", problems=("exit code 1: no space left",))
        core.on_heartbeat(world.now, Heartbeat("pi-1", node.nonce, 1, (worker,), uptime_s=10.0 + incarnation))
    world.perform()
    assert world.status()["why"] == "pi-1: its worker ended 5 times: exit code 1: no space left"
    assert not world.status()["refused"]


def test_jobs_that_compete_for_nodes_wait_in_order():
    world = running()
    second = world.submit(name="second")
    third = world.submit(name="third")
    assert world.status(second)["line"] == "queued: pi-1, pi-2, pi-3, cloud-1 busy with digits"
    world.ask("job.cancel", job="digits")
    world.run(3.0)
    assert [world.status(job)["state"] for job in (second, third)] == ["running", "queued"]


def test_more_jobs_per_node_share_it():
    world = running(rules=Rules(jobs_per_node=2))
    world.submit(name="second")
    world.run(2.0)
    assert world.status("second")["state"] == "running"
