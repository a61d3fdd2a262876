"""The coordinator's core: nodes that come, go, drain and join a running job."""

from __future__ import annotations

import pytest

from fog_common.wire.messages import Announce, Heartbeat, Identify, Presence, WorkerState
from fog_coordinator.state.effects import Tell
from fog_coordinator.state.rules import Rules
from support.running_jobs import fleet, running
from support.stand_ins import StandIn, World


def test_a_lost_data_node_leaves_and_joins_again_as_a_new_instance():
    world = running()
    before = world.status()
    world.kill("pi-2")
    world.run(world.rules.return_s + 2.0)
    assert "trainer-1" not in world.live()
    assert "trainer-1 waits for pi-2: offline" in world.status()["line"]
    world.boot("pi-2")
    world.run(2.0)
    task = next(task for task in world.status()["tasks"] if task["task"] == "trainer-1")
    assert task["live"]
    assert task["incarnation"] > 1
    assert task["since"] > before["view"]


def test_an_agent_that_only_reconnects_changes_nothing():
    world = running()
    view = world.status()["view"]
    node = world.nodes["pi-2"]
    for message in (Presence("pi-2", node.nonce, True), Announce("pi-2", node.nonce, node.profile), node.heartbeat(world.now)):
        world.fly("", message)
    world.run(2.0)
    assert world.status()["view"] == view


def test_a_node_with_data_that_is_gone_is_waited_for_and_the_wait_is_shown():
    world = running()
    view = world.status()["view"]
    world.kill("pi-2", 0.0)
    world.run(3.0)
    status = world.status()
    assert (status["view"], world.live()["trainer-1"]) == (view, "pi-2")
    wait = next(wait for wait in status["waits"] if wait["who"] == ["pi-2"])
    assert wait["what"] == "pi-2 is gone, its connection ended; the round goes on without trainer-1 in"
    assert (round(wait["since_s"]), round(wait["until_s"])) == (3, 7)
    world.run(9.0)
    assert "trainer-1" not in world.live()
    assert world.status()["view"] == view + 1


def test_a_worker_that_ended_is_waited_for_and_its_next_life_joins_at_once():
    world = running()
    view = world.status()["view"]
    node = world.nodes["pi-2"]
    assert world.core is not None
    exited = WorkerState("digits", 1, "exited", problems=("killed by signal 9",), waited_s=0.5, retry_s=1.5)
    world.deliver("", Heartbeat("pi-2", node.nonce, 99, (exited,), uptime_s=world.now + 1.0))
    world.step()
    world.core.on_timer(world.now + 0.2)
    status = world.status()
    assert (status["view"], "trainer-1" in world.live()) == (view, True)
    wait = next(wait for wait in status["waits"] if wait["who"] == ["pi-2"])
    assert wait["what"] == "trainer-1 waits for pi-2: worker exited: killed by signal 9; the round goes on without it in"
    world.deliver("", Heartbeat("pi-2", node.nonce, 99, (WorkerState("digits", 2, "ready", view=view),), uptime_s=world.now + 2.0))
    world.core.on_timer(world.now + 0.4)
    placement = world.core.placement(world.core.book["digits"].job)
    assert placement.view == view + 1
    assert next(peer.incarnation for peer in placement.tasks if peer.task == "trainer-1") == 2


def test_a_node_with_data_that_drains_leaves_at_once():
    world = running()
    world.body("node.drain", node="pi-2")
    world.run(0.5)
    assert "trainer-1" not in world.live()


@pytest.mark.parametrize("sigterm", [False, True])
def test_a_node_with_data_that_drains_finishes_its_round_first(sigterm: bool):
    world = running()
    world.nodes["pi-2"].busy = True
    world.run(6.0)
    if sigterm:
        world.fly("", world.nodes["pi-2"].goodbye())
    else:
        world.body("node.drain", node="pi-2")
    world.run(6.0)
    assert "trainer-1" in world.live() and not world.nodes["pi-2"].released
    shown = next(wait for wait in world.status()["waits"] if "trainer-1 finishes its round on pi-2" in wait["what"])
    assert shown["since_s"] == pytest.approx(6.0, abs=0.1) and shown["until_s"] == pytest.approx(world.rules.finish_s - 6.0, abs=0.1)
    assert world.body("node.show", node="pi-2")["note"] == "draining: trainer-1 of digits to finish the round"
    world.nodes["pi-2"].busy = False  # trained, and delivered
    world.run(5.6)
    assert "trainer-1" not in world.live() and world.nodes["pi-2"].released


@pytest.mark.parametrize("others", [("cloud-3",), ()])
@pytest.mark.parametrize("killed", [False, True])
def test_a_successor_that_refuses_is_passed_over(killed: bool, others: tuple[str, ...]):
    clouds = [
        StandIn("cloud-1", "cloud", "cloud"),
        StandIn("cloud-2", "cloud", "cloud", problems={"digits": ("data set digits not found",)}),
        *(StandIn(name, "cloud", "cloud") for name in others),
    ]
    world = World(*clouds, StandIn("pi-1"), StandIn("pi-2"), StandIn("pi-3"))
    world.run(1.0)
    world.submit()
    world.run(3.0)
    world.train(until=2)
    assert world.live()["server"] == "cloud-1"
    if killed:
        world.kill("cloud-1")
    else:
        world.body("node.drain", node="cloud-1")
    world.run(60.0)
    taken = world.live().get("server", "")
    assert taken == "cloud-3" if others else taken.startswith("pi-")


def test_a_node_that_drains_does_not_stay_for_ever():
    world = running()
    world.nodes["pi-2"].busy = True
    world.body("node.drain", node="pi-2")
    world.run(world.rules.finish_s - 0.5)
    assert "trainer-1" in world.live()
    world.run(2.0)
    assert "trainer-1" not in world.live() and world.nodes["pi-2"].released


def test_a_node_that_was_silent_has_had_its_time():
    world = running()
    world.nodes["pi-2"].up = False
    world.run(world.rules.silent_s + 2.0)
    assert "trainer-1" not in world.live()


def test_a_short_loss_of_the_connection_keeps_the_instance():
    world = running(rules=Rules(return_s=0.0))
    node = world.nodes["pi-2"]
    world.deliver("", Presence("pi-2", node.nonce, False))
    world.run(0.25)
    assert "trainer-1" not in world.live()
    for message in (Presence("pi-2", node.nonce, True), Announce("pi-2", node.nonce, node.profile), node.heartbeat(world.now)):
        world.fly("", message)
    world.run(1.0)
    task = next(task for task in world.status()["tasks"] if task["task"] == "trainer-1")
    assert (task["live"], task["since"], task["incarnation"]) == (True, 2, 1)


def test_a_stale_will_is_ignored():
    world = running()
    world.deliver("", Presence("pi-2", "of-an-older-connection", False))
    world.run(1.0)
    assert "trainer-1" in world.live()


def test_silence_means_offline_but_not_while_the_coordinator_itself_is_cut_off():
    world = running()
    world.nodes["pi-2"].up = False  # frozen: no will, no word
    assert world.core is not None
    world.core.on_disconnected(world.now)
    world.run(30.0)
    for name in ("cloud-1", "pi-1", "pi-3"):
        world.nodes[name].up = True
    assert "trainer-1" in world.live()
    world.core.on_connected(world.now)
    world.run(15.0)
    assert "trainer-1" in world.live()
    world.run(10.0)
    assert "trainer-1" not in world.live()
    assert "nothing heard for 20 s" in world.status()["line"]


def test_an_unknown_node_is_asked_who_it_is():
    world = fleet()
    assert world.core is not None
    world.core.on_heartbeat(world.now, Heartbeat("stranger", "n"))
    told = [effect for effect in world.core.take() if isinstance(effect, Tell)]
    assert {effect.node for effect in told} == {"stranger"}
    assert all(isinstance(effect.message, Identify) for effect in told)
    world.core.on_heartbeat(world.now, Heartbeat("stranger", "n"))
    assert world.core.take() == []  # not again at once


def test_an_overtaken_heartbeat_is_ignored():
    world = running()
    node = world.nodes["pi-1"]
    old = Heartbeat("pi-1", node.nonce, 0, (), uptime_s=0.5)
    view = world.status()["view"]
    world.deliver("", old)
    world.run(1.0)
    assert world.status()["view"] == view


def test_desired_is_repeated_until_it_is_applied_but_not_in_a_hurry():
    world = running()
    assert world.core is not None
    node = world.nodes["pi-1"]
    world.effects.clear()
    for n in range(10):  # the node did not hear its Desired
        world.core.on_heartbeat(world.now + n * 0.01, Heartbeat("pi-1", node.nonce, 0, (), uptime_s=world.now + n * 0.01))
    world.perform()
    assert sum(isinstance(effect, Tell) and effect.node == "pi-1" for effect in world.effects) <= 1


def test_a_newcomer_takes_the_slot_of_a_node_that_never_came():
    world = fleet(rules=Rules(orphan_after_s=5.0))
    world.submit()
    world.kill("pi-3", 0.0)
    world.run(8.0)
    assert "pi-3: offline" in world.status()["line"]
    world.nodes["pi-4"] = StandIn("pi-4")
    world.boot("pi-4")
    world.run(2.0)
    assert world.live()["trainer-2"] == "pi-4"


def test_a_node_without_a_slot_watches_until_one_is_free_for_good():
    """The slot's node has trained; when it comes back, it is the one that watches."""
    world = running(rules=Rules(orphan_after_s=5.0, return_s=2.0))
    world.nodes["pi-4"] = StandIn("pi-4")
    world.boot("pi-4")
    world.run(1.0)
    assert world.status()["watching"] == ["pi-4"]
    view = world.status()["view"]
    world.kill("pi-2")
    world.run(4.0)
    assert "trainer-1" not in world.live()
    world.run(4.0)
    status = world.status()
    assert world.live()["trainer-1"] == "pi-4"
    assert status["watching"] == []
    assert status["view"] > view
    world.boot("pi-2")
    world.run(8.0)
    assert world.live() == {"server": "cloud-1", "trainer-0": "pi-1", "trainer-1": "pi-4", "trainer-2": "pi-3"}
    assert world.status()["watching"] == ["pi-2"]
    assert not world.nodes["pi-2"].jobs
    texts = [event["text"] for event in world.body("job.logs", job="digits")["events"]]
    assert "pi-4 is here, but no slot is free: it watches, and takes the next one" in texts
    assert "pi-4 takes slot 1 of pi-2, which is gone for good" in texts


def test_a_slot_of_data_that_nodes_own_goes_with_its_node():
    world = fleet(rules=Rules(orphan_after_s=5.0))
    world.submit(data={"name": "machines", "local": True}, nodes={"count": 3})
    world.run(2.0)
    world.nodes["pi-4"] = StandIn("pi-4")
    world.boot("pi-4")
    world.kill("pi-2")
    world.run(12.0)
    assert "trainer-1" not in world.live()
    assert world.status()["watching"] == ["pi-4"]


def test_a_node_that_the_job_does_not_name_takes_no_slot():
    world = fleet(rules=Rules(orphan_after_s=5.0))
    world.submit(nodes={"select": {"names": ["pi-1", "pi-2"]}})
    world.run(2.0)
    world.kill("pi-2")
    world.run(12.0)
    assert world.live() == {"server": "cloud-1", "trainer-0": "pi-1"}
    assert world.status()["watching"] == []


def test_a_node_that_is_wanted_by_a_job_in_the_queue_takes_no_slot_of_another():
    world = running(rules=Rules(orphan_after_s=5.0))
    waiting = world.submit(name="waiting", nodes={"select": {"names": ["pi-1", "pi-4"]}})
    assert world.status(waiting)["state"] == "queued"
    world.nodes["pi-4"] = StandIn("pi-4")
    world.boot("pi-4")
    world.kill("pi-2")
    world.run(12.0)
    assert "trainer-1" not in world.live()


def test_a_node_with_its_own_data_joins_a_running_job():
    world = fleet(edges=2)
    world.submit(data={"name": "machines", "local": True})
    world.run(2.0)
    world.nodes["pi-3"] = StandIn("pi-3")
    world.boot("pi-3")
    world.run(2.0)
    assert world.live()["trainer-2"] == "pi-3"
