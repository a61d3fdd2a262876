"""The tree of a job: which nodes head clusters, and who belongs to whom. Pure.

Three ways to a tree: `topology.parents` names every inner node; `topology.layers` says on which tier each layer's heads run, and how
large clusters are; without either it follows from what the nodes announced: every tier above the data nodes, up to the cloud, is a
layer, and where members of several sites would meet at the root each site gets a head of its own (D2D stays inside a site).

A cluster holds nodes of one site where it can. Its head is the best connected node that may take it; several clusters of a layer take
turns. A cluster of one is none: the member hangs one layer higher.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from fog_common.ids import CLOUD_SITE, TIERS
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node
from fog_learning.job.sections import Layer, Topology
from fog_learning.methods.base import Role

ROOT: Final = -1
MEMBER: Final = "member"
"""Tier of the heads of a layer: one of the cluster itself."""


class Head(Struct):
    """An inner node of the tree."""

    node: str
    layer: int
    """1: its members own data (or some of them do)."""
    home: tuple[str, str]
    """(site, tier) where it belongs."""
    parent: int = ROOT
    """Index in Tree.heads."""


class LackingNodes(Struct, frozen=True):
    """A layer of `topology.layers` that the fleet cannot satisfy."""

    on: str
    """Tier of its heads, or MEMBER; '': not the heads are missing."""
    text: str
    """'layers[1]: 0 nodes of tier fog may head its clusters, 1 is needed'."""


class Tree(Struct):
    heads: list[Head]
    parents: list[int]
    """Of each roster slot: index in heads, or ROOT."""
    lacking: LackingNodes | None = None
    """The first layer that is not possible."""
    limits: dict[str, int] = {}
    """Node -> most clusters that it has room to head; a node that is not named here has room for any number."""
    headless: int = 0
    """Clusters that no node has room to head: their members hang one layer higher."""

    def has_room(self, node: Node) -> bool:
        """Whether the node may head one more cluster."""
        most = self.limits.get(node.node)
        return most is None or sum(head.node == node.node for head in self.heads) < most


class _Unit(Struct):
    """A roster slot, or the head of a cluster further down: what a layer makes clusters of."""

    node: str
    site: str
    slot: int = -1
    head: int = -1


def connected(node: Node) -> tuple[Any, ...]:
    """Sorts the best connected first: rate, then round trip, then mains power, memory, name. What was not measured comes last."""
    profile = node.profile
    rtt = profile.rtt_s if profile.rtt_s is not None else float("inf")
    return (-(profile.bandwidth_bytes_s or 0.0), rtt, profile.battery is not None, -profile.memory_bytes, node.node)


# -- a new tree ----------------------------------------------------------------------------


def plan(
    topology: Topology,
    roster: Sequence[str],
    nodes: Mapping[str, Node],
    usable: Collection[str],
    root: str,
    limits: Mapping[str, int] = {},
) -> Tree:
    """nodes: all that are known. usable: names of those that may head a cluster. root: the node of the job's root task. limits: see Tree.

    The heads of `topology.parents` are those named there, whatever `usable` and `limits` say.
    """
    if topology.parents:
        return _named(topology.parents, roster, nodes, root)
    tree = Tree([], [ROOT] * len(roster), limits=dict(limits))
    units = [_Unit(name, site_of(name, nodes), slot=slot) for slot, name in enumerate(roster)]
    fit = [nodes[name] for name in sorted(usable) if name in nodes and name != root]
    layers = topology.layers if topology.layers is not None else _announced(roster, nodes, fit)
    for number, layer in enumerate(layers, 1):
        if topology.layers is not None:
            tree.lacking = _lacking(units, layer, number, fit)
            if tree.lacking is not None:
                return tree
        units = _cluster(tree, units, layer, number, fit)
        if topology.layers is not None and tree.headless:
            made = sum(head.layer == number for head in tree.heads)
            tree.lacking = LackingNodes(layer.on, f"layers[{number - 1}]: {made} of {made + tree.headless} clusters have a head that has room")
            return tree
    if topology.layers is None and len({unit.site for unit in units}) > 1:
        _per_site(tree, units, fit, len(layers) + 1)
    return tree


def site_of(name: str, nodes: Mapping[str, Node]) -> str:
    return nodes[name].profile.site if name in nodes else "home"


def _announced(roster: Sequence[str], nodes: Mapping[str, Node], fit: Iterable[Node]) -> list[Layer]:
    """A layer for each tier above the lowest that owns data."""
    lowest = min((rank(nodes[name].profile.tier) for name in roster if name in nodes), default=0)
    here = {node.profile.tier for node in fit}
    return [Layer(on=tier) for tier in ("edge", "fog") if tier in here and rank(tier) > lowest]


def rank(tier: str) -> int:
    return TIERS.index(tier) if tier in TIERS else 0


def _lacking(units: Sequence[_Unit], layer: Layer, number: int, fit: Sequence[Node]) -> LackingNodes | None:
    """Why a layer that the job asks for has no cluster; None: it has one."""
    name = f"layers[{number - 1}]"
    if len(units) < 2:
        return LackingNodes("", f"{name}: {len(units)} member{'' if len(units) == 1 else 's'}, 2 are needed for a cluster")
    own = {unit.node for unit in units}
    if layer.on == MEMBER and not any(node.node in own for node in fit):
        return LackingNodes(MEMBER, f"{name}: 0 of {len(own)} members may head a cluster, 1 is needed")
    if layer.on != MEMBER and not any(node.profile.tier == layer.on for node in fit):
        return LackingNodes(layer.on, f"{name}: 0 nodes of tier {layer.on} may head its clusters, 1 is needed")
    return None


def _cluster(tree: Tree, units: list[_Unit], layer: Layer, number: int, fit: Sequence[Node]) -> list[_Unit]:
    """One layer: the units that remain for the next one."""
    heads = sorted((node for node in fit if node.profile.tier == layer.on), key=connected)
    above: list[_Unit] = []
    alone: list[_Unit] = []
    taken: dict[str, int] = {}
    for site in sorted({unit.site for unit in units}):
        group = [unit for unit in units if unit.site == site]
        local = [node for node in heads if node.profile.site == site]
        if len(group) > 1 and (local or number == 1 or not heads):  # the lowest clusters are those of sites, wherever their heads are
            above += _head(tree, group, layer, number, local or heads, bool(local), fit, taken)
        else:
            alone += group
    if heads and len(alone) > 1:  # without a head at their site: they meet elsewhere
        above += _head(tree, alone, layer, number, heads, True, fit, taken)
    else:
        above += alone
    return above


def _head(
    tree: Tree, units: list[_Unit], layer: Layer, number: int, heads: Sequence[Node], spread: bool, fit: Sequence[Node], taken: dict[str, int]
) -> list[_Unit]:
    """Clusters of these units. spread: over all heads, when the layer gives no size; else they stay one cluster."""
    many = -(-len(units) // layer.size) if layer.size else max(1, min(len(heads), len(units) // 2)) if spread and heads else 1
    found = []
    for members in _even(units, many):
        if len(members) < 2:
            found += members
            continue
        own = {unit.node for unit in members}
        choice = [node for node in heads or (node for node in fit if node.node in own) if tree.has_room(node)]
        if not choice:
            tree.headless += 1
            found += members
            continue
        node = min(choice, key=lambda each: (taken.get(each.node, 0), connected(each)))
        taken[node.node] = taken.get(node.node, 0) + 1
        found.append(_put(tree, members, node, number))
    return found


def _put(tree: Tree, members: Iterable[_Unit], node: Node, number: int) -> _Unit:
    index = len(tree.heads)
    tree.heads.append(Head(node.node, number, (node.profile.site, node.profile.tier)))
    for unit in members:
        if unit.slot >= 0:
            tree.parents[unit.slot] = index
        else:
            tree.heads[unit.head].parent = index
    return _Unit(node.node, node.profile.site, head=index)


def _per_site(tree: Tree, units: list[_Unit], fit: Sequence[Node], number: int) -> None:
    """The members of each site meet at the best connected of them."""
    for site in sorted({unit.site for unit in units} - {CLOUD_SITE}):
        members = [unit for unit in units if unit.site == site]
        own = {unit.node for unit in members}
        choice = [node for node in fit if node.node in own and tree.has_room(node)]
        if len(members) > 1 and choice:
            _put(tree, members, min(choice, key=connected), number)


def _even(units: list[_Unit], many: int) -> list[list[_Unit]]:
    """Cut into `many` runs whose sizes differ by at most one."""
    size, longer = divmod(len(units), many)
    cuts = [i * size + min(i, longer) for i in range(many + 1)]
    return [units[a:b] for a, b in itertools.pairwise(cuts)]


# -- a tree with names ---------------------------------------------------------------------


def named_root(topology: Topology, nodes: Mapping[str, Node]) -> str:
    """The node on which the user wants the root: the one cloud node at the top of `parents`; '' if it is not said."""
    tops = sorted(set(topology.parents.values()) - topology.parents.keys())
    clouds = [name for name in tops if name in nodes and nodes[name].profile.tier == "cloud"]
    return clouds[0] if len(tops) == 1 and clouds else ""


def _named(parents: Mapping[str, str], roster: Sequence[str], nodes: Mapping[str, Node], root: str) -> Tree:
    """A node named as a parent heads a cluster if a node with data is below; a data node that heads a cluster belongs to it."""
    inner = set(parents.values()) - {root}
    above = {name: name if name in inner else parents.get(name, root) for name in roster}
    depth: dict[str, int] = {}
    for name in roster:
        head, height = above[name], 1
        while head in inner:
            depth[head] = max(depth.get(head, 0), height)
            head, height = parents.get(head, root), height + 1
    order = sorted(depth, key=lambda name: (depth[name], name))
    index = {name: number for number, name in enumerate(order)}
    heads = []
    for name in order:
        known = nodes.get(name)
        home = (known.profile.site, known.profile.tier) if known else ("home", "edge")
        heads.append(Head(name, depth[name], home, index.get(parents.get(name, root), ROOT)))
    return Tree(heads, [index.get(above[name], ROOT) for name in roster])


# -- seats ---------------------------------------------------------------------------------


def grow(seats: list[Seat], roles: Sequence[Role], tree: Tree, nodes: Mapping[str, Node], root_task: str) -> list[Seat]:
    """The job's seats with those of its tree: a task of every layer role on every head, and everybody's parent."""
    ids: list[str] = []
    count: dict[int, int] = {}
    for head in tree.heads:
        count[head.layer] = count.get(head.layer, 0) + 1
        ids.append(f"{head.layer}-{count[head.layer]}")
    names = [f"{roles[0].name}-{each}" for each in ids] if roles else []

    def task(index: int) -> str:
        return names[index] if index != ROOT else root_task

    for seat in seats:
        if seat.slot >= 0:
            seat.parent = task(tree.parents[seat.slot])
    for number, head in enumerate(tree.heads):
        site, tier = (nodes[head.node].profile.site, nodes[head.node].profile.tier) if head.node in nodes else head.home
        for role in roles:
            seat = Seat(f"{role.name}-{ids[number]}", role.name, -1, head.node, site, tier, stateful=role.stateful, parent=task(head.parent))
            seat.home, seat.layer = head.home, head.layer
            seats.append(seat)
    return sorted(seats, key=lambda seat: (seat.slot, seat.role))


def cluster_of(job: Job, site: str, tier: str, root_task: str) -> str:
    """The task to which a data node that comes to this site belongs: that of most data nodes of its site and tier, else a head at its
    site, else the root."""
    count: dict[tuple[bool, str], int] = {}
    inner = {seat.task for seat in job.seats if seat.home[0]}
    for seat in job.seats:
        if seat.slot >= 0 and seat.site == site and seat.parent in inner:
            key = (seat.tier == tier, seat.parent)
            count[key] = count.get(key, 0) + 1
    if count:
        return min(count, key=lambda key: (not key[0], -count[key], key[1]))[1]
    local = sorted(seat.task for seat in job.seats if seat.home[0] == site and any(other.parent == seat.task for other in job.seats))
    return local[0] if local else root_task


def successor(job: Job, seat: Seat, candidates: Iterable[Node], holder: str = "") -> Node | None:
    """The node that takes a head's task over: of its own site and tier first, then of its site, then of its tier; not one that heads
    another cluster if it can be avoided; `holder` (it has the newest Save), then the best connected."""
    heads = {other.node for other in job.seats if other.home[0] and other.task != seat.task}
    site, tier = seat.home

    def order(node: Node) -> tuple[Any, ...]:
        profile = node.profile
        cloud = profile.tier == "cloud" and tier != "cloud"  # where everything else failed
        return (cloud, profile.site != site, profile.tier != tier, node.node in heads, node.node != holder, connected(node))

    return min(candidates, key=order, default=None)
