"""The life of a job in the coordinator's core, by plain calls in virtual time."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fog_common.runtime.machine import RoundRecord, Waiting
from fog_common.wire.messages import Announce, Desired, Heartbeat, Identify, Planes, Presence, TaskState, WorkerState
from fog_coordinator.state.effects import Record, Tell
from fog_coordinator.state.rules import Rules
from support.stand_ins import SPEC, StandIn, World


def fleet(edges: int = 3, clouds: int = 1, **options) -> World:
    nodes = [StandIn(f"cloud-{n + 1}", "cloud", "cloud") for n in range(clouds)] + [StandIn(f"pi-{n + 1}") for n in range(edges)]
    world = World(*nodes, **options)
    world.run(1.0)
    return world


def running(edges: int = 3, clouds: int = 1, **options) -> World:
    world = fleet(edges, clouds, **options)
    world.submit()
    world.run(2.0)
    assert world.status()["state"] == "running"
    return world


# -- from submit to training ---------------------------------------------------------------


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

    def told() -> dict[str, tuple[float, float, float]]:
        return {peer.task: (peer.bytes_s, peer.rtt_s, peer.byte_j) for peer in world.told[-1][1].tasks}

    assert told() == {"server": (0.0, 0.0, 0.0), "trainer-0": (2e6, 0.03, 2e-6)}
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


# -- the table ------------------------------------------------------------------------------


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
    placement = world.core.placement(world.core.jobs["digits"])
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


# -- moving ---------------------------------------------------------------------------------


def trained(edges: int = 3, clouds: int = 1, rounds: int = 3, **options) -> World:
    world = running(edges, clouds, **options)
    for _ in range(rounds):
        world.train()
        world.run(0.3)
    world.run(1.0)
    assert world.status()["round"] >= min(rounds, 6)
    return world


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


# -- the end --------------------------------------------------------------------------------


def test_the_result_ends_the_job_and_its_workers():
    world = trained(rounds=8)
    world.run(1.0)
    status = world.status()
    assert status["state"] == "finished"
    assert status["metrics"]["accuracy"] == 0.9
    assert all(not node.jobs for node in world.nodes.values())
    body = world.body("job.result", job="digits")
    assert (body["digest"], body["rounds"]) == ("d" * 64, 6)
    assert [sent.digest for sent in world.results] == ["d" * 64]


def test_a_finished_job_waits_a_moment_for_the_last_figures_of_its_workers():
    world = trained(rounds=6)
    assert world.core is not None
    node = world.nodes["pi-1"]
    worker = WorkerState("digits", 1, "ready", 2, sent=Planes(up=5_000))
    world.core.on_result(world.now, "digits", {}, "d" * 64)
    world.core.on_heartbeat(world.now, Heartbeat("pi-1", node.nonce, node.desired, (worker,), uptime_s=world.now - node.born))
    assert world.status()["state"] == "running"
    assert world.status()["line"] == "the result is here; cloud-1, pi-1, pi-2, pi-3 finish"
    world.run(1.0)
    assert world.status()["state"] == "finished"
    assert world.status()["bytes"]["up"] >= 5_000
    assert all(not node.jobs for node in world.nodes.values())


def test_a_worker_that_says_nothing_more_does_not_keep_a_job_open():
    world = trained(rounds=6)
    assert world.core is not None
    world.nodes["pi-1"].up = False  # frozen
    world.core.on_result(world.now, "digits", {}, "")
    world.perform()
    world.run(1.0)
    assert world.status()["state"] == "running"
    world.run(1.5)
    assert world.status()["state"] == "finished"


def test_a_result_from_a_node_that_lost_the_server_is_refused():
    world = trained()
    assert world.core is not None
    assert world.core.expects("digits", "server", "cloud-1") is None
    assert world.core.expects("digits", "server", "pi-1") == "not_placed"
    assert world.core.expects("digits", "trainer-0", "pi-1") == "not_placed"
    assert world.core.expects("other", "server", "cloud-1") == "unknown_job"
    world.ask("job.cancel", job="digits")
    assert world.core.expects("digits", "server", "cloud-1") == ""


def test_a_task_that_failed_fails_the_job():
    world = running()
    assert world.core is not None
    node = world.nodes["cloud-1"]
    state = TaskState("server", since=2, finished=True, why="mean: shapes differ")
    worker = WorkerState("digits", 1, "ready", 2, tasks=(state,))
    world.deliver("", Heartbeat("cloud-1", node.nonce, node.desired, (worker,), uptime_s=99.0))
    assert world.status()["why"] == "server on cloud-1: mean: shapes differ"


# -- what a person sees ---------------------------------------------------------------------


def test_the_status_line_says_what_the_round_waits_for():
    world = running()
    node = world.nodes["cloud-1"]
    waiting = Waiting("updates", have=2, need=3, who=("trainer-2",), since=5.0, until=19.0)
    state = TaskState("server", since=2, round=7, waiting=waiting, now=7.0)
    worker = WorkerState("digits", 1, "ready", 2, tasks=(state,))
    world.deliver("", Heartbeat("cloud-1", node.nonce, node.desired, (worker,), uptime_s=99.0))
    status = world.status()
    assert status["line"] == "round 7: 2 of 3 updates, waiting for pi-3, closes in 12 s at the latest"
    assert status["waits"][0]["who"] == ["pi-3"]
    assert status["waits"][0]["since_s"] == pytest.approx(2.0)
    assert status["waits"][0]["until_s"] == pytest.approx(12.0)


def test_bytes_of_earlier_incarnations_stay_in_the_sum():
    world = running()
    for incarnation, up in ((1, 500), (1, 300), (4, 70)):  # the second one was overtaken
        node = world.nodes["pi-1"]
        worker = WorkerState("digits", incarnation, "ready", 2, sent=Planes(up=up, cast=2), ideal_bytes=up)
        world.deliver("", Heartbeat("pi-1", node.nonce, node.desired, (worker,), uptime_s=90.0 + world.now))
    assert world.status()["bytes"] == {"up": 570, "down": 0, "d2d": 0, "cast": 4, "ctl": 0, "total": 574, "ideal": 570}


def test_energy_counts_what_was_used_while_the_job_was_there():
    world = fleet()
    node = world.nodes["pi-1"]

    def reads(joules: float, at: float) -> None:
        beat = Heartbeat("pi-1", node.nonce, node.desired, node.heartbeat(world.now).workers, uptime_s=at, energy_j={"modelled": joules})
        world.deliver("", beat)

    reads(100.0, 50.0)
    world.submit()
    world.run(2.0)
    reads(130.0, 60.0)
    reads(5.0, 61.0)  # the agent began anew
    assert world.status()["energy_j"] == {"value": 35.0, "source": "modelled"}


def test_history_is_merged_by_round_and_confirmed():
    world = trained(rounds=6)
    history = world.status()["history"]
    assert [record["round"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert [record["accuracy"] for record in history] == [n / 100 for n in range(1, 7)]
    assert world.status()["history"] == world.body("job.status", job="digits", after=0)["history"]
    assert [record["round"] for record in world.body("job.status", job="digits", after=4)["history"]] == [5, 6]
    assert world.nodes["cloud-1"].jobs["digits"].history_seen >= 5  # the root need not tell it again


def test_logs_tell_the_story():
    world = running()
    world.kill("pi-2")
    world.run(world.rules.return_s + 2.0)
    texts = [event["text"] for event in world.body("job.logs", job="digits")["events"]]
    assert texts[0] == "submitted by operator: fedavg, 6 rounds"
    assert "view 3: trainer-1 left pi-2" in texts
    assert len(world.body("job.logs", job="digits", lines=1)["events"]) == 1


# -- requests -------------------------------------------------------------------------------


def test_submit_with_a_token_is_done_once():
    world = fleet()
    first = world.body("job.submit", spec=SPEC, token="t1")
    again = world.body("job.submit", spec=SPEC, token="t1")
    assert (first["repeated"], again["repeated"]) == (False, True)
    assert first["job"] == again["job"]
    other = world.ask("job.submit", spec={**SPEC, "name": "other"}, token="t1")
    assert other.exit_code == 2


def test_a_name_is_free_again_when_its_job_has_ended():
    world = running()
    refused = world.ask("job.submit", spec=SPEC)
    assert refused.exit_code == 4
    assert "a job named 'digits' is running" in refused.error
    world.ask("job.cancel", job="digits")
    assert world.submit() == "digits-2"


@pytest.mark.parametrize(
    ("verb", "arguments", "code", "text"),
    [
        ("job.stop", {}, 2, "unknown request"),
        ("job.status", {}, 2, "job"),
        ("job.status", {"job": "digit"}, 2, "did you mean 'digits'"),
        ("job.status", {"job": "digits", "color": 1}, 2, "color"),
        ("job.status", {"job": 7}, 2, "job"),
        ("job.logs", {"job": "digits", "lines": 0}, 2, "lines"),
        ("job.result", {"job": "digits"}, 4, "has no result"),
        ("node.show", {"node": "pi-77"}, 2, "pi-77"),
        ("node.drain", {"node": "pi-1", "undo": "yes"}, 2, "undo"),
        ("job.submit", {"spec": {**SPEC, "trian": {}}}, 2, "trian"),
        ("job.submit", {"spec": {**SPEC, "method": {"name": "fedavgg"}}}, 2, "fedavgg"),
        ("job.submit", {"spec": {**SPEC, "train": {"rounds": -1}}}, 2, "rounds"),
        ("job.submit", {"spec": {**SPEC, "name": "Not an id"}}, 2, "name"),
        ("job.submit", {"spec": []}, 2, "spec"),
        ("job.submit", {"spec": {**SPEC, "name": "x", "junk": "y" * 70_000}}, 2, "64 KiB"),
    ],
)
def test_bad_requests_get_one_line(verb, arguments, code, text):
    world = running()
    before = world.body("job.list")["jobs"]
    reply = world.ask(verb, **arguments)
    assert reply.exit_code == code
    assert text in reply.error
    assert "\n" not in reply.error
    assert world.body("job.list")["jobs"] == before


def test_old_jobs_are_forgotten():
    world = fleet(rules=Rules(keep_jobs=2))
    for n in range(5):
        world.submit(name=f"job-{n}")
        world.ask("job.cancel", job=f"job-{n}")
    world.submit(name="last")
    assert [job["job"] for job in world.body("job.list")["jobs"]] == ["last", "job-4", "job-3"]
    assert {key[0] for key in world.rows["jobs"]} == {"last", "job-4", "job-3"}
    assert {key[0] for key in world.rows["log"]} == {"last", "job-4", "job-3"}


# -- restart --------------------------------------------------------------------------------


def test_a_restarted_coordinator_adopts_the_job_without_a_new_view():
    world = trained()
    before = world.status()
    world.kill_core()
    world.run(3.0)
    world.start_core()
    world.run(5.0)
    after = world.status()
    for key in ("state", "view", "round", "history", "bytes", "buddies"):
        assert after[key] == before[key], key
    assert world.live() == {task["task"]: task["node"] for task in before["tasks"]}
    world.train()
    world.run(1.0)
    assert world.status()["round"] == before["round"] + 1


def test_a_restarted_coordinator_sees_who_left_meanwhile():
    world = trained()
    world.kill_core()
    world.kill("pi-1")
    world.run(1.0)
    world.start_core()
    world.run(world.rules.return_s + 2.0)
    assert "trainer-0" not in world.live()


def test_records_come_before_what_they_make_durable():
    world = running(rules=Rules(return_s=0.0))
    world.kill("pi-1")
    world.effects.clear()
    world.run(1.0)
    kinds = [type(effect) for effect in world.effects if not (isinstance(effect, Tell) and not isinstance(effect.message, Desired))]
    assert kinds.index(Record) < kinds.index(Tell)


def test_rounds_are_rows_of_their_own():
    world = trained(rounds=3)
    assert sorted(world.rows["rounds"]) == [("digits", 1), ("digits", 2), ("digits", 3)]
    record = RoundRecord(2, 2.0, 1, 10, {"accuracy": 0.02})
    assert world.core is not None
    assert world.core.histories["digits"].rounds[2].record == record
