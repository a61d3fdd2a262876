"""The coordinator's core: a server that moves to another node."""

from __future__ import annotations

from support.running_jobs import running, trained
from support.stand_ins import StandIn, World


def test_the_server_moves_to_the_copy_of_its_save():
    world = trained()
    buddy = world.status()["buddies"]["server"]
    world.kill("cloud-1")
    world.run(2.0)
    assert "it moves to another node" in world.status()["line"]
    world.run(8.0)
    assert world.live()["server"] == buddy
    world.train()
    world.run(1.0)
    assert [record["round"] for record in world.status()["history"]] == [1, 2, 3, 4]


def test_the_server_moves_to_a_second_cloud_node_and_fetches_its_save():
    world = trained(clouds=2)
    buddy = world.status()["buddies"]["server"]
    world.kill("cloud-1")
    world.run(8.0)
    assert world.live()["server"] == "cloud-2"
    placement = world.told[-1][1]
    assert placement.fetch == {"server": buddy}
    world.train()
    world.run(1.0)
    assert world.status()["round"] >= 4


def test_without_a_copy_the_server_waits_for_its_node():
    world = running(edges=1)
    world.nodes["cloud-1"].disk["digits"] = {"server": [1, 2]}  # the buddy never got a copy
    world.run(2.0)
    world.kill("cloud-1")
    world.run(120.0)
    assert "its only Save is there" in world.status()["line"]
    assert "server" not in world.live()
    world.boot("cloud-1")
    world.run(2.0)
    assert world.live()["server"] == "cloud-1"


def test_a_server_that_never_saved_begins_anew_elsewhere_after_a_while():
    world = running()
    world.kill("cloud-1")
    world.run(30.0)
    assert "server" not in world.live()
    world.run(40.0)
    assert world.live()["server"] == "pi-1"


def test_drain_moves_the_server_in_two_steps():
    world = trained(clouds=2)
    reply = world.body("node.drain", node="cloud-1")
    assert reply["moving"] == ["server of digits"]
    world.run(0.3)
    assert world.live()["server"] == "cloud-1"  # runs on while its successor is prepared
    assert "cloud-2 is prepared to take it" in world.status()["line"]
    world.run(1.5)
    assert world.live()["server"] == "cloud-2"
    assert world.told[-1][1].fetch == {"server": "cloud-1"}
    world.train()
    world.run(2.0)
    assert world.nodes["cloud-1"].released
    assert not world.nodes["cloud-1"].jobs
    assert world.body("node.show", node="cloud-1")["note"] == "drained: nothing of any job runs here"


def test_a_drained_server_stays_inside_its_site_when_possible():
    fogs = [StandIn("fog-1", "fog", "hall-1"), StandIn("fog-2", "fog", "hall-2"), StandIn("fog-3", "fog", "hall-1")]
    world = World(*fogs, StandIn("pi-1"), StandIn("pi-2"))
    world.run(1.0)
    world.submit()
    world.run(2.0)
    assert world.live()["server"] == "fog-1"
    world.train()
    world.run(0.5)
    world.body("node.drain", node="fog-1")
    world.run(3.0)
    assert world.live()["server"] == "fog-3"
    world.body("node.drain", node="fog-3")
    world.run(3.0)
    assert world.live()["server"] == "fog-2", "no node of its site is left"


def test_goodbye_moves_the_server_and_lets_the_agent_go():
    world = trained(clouds=2)
    world.fly("", world.nodes["cloud-1"].goodbye())
    world.run(3.0)
    assert world.live()["server"] == "cloud-2"
    world.run(1.0)
    assert not world.nodes["cloud-1"].up  # released, so it left
    world.boot("cloud-1")
    world.run(2.0)
    assert not world.body("node.show", node="cloud-1")["draining"]


def test_data_tasks_of_a_draining_node_wait_and_come_back():
    world = running()
    world.body("node.drain", node="pi-1")
    world.run(1.0)
    assert "trainer-0" not in world.live()
    assert world.nodes["pi-1"].released
    assert "trainer-0 waits for pi-1: draining" in world.status()["line"]
    world.body("node.drain", node="pi-1", undo=True)
    world.run(2.0)
    assert world.live()["trainer-0"] == "pi-1"


def test_a_drain_without_a_successor_says_so():
    world = trained(edges=1)
    world.body("node.drain", node="pi-1")
    world.body("node.drain", node="cloud-1")
    world.run(2.0)
    assert "no other node can take it" in world.status()["line"]
    assert not world.nodes["cloud-1"].released
