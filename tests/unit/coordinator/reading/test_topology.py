"""Trees in virtual time: sites with brokers of their own, heads that die, nodes that come, go and change their site. And how trees are drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_common.wire import topics
from fog_common.wire.api.fleet import TreeEntry
from fog_common.wire.api.verbs import ReadJob, ReadTree
from fog_learning.backend.plain_ops import SLOTS, flat, shares
from fog_learning.job.reading import job_from
from fog_sim.costs import plain_backend
from fog_sim.faults import Fault, Schedule
from fog_sim.links import Fleet, Link, NodeModel
from fog_sim.shape import Group, NodePlace, load_shape, places, shape_for
from fog_sim.world import Simulation
from fogctl.show import draw, watch
from support.few import few

UPLINK = Link(up_bytes_s=1e5, down_bytes_s=1e5, latency_s=0.1)
WIFI = Link(up_bytes_s=1e6, down_bytes_s=1e6, latency_s=0.005)
MODEL = NodeModel(op_overhead_s=0.3)
OWN_UPLINKS = Fleet(link=UPLINK, d2d=WIFI, node=MODEL, cloud=MODEL)
BRIDGED = Fleet(link=WIFI, d2d=WIFI, bridge=UPLINK, node=MODEL, cloud=MODEL)
CAMPUS = places([Group("thing", 3, 3), Group("edge", 3, 2), Group("fog", ["campus"])])
"""9 things and 6 edge nodes at 3 sites, a fog node elsewhere."""


def job(mode: str = "vertical", rounds: int = 6, method: str = "fog", **more: Any) -> dict[str, Any]:
    own = {"mode": mode} if method == "fog" else {}
    return {
        "name": "tree",
        "method": {"name": method, "local_steps": 1, **own},
        "model": {"name": "mlp"},
        "nodes": {"select": {"tier": ["thing"]}},
        "train": {"rounds": rounds},
        **more,
    }


def world_of(fleet: Fleet = OWN_UPLINKS, shape: list[NodePlace] | None = None) -> Simulation:
    return Simulation(CAMPUS if shape is None else shape, fleet, plain_backend, seed=3)


def weights_of(world: Simulation, name: str) -> list[float]:
    found: list[float] = msgspec.msgpack.decode(world.coordinator.results[name])
    return found


def until(world: Simulation, good: Callable[[], bool], what: str, limit_s: float = 120.0) -> None:
    end = world.kernel.now + limit_s
    while not good():
        assert world.kernel.now < end, f"no {what} within {limit_s:g} s"
        world.kernel.run(world.kernel.now + 0.05)


def place_of(world: Simulation, name: str, task: str) -> str:
    return next(each["node"] for each in world.status(name)["tasks"] if each["task"] == task)


def checked(world: Simulation, name: str, rounds: int, slots: int = 9) -> dict[str, Any]:
    """The job ended, every round held every slot once, and the model is that of federated averaging."""
    status = world.run(name, 600.0)
    assert status["state"] == "finished", status["line"]
    assert [record["round"] for record in status["history"]] == list(range(1, rounds + 1))
    assert [record["slots"] for record in status["history"]] == [slots] * rounds
    weights = weights_of(world, name)
    assert weights[0] == pytest.approx(flat(rounds, slots), abs=1e-6)
    assert weights[1:] == pytest.approx(shares(range(slots)), abs=1e-6)
    return status


# -- sites with brokers of their own ---------------------------------------------------------


@pytest.mark.parametrize("fleet", [OWN_UPLINKS, BRIDGED], ids=["own uplinks", "bridged"])
@pytest.mark.parametrize("mode", few(["vertical", "d2d"], 1))
def test_a_tree_over_sites_is_federated_averaging_and_their_own_traffic_stays_there(fleet: Fleet, mode: str, monkeypatch: pytest.MonkeyPatch):
    world = world_of(fleet)
    routes: list[Any] = []
    route = world.broker._route

    def routed(topic: str, *rest: Any) -> None:
        """What the cloud's broker takes in."""
        routes.append(topics.parse(topic))
        route(topic, *rest)

    monkeypatch.setattr(world.broker, "_route", routed)
    name = world.submit(job(mode))
    checked(world, name, 6)
    counts = world.broker.bytes
    for site in ("site-1", "site-2", "site-3"):
        assert counts[site]["d2d"] > 0
    assert {scope for plane, scope, *_ in routes if plane == "d2d"} <= {"cloud"}  # cloud-1 measures its own link
    assert {scope for plane, scope, *_ in routes if plane == "cast"} <= {"cloud", topics.ALL_SITES}
    assert any(plane == "to" for plane, *_ in routes)


@pytest.mark.parametrize(("byte_j", "way"), few([(3e-6, "d2d"), (1e-8, "vertical")], 1))
def test_auto_decides_by_what_the_members_uplinks_cost_and_shows_it(byte_j: float, way: str):
    fleet = Fleet(link=msgspec.structs.replace(UPLINK, joules_per_byte=byte_j), d2d=WIFI, node=MODEL, cloud=MODEL)
    world = world_of(fleet)
    name = world.submit(job("auto"))

    def noted() -> list[str]:
        shown = watch.details(world.coordinator.ask(ReadJob(name)))
        return [line for line in shown if line.startswith("  aggregator-1-") and f": {way}: energy: d2d " in line]

    until(world, lambda: len(noted()) == 3, "word from the heads of the three sites")
    drawn = draw.text(world.coordinator.ask(ReadTree(name)).nodes)
    assert sum(f"  {way}: energy: d2d " in line for line in drawn) >= 3
    status = checked(world, name, 6)
    assert all(("consensus_error" in record) is (way == "d2d") for record in status["history"])


@pytest.mark.thorough
def test_what_stays_in_a_site_does_not_touch_the_uplink():
    world = world_of()
    name = world.submit(job("d2d"))
    checked(world, name, 6)
    for node in world.nodes.values():
        if node.name.startswith("thing"):
            assert node.port.local is not None
            heard = node.port.local.sent_bytes + node.port.local.received_bytes
            assert heard > 5_000, f"{node.name} says nothing to its neighbours"
    uplinks = [world.nodes[place.name].port for place in CAMPUS if place.tier == "thing"]
    status = world.status(name)
    trained = [port.sent_bytes for port in uplinks]
    assert status["bytes"]["d2d"] > 3 * status["bytes"]["up"]
    assert max(trained) < 40_000  # heartbeats and tables, no weights: they all go to the edge node of their site


def test_a_bridge_carries_a_cast_once_for_the_whole_site():
    world = Simulation(places([Group("edge", 1, 6)]), BRIDGED, plain_backend, seed=1)
    world.kernel.run(3.0)
    bridge, before = world.broker.bridges["site-1"], world.broker.bridges["site-1"].received_bytes
    heard: list[str] = []
    for node in world.nodes.values():
        if node.name != "cloud-1":
            assert node.connection is not None
            node.connection.subscribe("fog/v1/sim/cast/all/job~peer/+/bulk")
            node.connection.on_event = lambda event, name=node.name: heard.append(name)
    cloud = world.nodes["cloud-1"].connection
    assert cloud is not None
    world.coordinator.kill()
    world.kernel.run(world.kernel.now + 1.0)
    before = bridge.received_bytes
    heard.clear()
    cloud.publish("fog/v1/sim/cast/all/job~peer/cloud-1/bulk", b"x" * 1000)
    world.kernel.run(world.kernel.now + 0.5)
    assert len(set(heard)) == 6
    assert bridge.received_bytes - before < 1200


def test_a_site_gossips_on_while_it_is_cut_off_and_catches_up():
    world = world_of(BRIDGED)
    name = world.submit(job(method="gossip", rounds=60, nodes={"select": {"tier": ["thing"], "site": ["site-2"]}}))
    until(world, lambda: world.status(name)["round"] >= 5, "fifth round")
    world.inject(Schedule([Fault(0.0, "cut_site", "site-2", 15.0)]))
    world.kernel.run(world.kernel.now + 1.0)
    seen, d2d = world.status(name)["round"], world.broker.bytes["site-2"]["d2d"]
    world.kernel.run(world.kernel.now + 13.0)
    assert world.status(name)["round"] <= seen + 1
    assert world.broker.bytes["site-2"]["d2d"] > d2d + 10_000
    status = world.run(name, 600.0)
    assert status["state"] == "finished", status["line"]
    assert [record["round"] for record in status["history"]] == list(range(1, 61))
    assert all(record["updates"] == 3 for record in status["history"])


def test_a_site_without_a_broker_of_its_own_cannot_be_cut_off():
    world = Simulation(2, Fleet(link=WIFI), plain_backend)
    world.inject(Schedule([Fault(0.0, "cut_site", "home", 5.0)]))
    with pytest.raises(ConfigError, match="no site 'home' with a broker of its own"):
        world.kernel.run(1.0)


# -- heads that die --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", few(["vertical", "d2d"], 1))
@pytest.mark.parametrize("after_s", few([0.3, 1.1, 2.4], 1))
@pytest.mark.parametrize("which", few(["aggregator-1-1", "aggregator-2-1"], 1))
def test_a_dead_aggregator_is_placed_again_within_its_round(mode: str, after_s: float, which: str):
    world = world_of()
    name = world.submit(job(mode, rounds=4))
    until(world, lambda: world.status(name)["round"] >= 2, "second round")
    world.kernel.run(world.kernel.now + after_s)
    first, round_ = place_of(world, name, which), world.status(name)["round"]
    world.nodes[first].power_loss()
    until(world, lambda: place_of(world, name, which) != first, "new place")
    until(world, lambda: all(each["live"] for each in world.status(name)["tasks"]), "new head")
    assert world.status(name)["round"] <= round_ + 1
    checked(world, name, 4)


# -- nodes that come, go, change their site --------------------------------------------------


@pytest.mark.thorough
def test_a_node_that_joins_takes_the_model_from_its_site():
    world = world_of(OWN_UPLINKS, [*CAMPUS, NodePlace("thing-late", "thing", "site-1")])
    late = world.nodes["thing-late"]
    late.alive = True  # it does not boot by itself
    name = world.submit(job("d2d", rounds=8, data={"name": "mine", "local": True}))
    until(world, lambda: world.status(name)["round"] >= 3, "third round")
    late.alive = False
    late.boot()
    status = world.run(name, 600.0)
    assert status["state"] == "finished", status["line"]
    assert [record["slots"] for record in status["history"]][-1] == 10
    assert late.port.local is not None
    assert late.port.local.received_bytes > 2_000
    parent = {each["task"]: each["parent"] for each in status["tasks"]}
    siblings = [each["node"] for each in status["tasks"] if each["parent"] == parent["trainer-9"]]
    assert sorted(siblings) == ["thing-1", "thing-2", "thing-3", "thing-late"]


@pytest.mark.parametrize("method", few(["fog", "gossip"], 1))
def test_a_node_that_leaves_in_order_hands_its_slot_to_a_neighbour_if_samples_may_leave(method: str):
    world = world_of()
    name = world.submit(job("vertical", 8, method, privacy={"share_samples": True}))
    task = "trainer-0" if method == "fog" else "peer-0"
    until(world, lambda: world.status(name)["round"] >= 3, "third round")
    world.coordinator.request("node.drain", node="thing-1")
    until(world, lambda: place_of(world, name, task) in ("thing-2", "thing-3"), "heir")
    if method == "fog":
        checked(world, name, 8)
        return
    status = world.run(name, 600.0)
    assert status["state"] == "finished", status["line"]
    assert status["history"][-1]["updates"] == 9


@pytest.mark.thorough
def test_without_consent_the_slot_of_a_node_that_leaves_stays_its_own():
    world = world_of()
    name = world.submit(job("vertical", 6))
    until(world, lambda: world.status(name)["round"] >= 3, "third round")
    world.coordinator.request("node.drain", node="thing-1")
    status = world.run(name, 600.0)
    assert status["state"] == "finished", status["line"]
    assert place_of(world, name, "trainer-0") == "thing-1"
    assert [record["slots"] for record in status["history"]][-1] == 8


@pytest.mark.thorough
def test_a_node_that_vanishes_loses_no_more_than_the_step_it_was_in():
    world = world_of()
    name = world.submit(job("d2d", rounds=5))
    until(world, lambda: world.status(name)["round"] >= 2, "second round")
    lost = world.nodes["thing-5"]
    lost.power_loss()
    world.kernel.after(4.0, lost.boot)
    status = world.run(name, 600.0)
    assert status["state"] == "finished", status["line"]
    slots = [record["slots"] for record in status["history"]]
    assert slots.count(9) >= 4  # the round in which it was gone may go without it
    assert slots[-1] == 9


@pytest.mark.parametrize("mode", few(["vertical", "d2d"], 1))
@pytest.mark.parametrize("after_s", few([0.1, 0.5, 0.9, 1.3, 1.7], 1))
def test_a_node_that_changes_its_site_in_a_round_never_counts_twice(mode: str, after_s: float):
    world = world_of()
    name = world.submit(job(mode, rounds=8))
    until(world, lambda: world.status(name)["round"] >= 3, "third round")
    world.kernel.run(world.kernel.now + after_s)
    wanderer = world.nodes["thing-1"]
    wanderer.power_loss()
    wanderer.profile = msgspec.structs.replace(wanderer.profile, site="site-3")
    wanderer.port.site = "site-3"
    wanderer.boot()
    status = world.run(name, 600.0)
    assert status["state"] == "finished", status["line"]
    assert [record["round"] for record in status["history"]] == list(range(1, 9))
    slots = [record["slots"] for record in status["history"]]
    assert slots[-1] == 9
    assert min(slots) >= 8
    parents = {each["task"]: each["parent"] for each in status["tasks"]}
    assert parents["trainer-0"] == parents["trainer-8"]
    assert sum(weights_of(world, name)[1:]) == pytest.approx(1.0, abs=1e-6)


# -- fleets by description -------------------------------------------------------------------


def test_a_shape_file(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    path.write_text("groups:\n  - {tier: thing, sites: 2, per_site: 2}\n  - {tier: fog, sites: [hub]}\n")
    assert load_shape(path) == [
        *(NodePlace(f"thing-{i}", "thing", f"site-{1 + (i - 1) // 2}") for i in range(1, 5)),
        NodePlace("fog-1", "fog", "hub"),
    ]
    path.write_text("groups:\n  - {tier: thing, site: 2}\n")
    with pytest.raises(ConfigError, match=r"fleet.yaml:2: groups\[0\]"):
        load_shape(path)


def test_a_jobs_topology_says_which_nodes_a_simulation_needs():
    layers = {"layers": [{"on": "edge", "size": 5}, {"on": "fog", "size": 2}]}
    found = shape_for(job_from(job(topology=layers)), 20)
    count = {tier: [place for place in found if place.tier == tier] for tier in ("thing", "edge", "fog")}
    assert {tier: len(each) for tier, each in count.items()} == {"thing": 20, "edge": 4, "fog": 2}
    assert [place.site for place in count["edge"]] == ["site-1", "site-2", "site-3", "site-4"]
    parents = {"topology": {"parents": {"a": "gate", "b": "gate", "c": "fog", "gate": "fog", "fog": "cloud-1"}}}
    named = {place.name: (place.tier, place.site) for place in shape_for(job_from({**job(), **parents}), 4)}
    assert named["a"] == named["b"] == ("thing", "gate")
    assert named["gate"] == ("edge", "gate")
    assert named["fog"][0] == "fog"
    assert "cloud-1" not in named
    assert [place.site for place in shape_for(job_from(job()), 3)] == ["home"] * 3


def test_a_simulated_fleet_of_a_jobs_topology_gets_that_tree():
    spec = job("vertical", 2, topology={"layers": [{"on": "edge", "size": 3}, {"on": "fog"}]})
    world = Simulation(shape_for(job_from(spec), SLOTS), OWN_UPLINKS, plain_backend)
    name = world.submit(spec)
    status = checked(world, name, 2, SLOTS)
    tiers = {each["task"]: each["tier"] for each in status["tasks"]}
    assert [tiers[f"aggregator-1-{i}"] for i in (1, 2, 3, 4)] == ["edge"] * 4
    assert tiers["aggregator-2-1"] == "fog"


# -- drawings --------------------------------------------------------------------------------


def entries() -> tuple[TreeEntry, ...]:
    world = world_of()
    world.kernel.run(3.0)
    return world.coordinator.ask(ReadTree()).nodes


def test_a_tree_in_the_terminal():
    lines = draw.text(entries())
    assert lines[0] == "root on cloud-1  (cloud, site cloud)"
    assert sum("thing-" in line for line in lines) == 9
    assert any(line.startswith("│  │  ├─ thing-1  ") for line in lines)
    first, last = entries()[0], entries()[-1]
    many = [replace(first, id="root"), *(replace(last, id=f"n{i}", node=f"n{i}", slot=i, parent="root") for i in range(40))]
    assert len(draw.text(many)) == 2
    assert "40 nodes: n0 … n39" in draw.text(many)[1]


def test_a_picture_of_every_node_that_overlaps_nothing():
    found = entries()
    root = ElementTree.fromstring(draw.svg(found, "a <fleet>"))
    boxes = [element for element in root.iter("{http://www.w3.org/2000/svg}rect") if element.get("fill") != "none"]
    assert len(boxes) == len(found)
    corners = [(float(box.get("x", 0)), float(box.get("y", 0))) for box in boxes]
    assert all(abs(a[0] - b[0]) >= draw.BOX_WIDTH or abs(a[1] - b[1]) >= draw.BOX_HEIGHT for i, a in enumerate(corners) for b in corners[:i])
    assert all(x + draw.BOX_WIDTH <= float(root.get("width", 0)) and y + draw.BOX_HEIGHT <= float(root.get("height", 0)) for x, y in corners)


def test_graphviz_text_has_an_edge_to_every_parent():
    found = entries()
    text = draw.dot(found, 'a "fleet"')
    assert text.count(" -> ") == len(found) - 1
    assert text.count("{") == text.count("}") == 1
