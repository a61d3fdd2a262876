"""Trees: which nodes head clusters, who hangs where, who takes over when a head is gone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_common.wire.api.states import ONLINE
from fog_common.wire.messages import Announce, Profile
from fog_coordinator.placement import tree
from fog_coordinator.state.nodes import Node
from fog_coordinator.state.rules import Rules
from fog_learning.job.reading import job_from
from fog_learning.job.sections import Layer, Topology
from support.stand_ins import StandIn, World

FOG = {"method": {"name": "fog"}, "nodes": {"select": {"tier": ["thing"]}}}


def node(name: str, tier: str, site: str, **profile: Any) -> Node:
    return Node(name, Profile(tier=tier, site=site, **profile), state=ONLINE)


def planned(topology: Topology, roster: list[str], *nodes: Node, root: str = "cloud-1") -> dict[str, str]:
    """node or head -> its head ('' is the root); heads are named node/layer."""
    known = {each.node: each for each in nodes}
    found = tree.plan(topology, roster, known, known.keys() - {root}, root)
    names = [f"{head.node}/{head.layer}" for head in found.heads] + [""]
    return {
        **{slot: names[head] for slot, head in zip(roster, found.parents, strict=True)},
        **{name: names[head.parent] for name, head in zip(names, found.heads, strict=False)},
    }


CLOUD = node("cloud-1", "cloud", "cloud")
THINGS = [node(f"t{i}", "thing", f"hall-{i % 2 + 1}") for i in range(4)]
NAMES = [each.node for each in THINGS]


# -- derived from what the nodes announce ----------------------------------------------------


def test_a_flat_fleet_of_one_site_is_a_star():
    things = [node(f"t{i}", "edge", "home") for i in range(3)]
    assert planned(Topology(), ["t0", "t1", "t2"], CLOUD, *things) == {"t0": "", "t1": "", "t2": ""}


def test_sites_without_higher_tiers_meet_at_their_best_connected_member():
    things = [node(f"t{i}", "edge", f"hall-{i % 2 + 1}", bandwidth_bytes_s=float(i)) for i in range(4)]
    found = planned(Topology(), NAMES, CLOUD, *things)
    assert found == {"t0": "t2/1", "t2": "t2/1", "t1": "t3/1", "t3": "t3/1", "t2/1": "", "t3/1": ""}


def test_every_tier_above_the_data_is_a_layer():
    edges = [node("e1", "edge", "hall-1"), node("e2", "edge", "hall-2")]
    found = planned(Topology(), NAMES, CLOUD, *THINGS, *edges, node("f1", "fog", "campus"))
    assert found == {"t0": "e1/1", "t2": "e1/1", "t1": "e2/1", "t3": "e2/1", "e1/1": "f1/2", "e2/1": "f1/2", "f1/2": ""}


def test_a_member_alone_needs_no_head():
    found = planned(Topology(), ["t0", "t1", "t2"], CLOUD, *THINGS, node("e1", "edge", "hall-1"), node("e2", "edge", "hall-2"))
    assert found == {"t0": "e1/1", "t2": "e1/1", "t1": "", "e1/1": ""}


def test_a_site_without_an_edge_node_is_headed_from_elsewhere_and_stays_one_cluster():
    known = {each.node: each for each in [CLOUD, *THINGS, node("e1", "edge", "hall-1")]}
    found = tree.plan(Topology(), NAMES, known, known.keys() - {"cloud-1"}, "cloud-1")
    assert [head.node for head in found.heads] == ["e1", "e1"]
    assert found.parents == [0, 1, 0, 1]


def test_heads_of_a_site_share_its_members():
    things = [node(f"t{i}", "thing", "hall") for i in range(5)]
    edges = [node("e1", "edge", "hall", rtt_s=0.5), node("e2", "edge", "hall", rtt_s=0.1)]
    found = planned(Topology(), [each.node for each in things], CLOUD, *things, *edges)
    assert [found[f"t{i}"] for i in range(5)] == ["e2/1", "e2/1", "e2/1", "e1/1", "e1/1"]


# -- as the job says -------------------------------------------------------------------------


def test_layers_with_a_size():
    things = [node(f"t{i}", "edge", "home", memory_bytes=i) for i in range(6)]
    found = planned(Topology(layers=[Layer(size=3)]), [each.node for each in things], CLOUD, *things)
    assert found == {**dict.fromkeys(("t0", "t1", "t2"), "t2/1"), **dict.fromkeys(("t3", "t4", "t5"), "t5/1"), "t2/1": "", "t5/1": ""}


def limited(topology: Topology, **limits: int) -> tree.Tree:
    """Two halls without a node that heads their clusters, and e1 elsewhere."""
    known = {each.node: each for each in [CLOUD, *THINGS, node("e1", "edge", "gate")]}
    return tree.plan(topology, NAMES, known, ["e1"], "cloud-1", limits)


def test_a_node_heads_as_many_clusters_as_it_has_room_for():
    assert [head.node for head in limited(Topology()).heads] == ["e1", "e1"]
    one = limited(Topology(), e1=1)
    assert [head.node for head in one.heads] == ["e1"]
    assert one.parents == [0, tree.ROOT, 0, tree.ROOT] and one.lacking is None
    assert limited(Topology(), e1=2).parents == [0, 1, 0, 1]


def test_a_layer_that_is_asked_for_needs_room_for_all_of_its_heads():
    asked = Topology(layers=[Layer(on="edge", size=2)])
    assert limited(asked, e1=2).lacking is None
    lacking = limited(asked, e1=1).lacking
    assert lacking is not None and (lacking.on, lacking.text) == ("edge", "layers[0]: 1 of 2 clusters have a head that has room")


def test_no_layers_is_a_star_whatever_the_nodes_announce():
    found = planned(Topology(layers=[]), NAMES, CLOUD, *THINGS, node("e1", "edge", "hall-1"))
    assert found == dict.fromkeys(NAMES, "")


def test_named_parents_to_any_depth():
    parents = {"t0": "e1", "t1": "e1", "e1": "f1", "t2": "f1", "f1": "cloud-1", "spare": "unused"}
    found = planned(Topology(parents=parents), NAMES, CLOUD, *THINGS, node("e1", "edge", "hall-1"), node("f1", "fog", "campus"))
    assert found == {"t0": "e1/1", "t1": "e1/1", "t2": "f1/2", "t3": "", "e1/1": "f1/2", "f1/2": ""}
    assert tree.named_root(Topology(parents=parents), {"cloud-1": CLOUD, "f1": THINGS[0]}) == ""  # two tops: it is not said
    assert tree.named_root(Topology(parents={"t0": "cloud-1"}), {"cloud-1": CLOUD}) == "cloud-1"


def test_a_data_node_that_is_a_parent_is_in_its_own_cluster():
    found = planned(Topology(parents={"t0": "t1", "t2": "t1"}), NAMES, CLOUD, *THINGS)
    assert found == {"t0": "t1/1", "t1": "t1/1", "t2": "t1/1", "t3": "", "t1/1": ""}


@pytest.mark.parametrize(
    ("topology", "said"),
    [
        ({"parents": {"a": "b", "b": "c", "c": "a"}}, "topology.parents: a -> b -> c -> a is a circle"),
        ({"parents": {"a": "b"}, "layers": []}, "topology: `parents` names every inner node"),
        ({"layers": [{"on": "moon"}]}, "topology.layers[0].on"),
        ({"layers": [{"size": 1}]}, "topology.layers[0].size"),
    ],
)
def test_impossible_trees_are_refused(topology: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as refused:
        job_from({"name": "x", "method": {"name": "fog"}, "model": {"name": "mlp"}, "topology": topology})
    assert said in str(refused.value)


def test_a_method_without_inner_nodes_refuses_a_topology():
    with pytest.raises(ConfigError, match="topology: method fedavg does not read this section"):
        job_from({"name": "x", "method": {"name": "fedavg"}, "model": {"name": "mlp"}, "topology": {"layers": []}})


# -- in the coordinator ----------------------------------------------------------------------


def campus(*more: StandIn, **options: Any) -> World:
    nodes = [StandIn("cloud-1", "cloud", "cloud"), StandIn("fog-1", "fog", "campus")]
    for hall in (1, 2):
        nodes += [StandIn(f"gate-{hall}", "edge", f"hall-{hall}"), *(StandIn(f"pi-{hall}{i}", "thing", f"hall-{hall}") for i in (1, 2, 3))]
    world = World(*nodes, *more, **options)
    world.run(1.0)
    return world


def parents(world: World, job: str = "digits") -> dict[str, str]:
    return {task["task"]: task["parent"] for task in world.status(job)["tasks"]}


def places(world: World, job: str = "digits") -> dict[str, str]:
    return {task["task"]: task["node"] for task in world.status(job)["tasks"]}


def test_a_job_gets_its_tree():
    world = campus()
    world.submit(**FOG)
    world.run(2.0)
    live = world.live()
    heads = {live[task]: task for task in live if task.startswith("aggregator")}
    assert sorted(heads) == ["fog-1", "gate-1", "gate-2"]
    above = parents(world)
    assert above["server"] == ""
    layers = {seat.task: seat.peer().layer for seat in world.core.book["digits"].job.seats}
    assert [layers[heads[node]] for node in ("gate-1", "gate-2", "fog-1")] == [1, 1, 2]
    assert {layer for task, layer in layers.items() if task not in heads.values()} == {0}
    assert above[heads["fog-1"]] == "server"
    assert above[heads["gate-1"]] == above[heads["gate-2"]] == heads["fog-1"]
    for task, where in live.items():
        if task.startswith("trainer"):
            assert above[task] == heads[f"gate-{where[3]}"]


def test_the_head_of_a_cluster_is_replaced_by_its_neighbour_and_the_children_stay():
    world = campus(StandIn("gate-1b", "edge", "hall-1"))
    world.submit(**FOG, topology={"layers": [{"on": "edge", "size": 5}, {"on": "fog"}]})
    world.run(2.0)
    head = next(task for task, place in places(world).items() if task.startswith("aggregator-1") and place.startswith("gate-1"))
    first, before = places(world)[head], parents(world)
    world.kill(first)
    world.run(world.rules.move_after_s + 2.0)
    assert world.live()[head] == {"gate-1": "gate-1b", "gate-1b": "gate-1"}[first]
    assert parents(world) == before


def test_without_a_neighbour_of_its_tier_a_head_moves_inside_its_site():
    world = campus()
    world.submit(**FOG)
    world.run(2.0)
    head = next(task for task, place in places(world).items() if place == "gate-2")
    world.kill("gate-2")
    world.run(world.rules.move_after_s + 2.0)
    assert world.live()[head].startswith("pi-2")


def test_a_head_without_any_save_does_not_wait_for_its_node():
    rules = Rules(orphan_after_s=1000.0)
    world = campus(rules=rules)
    world.submit(**FOG)
    world.run(2.0)
    head = next(task for task, place in places(world).items() if place == "fog-1")
    world.kill("fog-1")
    world.run(rules.move_after_s + 2.0)
    assert head in world.live()


def test_a_drained_head_moves_in_order():
    world = campus()
    world.submit(**FOG)
    world.run(2.0)
    head = next(task for task, place in places(world).items() if place == "gate-1")
    world.ask("node.drain", node="gate-1")
    world.run(4.0)
    assert world.live()[head].startswith("pi-1")


def test_a_node_that_joins_belongs_to_the_cluster_of_its_site():
    world = campus()
    world.submit(**FOG, data={"name": "mine", "local": True})
    world.run(2.0)
    head = next(task for task, place in places(world).items() if place == "gate-2")
    world.nodes["pi-29"] = StandIn("pi-29", "thing", "hall-2")
    world.boot("pi-29")
    world.run(2.0)
    task = next(task for task, place in world.live().items() if place == "pi-29")
    assert parents(world)[task] == head


def test_a_node_that_comes_back_at_another_site_changes_its_cluster():
    world = campus()
    world.submit(**FOG)
    world.run(2.0)
    task = next(task for task, place in places(world).items() if place == "pi-11")
    world.kill("pi-11")
    world.run(1.0)
    world.nodes["pi-11"].site = "hall-2"
    world.boot("pi-11")
    world.run(3.0)
    assert world.live()[task] == "pi-11"
    assert places(world)[parents(world)[task]] == "gate-2"


# -- what a person sees ----------------------------------------------------------------------


def test_the_topology_of_fleet_job_and_file_agree():
    world = campus()
    fleet = {entry["node"]: entry for entry in world.body("topology")["nodes"]}
    by_id = {entry["id"]: entry for entry in fleet.values()}
    above = {name: by_id[entry["parent"]]["node"] if entry["parent"] else "" for name, entry in fleet.items()}
    assert above["pi-13"] == "gate-1"
    assert above["gate-2"] == "fog-1"
    assert above["fog-1"] == "cloud-1"
    assert above["cloud-1"] == ""
    spec = {"name": "digits", "model": {"name": "mlp"}, **FOG}
    planned = world.body("topology", spec=spec)["nodes"]
    world.submit(**FOG)
    world.run(2.0)
    running = world.body("topology", job="digits")["nodes"]
    assert [(each["id"], each["parent"], each["node"]) for each in planned] == [(each["id"], each["parent"], each["node"]) for each in running]
    assert all(each["live"] for each in running)
    assert world.ask("topology", job="nothing").exit_code == 2


def test_parents_come_before_their_children():
    world = campus()
    world.submit(**FOG)
    seen: set[str | None] = {None}
    for entry in world.body("topology", job="digits")["nodes"]:
        assert entry["parent"] in seen
        seen.add(entry["id"])


def test_the_root_is_placed_where_the_parents_end():
    world = campus(StandIn("cloud-2", "cloud", "cloud"))
    world.submit(**FOG, topology={"parents": {**{f"pi-1{i}": "gate-1" for i in (1, 2, 3)}, "gate-1": "cloud-2"}})
    world.run(2.0)
    found, above = places(world), parents(world)
    assert found["server"] == "cloud-2"
    assert found["aggregator-1-1"] == "gate-1"
    assert sorted(found[task] for task in above if above[task] == "aggregator-1-1") == ["pi-11", "pi-12", "pi-13"]


# -- heads are tasks like others ---------------------------------------------------------------


def heads(world: World) -> set[str]:
    assert world.core is not None
    return {seat.node for seat in world.core.book["digits"].job.seats if seat.bound == "tree"}


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ({}, {"gate-1", "gate-2", "fog-1"}),
        ({"tier": ["edge", "cloud"]}, {"gate-1", "gate-2"}),
        ({"names": ["gate-2", "cloud-1"]}, {"gate-2"}),
        ({"site": ["campus", "cloud"]}, {"fog-1"}),
    ],
)
def test_heads_obey_the_placement_section(placement: dict[str, Any], expected: set[str]):
    world = campus()
    world.submit(**FOG, placement=placement)
    world.run(2.0)
    assert world.status()["state"] == "running"
    assert heads(world) == expected


def test_a_head_is_recovered_only_where_the_placement_section_allows_it():
    spare = StandIn("gate-9", "edge", "hall-1")
    world = campus(spare)
    world.submit(**FOG, placement={"names": ["gate-1", "gate-2", "fog-1", "cloud-1"]})
    world.run(2.0)
    assert heads(world) == {"gate-1", "gate-2", "fog-1"}
    world.kill("gate-1")
    world.run(60.0)
    assert heads(world) <= {"gate-2", "fog-1", "cloud-1"}


def test_heads_need_memory():
    world = campus()
    assert world.core is not None
    tight = world.nodes["gate-1"]
    world.core.on_announce(world.now, Announce("gate-1", tight.nonce, replace(tight.profile, memory_free_bytes=100_000_000)))
    world.submit(**FOG, resources={"memory_mb": 300})
    world.run(2.0)
    assert world.status()["state"] == "running"
    assert "gate-1" not in heads(world)


def says(world: World, name: str, **changed: Any) -> None:
    """The node announces other facts."""
    assert world.core is not None
    stand_in = world.nodes[name]
    world.core.on_announce(world.now, Announce(name, stand_in.nonce, replace(stand_in.profile, **changed)))
    world.run(2.0)


def test_heads_on_one_node_add_up_their_memory():
    """300 MB for one head, 350 for two."""
    world = campus()
    says(world, "fog-1", memory_free_bytes=340_000_000)
    world.submit(**FOG, resources={"memory_mb": 300}, topology={"layers": [{"on": "fog", "size": 3}]})
    world.run(2.0)
    assert world.status()["line"] == "waiting for nodes: topology.layers[0]: 1 of 2 clusters have a head that has room"
    says(world, "fog-1", memory_free_bytes=360_000_000)
    assert world.status()["state"] == "running"
    assert [place for task, place in places(world).items() if task.startswith("aggregator")] == ["fog-1", "fog-1"]


def test_a_head_and_the_data_of_its_node_add_up_their_memory():
    """400 MB for one task, 550 for two; 537 are free."""
    world = campus()
    world.submit(**FOG, resources={"memory_mb": 400}, topology={"layers": [{"size": 3}]})
    world.run(2.0)
    line = "topology.layers[0]: 0 of 6 members may head a cluster, 1 is needed (pi-11, pi-12 and 4 more: 550 MB needed, 537 MB free)"
    assert world.status()["line"] == f"waiting for nodes: {line}"
    for name in ("pi-11", "pi-23"):
        says(world, name, memory_free_bytes=560_000_000, memory_bytes=1 << 30)
    assert world.status()["state"] == "running"
    assert heads(world) == {"pi-11", "pi-23"}


def test_a_head_moves_to_a_node_that_has_room_for_it_beside_its_other_tasks():
    world = campus()
    world.submit(**FOG, resources={"memory_mb": 500})
    world.run(2.0)
    head = next(task for task, place in places(world).items() if place == "gate-1")
    for name in ("pi-11", "pi-12", "pi-13", "gate-2"):  # of the same site, or the same tier: first choices
        says(world, name, memory_free_bytes=240_000_000)
    world.kill("gate-1")
    world.run(world.rules.orphan_after_s + world.rules.move_after_s + 2.0)
    assert world.live()[head] == "pi-21", "another 250 MB"


NAMED = {"parents": {"pi-11": "gate-1", "pi-12": "gate-1", "gate-1": "cloud-1"}}


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ({"placement": {"tier": ["fog", "cloud"]}}, "gate-1: not of tier fog or cloud (placement)"),
        ({"resources": {"memory_mb": 500}}, "gate-1: 500 MB needed, 300 MB free"),
        ({"topology": {"parents": {"pi-11": "gate-9", "pi-12": "gate-9"}}}, "gate-9: never seen"),
        ({"topology": {"parents": {"pi-11": "gate-9", "gate-9": "gate-8", "gate-8": "cloud-1"}}}, "gate-9, gate-8: never seen"),
        ({"placement": {"tier": ["edge"]}}, "cloud-1: not of tier edge (placement)"),
    ],
)
def test_a_named_head_is_refused_like_any_node(job: dict[str, Any], why: str):
    world = campus()
    says(world, "gate-1", memory_free_bytes=300_000_000)
    world.submit(**{**FOG, "topology": NAMED, **job})
    world.run(2.0)
    assert world.status()["line"] == f"waiting for nodes: topology.parents: {why}"
    plan = world.ask("job.plan", spec={"name": "x", "model": {"name": "mlp"}, **FOG, "topology": NAMED, **job})
    assert plan.exit_code and plan.error == f"nobody could run it now: topology.parents: {why}"


def test_a_job_begins_once_the_heads_that_it_names_can_take_their_tasks():
    world = campus()
    world.body("node.drain", node="cloud-1")
    world.kill("gate-1")
    world.run(30.0)
    world.submit(**FOG, topology=NAMED)
    world.run(2.0)
    assert world.status()["line"] == "waiting for nodes: topology.parents: cloud-1: draining"
    world.body("node.drain", node="cloud-1", undo=True)
    world.run(3.0)
    assert world.status()["line"].startswith("waiting for nodes: topology.parents: gate-1: offline: ")
    world.boot("gate-1")
    world.run(3.0)
    assert world.status()["state"] == "running"
    assert heads(world) == {"gate-1"}


def test_a_named_head_that_owns_data_needs_room_for_both():
    world = campus()
    world.submit(**FOG, resources={"memory_mb": 400}, topology={"parents": {"pi-11": "pi-12", "pi-13": "pi-12"}})
    world.run(2.0)
    assert world.status()["line"] == "waiting for nodes: topology.parents: pi-12: 550 MB needed, 537 MB free"


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([{"on": "cloud"}], "waiting for nodes: topology.layers[0]: 0 nodes of tier cloud may head its clusters, 1 is needed"),
        ([{"on": "edge", "size": 6}, {"on": "fog"}, {"on": "fog"}], "waiting for nodes: topology.layers[2]: 1 member, 2 are needed for a cluster"),
    ],
)
def test_layers_that_the_fleet_cannot_satisfy_are_a_reason_to_wait(layers: list[dict[str, Any]], why: str):
    world = campus()
    world.submit(**FOG, topology={"layers": layers})
    world.run(2.0)
    assert world.status()["line"] == why
    plan = world.ask("job.plan", spec={"name": "x", "model": {"name": "mlp"}, "topology": {"layers": layers}, **FOG})
    assert plan.exit_code and why.removeprefix("waiting for nodes: ") in plan.error


def test_a_layer_says_why_the_nodes_of_its_tier_do_not_head_it():
    world = campus()
    world.body("node.drain", node="fog-1")
    world.submit(**FOG, topology={"layers": [{"on": "fog"}]})
    world.run(2.0)
    assert world.status()["line"].endswith("0 nodes of tier fog may head its clusters, 1 is needed (fog-1: draining)")
    world.body("node.drain", node="fog-1", undo=True)
    world.run(3.0)
    assert world.status()["state"] == "running"
    assert heads(world) == {"fog-1"}


def test_a_busy_head_is_waited_for():
    world = campus()
    world.submit(name="first", nodes={"select": {"names": ["fog-1"]}})
    world.run(2.0)
    world.submit(name="second", **FOG, topology={"layers": [{"on": "fog"}]})
    world.run(2.0)
    assert "busy with first" in world.status("second")["line"]
