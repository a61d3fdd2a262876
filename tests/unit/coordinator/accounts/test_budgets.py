"""Budgets: a warning at 80 %, at 100 % the job ends with the model that it has, and keeps it."""

from __future__ import annotations

import pytest

from fog_common.errors import ConfigError
from fog_common.runtime.machine import Blob, Finish, RoundRecord
from fog_common.wire.messages import Heartbeat
from fog_coordinator.reading.exporter import Exporter
from fog_learning.job.reading import job_from
from fog_learning.methods import METHODS, resolve_method
from support.reports import MeasuringNode, beat
from support.stand_ins import SPEC, StandIn, World


def world_with(**budgets: float) -> World:
    world = World(StandIn("cloud-1", "cloud", "cloud"), StandIn("pi-1"), StandIn("pi-2"))
    world.run(1.0)
    world.submit(budgets=budgets)
    world.run(2.0)
    assert world.status()["state"] == "running"
    return world


def use(world: World, seconds: float, watts: dict[str, float]) -> None:
    """Heartbeats of nodes that used so many watts since they began."""
    assert world.core is not None
    for name, power in watts.items():
        said = world.nodes[name].heartbeat(world.now)
        full = beat(name, seconds, nonce=said.nonce)
        joules = {"measured": power * seconds}
        world.core.on_heartbeat(
            world.now, Heartbeat(name, said.nonce, said.desired, said.workers, uptime_s=said.uptime_s, energy_j=joules, counters=full.counters)
        )
    world.perform()


def log(world: World) -> list[str]:
    return [event["text"] for event in world.body("job.logs", job="digits")["events"]]


def stops(world: World) -> set[str]:
    return {placement.stop for _, placement in world.told if placement.stop}


def test_time_warns_and_then_stops():
    world = world_with(time_s=20)
    world.run(13.0)
    assert not [line for line in log(world) if "budget" in line]
    world.run(4.0)
    assert [line for line in log(world) if line.startswith("warning: it used 16 of 20 s of its time budget")]
    assert world.status()["budgets"][0]["ratio"] == pytest.approx(0.9, abs=0.06)
    assert not stops(world)
    world.run(4.0)
    assert stops(world) == {"stopped, it used 20 of 20 s of its time budget"}
    assert world.status()["state"] == "running"
    assert "waiting for the model from cloud-1" in world.status()["line"]
    assert len([line for line in log(world) if line.startswith("warning")]) == 1


def test_the_root_hands_in_its_model_and_the_job_is_finished():
    world = world_with(time_s=5)
    world.train()
    world.run(6.0)
    assert stops(world)
    assert world.core is not None and world.core.expects("digits", "server", "cloud-1") is None
    world.core.on_result(world.now, "digits", {"accuracy": 0.7}, "d" * 64)
    world.perform()
    world.run(3.0)
    status = world.status()
    assert (status["state"], status["digest"], status["metrics"]["accuracy"]) == ("finished", "d" * 64, 0.7)
    assert status["line"].startswith("finished after 1 of 6 rounds: stopped, it used 5 of 5 s")
    assert not any(node.jobs for node in world.nodes.values())


def test_bytes_of_all_nodes_count():
    world = world_with(bytes=500)
    seen = []
    for _ in range(4):
        world.train()
        world.run(2.0)
        seen.append((world.status()["bytes"]["total"], bool(stops(world))))
    assert seen[0] == (200, False) and seen[-1][1]  # each round 100 B from the root's node, and 100 from that with the copy
    assert all(stopped == (sent >= 500) for sent, stopped in seen)


def test_joules_are_those_since_the_job_began():
    world = world_with(joules=100)
    use(world, 100.0, {"pi-1": 4.0, "pi-2": 4.0})  # 800 J, before anything of it can be said to be the job's
    assert world.status()["budgets"][0]["used"] is None
    use(world, 110.0, {"pi-1": 4.0, "pi-2": 4.0})
    assert world.status()["budgets"][0]["used"] == pytest.approx(80.0)
    assert [line for line in log(world) if "80 of 100 J" in line]
    use(world, 113.0, {"pi-1": 4.0, "pi-2": 4.0})
    world.run(0.5)
    assert stops(world)


def test_one_node_can_use_up_the_budget_of_a_node():
    world = world_with(node_joules=100)
    use(world, 100.0, {"pi-1": 1.0, "pi-2": 9.0})
    use(world, 111.0, {"pi-1": 1.0, "pi-2": 9.0})
    assert world.status()["budgets"][0]["node"] == "pi-2"
    use(world, 112.0, {"pi-1": 1.0, "pi-2": 9.0})
    world.run(0.5)
    assert stops(world) == {"stopped, it used 108 of 100 J of its node_joules budget (pi-2)"}


def test_each_node_that_nears_its_budget_is_named_once():
    world = world_with(node_joules=100)
    use(world, 100.0, {"pi-1": 9.0, "pi-2": 8.5})
    use(world, 110.0, {"pi-1": 9.0, "pi-2": 8.5})
    use(world, 111.0, {"pi-1": 9.0, "pi-2": 8.5})
    said = [line for line in log(world) if line.startswith("warning")]
    assert [line.partition(";")[0] for line in said] == [
        "warning: it used 90 of 100 J of its node_joules budget (pi-1)",
        "warning: it used 85 of 100 J of its node_joules budget (pi-2)",
    ]


def test_bytes_of_one_node_count():
    world = world_with(node_bytes=250)
    while not stops(world):
        world.train()
        world.run(2.0)
    assert world.core is not None
    by_node = world.core.book["digits"].job.sent_by_node()
    assert by_node["cloud-1"] >= 250 and sum(by_node.values()) == world.status()["bytes"]["total"]
    assert stops(world) == {f"stopped, it used {by_node['cloud-1']:.0f} of 250 B of its node_bytes budget (cloud-1)"}


def test_cpu_seconds_of_one_node_count_over_its_workers():
    world = World(StandIn("cloud-1", "cloud", "cloud"), MeasuringNode("pi-1"), StandIn("pi-2"))
    world.run(1.0)
    world.submit(budgets={"node_cpu_s": 14})
    world.run(16.0)
    (budget,) = world.status()["budgets"]
    assert (budget["budget"], budget["node"]) == ("node_cpu", "pi-1") and 0.5 < budget["ratio"] < 1.0
    pi = world.nodes["pi-1"]
    assert isinstance(pi, MeasuringNode)
    pi.restart_worker(world.now, "digits")
    pi.counted_from = world.now
    world.run(3.0)
    assert world.status()["budgets"][0]["used"] > budget["used"]
    world.run(9.0)
    (stop,) = stops(world)
    assert stop.endswith("of 14 s of its node_cpu budget (pi-1)")


def test_a_stop_outlives_the_coordinator():
    world = world_with(time_s=5)
    world.run(6.0)
    before = stops(world)
    world.kill_core()
    world.told.clear()
    world.start_core()
    world.run(3.0)
    assert before and stops(world) == before


def test_the_metric_shows_what_is_used():
    world = world_with(time_s=20, joules=50)
    world.run(8.0)
    assert world.core is not None
    ratios = dict(Exporter(world.core).collect(world.now, connected=True, rejected={})["fog_job_budget_used_ratio"])
    assert ratios.keys() == {("digits", "time")}  # nothing is known of joules yet: absent, not 0
    assert 0.3 < ratios["digits", "time"] < 0.6


@pytest.mark.parametrize("budgets", [{"time_s": 0}, {"bytes": 0}, {"joules": -1}, {"hours": 1}])
def test_impossible_budgets_are_refused(budgets: dict[str, float]):
    with pytest.raises(ConfigError, match="budgets"):
        job_from({**SPEC, "budgets": budgets})


# -- the machines --------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_root_hands_in_its_newest_model_when_it_is_stopped(name: str):
    """Or says, before there is one, that there is none."""
    (finish,) = _blank(name).stop("stopped, it used 5 of 5 s", (), 5.0)
    assert isinstance(finish, Finish) and not finish.refs
    assert finish.why.startswith("stopped, it used 5 of 5 s; ") and "no model" in finish.why


def _blank(name: str):
    from fog_common.runtime.machine import Peer

    method = METHODS[name]
    extra = {"privacy": {"share_samples": True}} if name == "centralized" else {}
    try:
        job = job_from({**SPEC, "method": {"name": name}, **extra})
    except ConfigError as error:
        pytest.skip(f"needs a job of its own: {error}")
    _, plan = resolve_method(job)
    return method.build(job, plan, Peer("root", method.root, -1, "cloud-1", "cloud", "cloud", 1))


def test_fedavg_hands_in_the_weights_and_figures_of_the_last_round():
    server = _blank("fedavg")
    server.weights = Blob("a" * 64, 10)
    server.ledger.close(RoundRecord(1, 1.0, numbers={"accuracy": 0.5}))
    assert server.stop("stopped", (), 2.0) == [Finish({"weights": Blob("a" * 64, 10)}, {"accuracy": 0.5})]


def test_a_cut_model_is_joined_before_it_is_handed_in():
    from fog_common.runtime.machine import Ran, Run

    trunk = _blank("fcddt")
    trunk.local, trunk.trunk = Blob("a" * 64, 10), Blob("b" * 64, 10)
    (run,) = trunk.stop("stopped", (), 2.0)
    assert isinstance(run, Run) and run.refs == {"local": trunk.local, "trunk": trunk.trunk}
    whole = Blob("c" * 64, 20)
    assert trunk.step(Ran(run.tag, {"weights": whole}), 3.0) == [Finish({"weights": whole}, {})]


def test_an_observer_asks_a_peer_for_its_model():
    from fog_common.runtime.machine import Close, Delivered, Peer, Ran, Send
    from fog_learning.methods.gossip.messages import Told

    observer = _blank("gossip")
    peers = tuple(Peer(f"peer-{slot}", "peer", slot, f"pi-{slot}", "home", "edge", 1) for slot in range(2))
    observer.ledger.round = 3
    for number in (1, 2, 3):
        observer.ledger.close(RoundRecord(number, float(number), numbers={"accuracy": 0.1}))
    (ask,) = observer.stop("stopped", peers, 4.0)
    assert isinstance(ask, Send) and ask.to in {"peer-0", "peer-1"}
    weights = Blob("a" * 64, 10)
    (rating,) = observer.step(Delivered(ask.to, Told(3, weights)), 5.0)
    close, *_, finish = observer.step(Ran(rating.tag, numbers={"accuracy": 0.9, "loss": 0.1}), 6.0)
    assert isinstance(finish, Finish) and finish.refs == {"weights": weights} and finish.numbers["accuracy"] == 0.9
    assert close == Close(RoundRecord(3, 3.0, numbers={"accuracy": 0.9, "rated_loss": 0.1}))
