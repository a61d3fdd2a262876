"""Simple placement: data tasks on the nodes that own the slots, the free ones on the best cloud nodes. Pure.

No hidden minimum: without a cloud node the best node without data takes the free tasks, and without any of those a data node does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from fog_common.ids import TIERS
from fog_coordinator.placement.free import FreeTask
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node
from fog_learning.job.sections import Nodes
from fog_learning.methods.base import Method


def matching(nodes: Nodes, fleet: Iterable[Node]) -> list[Node]:
    """Known nodes that the job's `nodes.select` admits, in order of their names."""
    select = nodes.select
    return [
        node
        for node in fleet
        if (node.node in select.names if select.names else not select.tier or node.profile.tier in select.tier)
        and (not select.site or node.profile.site in select.site)
    ]


def roster(nodes: Nodes, usable: Sequence[Node], busy: Collection[str] = ()) -> tuple[list[str], str]:
    """(node of each slot, ''), or ([], what is missing). usable: nodes that match `nodes` and may take a slot. Named ones need not be known."""
    if nodes.select.names and nodes.count is None:
        return sorted(nodes.select.names), ""
    if nodes.count is None:
        return ([node.node for node in usable], "") if usable else ([], f"no node online that is {described(nodes)}")
    if len(usable) < nodes.count:
        return [], f"{len(usable)} of {nodes.count} nodes that are {described(nodes)}"
    chosen = sorted(usable, key=lambda node: (not node.online, node.node in busy, node.node))
    return sorted(node.node for node in chosen[: nodes.count]), ""


def described(nodes: Nodes) -> str:
    """'of tier thing or edge, of site hall-2': what nodes.select asks for, for a person."""
    select = nodes.select
    parts = [f"named {', '.join(select.names)}"] if select.names else [f"of tier {' or '.join(select.tier)}"] if select.tier else []
    if select.site:
        parts.append(f"of site {' or '.join(select.site)}")
    return ", ".join(parts) or "of any kind"


def best(candidates: Iterable[Node], data_nodes: Collection[str], holder: str = "", site: str = "") -> Node | None:
    """The node for a free task: of `site` (where it is now), then by `rank`. None if there is no candidate."""
    return min(candidates, key=lambda node: (bool(site) and node.profile.site != site, *rank(node, data_nodes, holder)), default=None)


def rank(node: Node, data_nodes: Collection[str], holder: str = "", tasks: int = 0) -> tuple[Any, ...]:
    """Sorts the best node for a free task first: tier cloud, then nodes without data, the mightiest tier, torch, `holder` (it has the task's
    newest Save), the fewest free tasks of the job, most free memory."""
    profile = node.profile
    return (
        profile.tier != "cloud",
        node.node in data_nodes,
        -TIERS.index(profile.tier) if profile.tier in TIERS else 0,
        not profile.torch,
        node.node != holder,
        tasks,
        -profile.memory_free_bytes,
        node.node,
    )


def seats(method: Method, tasks: Sequence[FreeTask], nodes: list[str], profiles: Mapping[str, Node], places: Mapping[str, Node]) -> list[Seat]:
    """One seat per task; tasks: the free ones, places: their nodes. Ids of data tasks: role-slot. Those of the tree: placement.tree."""
    result: list[Seat] = []
    root = next(role for role in method.roles if role.name == method.root)
    root_task = f"{root.name}-0" if root.bound == "slot" else next((task.task for task in tasks if task.role.name == root.name), root.name)
    for role in method.roles:
        if role.bound == "slot":
            for slot, name in enumerate(nodes):
                result.append(data_seat(role.name, slot, name, profiles.get(name), role.stateful, root_task))
    for task in tasks:
        node, role = places.get(task.task), task.role
        if node is not None:
            profile = node.profile
            seat = Seat(task.task, role.name, -1, node.node, profile.site, profile.tier, stateful=role.stateful, parent=root_task)
            seat.index = task.index
            result.append(seat)
    for seat in result:
        if seat.task == root_task:
            seat.parent = ""
    return sorted(result, key=lambda seat: (seat.slot, seat.role, seat.index))


def data_seat(role: str, slot: int, node: str, known: Node | None, stateful: bool, parent: str) -> Seat:
    """A node that was never seen gets the first tier and site that it announces."""
    site, tier = (known.profile.site, known.profile.tier) if known else ("home", "edge")
    return Seat(f"{role}-{slot}", role, slot, node, site, tier, stateful=stateful, parent=parent)


def buddies(job: Job, usable: Collection[str]) -> dict[str, str]:
    """For each stateful task another node of the job that keeps a copy of its Saves; a known buddy stays while it is usable.

    usable: nodes of the job that run a live task of it. Same site first, then the same tier, then who has the fewest copies.
    """
    chosen: dict[str, str] = {}
    load: dict[str, int] = {}
    nodes = {seat.node: seat for seat in job.seats if seat.node in usable}
    for seat in job.seats:
        others = [node for node in nodes if node != seat.node]
        if not seat.stateful or not others:
            continue
        old = job.buddies.get(seat.task, "")
        buddy = old if old in others else min(others, key=lambda n: (nodes[n].site != seat.site, nodes[n].tier != seat.tier, load.get(n, 0), n))
        chosen[seat.task] = buddy
        load[buddy] = load.get(buddy, 0) + 1
    return chosen
