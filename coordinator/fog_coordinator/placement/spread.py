"""Nodes of several free tasks where nothing is priced: each task on its best node, all of them within the memory of their nodes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fog_coordinator.placement.free import MOST_ASSIGNMENTS, FreeTask, worker_bytes
from fog_coordinator.placement.greedy import room_for_all
from fog_coordinator.placement.places import free_bytes
from fog_coordinator.placement.simple import rank
from fog_coordinator.state.nodes import Node


def spread(
    tasks: Sequence[FreeTask], open_to: Mapping[str, Sequence[Node]], data_nodes: Sequence[str], needs: Mapping[str, int], data_need: int
) -> tuple[dict[str, Node], str]:
    """(node of each free task, ''), or ({}, what is missing): each on the best node that is open to it, several of a tier side by side.

    needs: role -> bytes of a worker; {} = memory does not count here. data_need: bytes of the data task on each of data_nodes. A task that
    finds no room beside those placed before it makes all of them move together: exact up to MOST_ASSIGNMENTS assignments.
    """
    chosen: dict[str, Node] = {}
    there = _Rooms(tasks, needs, dict.fromkeys(data_nodes, data_need) if data_need else {})
    for task in tasks:
        open_nodes = open_to[task.task]
        if not open_nodes:
            return {}, f"no node could run {task.task}"
        roomy = [node for node in open_nodes if there.fits({**chosen, task.task: node}, node)]
        if not roomy:
            return (together, "") if (together := _together(tasks, open_to, data_nodes, there)) else ({}, there.lack(task, chosen, open_nodes))
        chosen[task.task] = min(roomy, key=lambda node: rank(node, data_nodes, tasks=sum(other.node == node.node for other in chosen.values())))
    return chosen, ""


class _Rooms:
    """The memory of nodes beside what the tasks of one job need of it."""

    def __init__(self, tasks: Sequence[FreeTask], needs: Mapping[str, int], owned: Mapping[str, int]) -> None:
        """owned: node -> bytes of the data task there."""
        self.needs = {task.task: needs.get(task.role.name, 0) for task in tasks}
        self.owned = owned

    def need(self, chosen: Mapping[str, Node], node: Node) -> int:
        """Bytes of the worker on a node; 0 if no task there counts memory."""
        needs = [self.needs[task] for task, place in chosen.items() if place.node == node.node and self.needs[task]]
        return worker_bytes([*needs, *([self.owned[node.node]] if node.node in self.owned else [])]) if needs else 0

    def fits(self, chosen: Mapping[str, Node], node: Node) -> bool:
        free = free_bytes(node)
        return free is None or self.need(chosen, node) <= free

    def all_fit(self, chosen: Mapping[str, Node]) -> bool:
        return all(self.fits(chosen, node) for node in {node.node: node for node in chosen.values()}.values())

    def lack(self, task: FreeTask, chosen: Mapping[str, Node], nodes: Sequence[Node]) -> str:
        """Why no node has room for the task beside those chosen, with the numbers of the largest one."""
        largest = max(nodes, key=lambda node: (free_bytes(node) or 0, node.node))
        need = self.need({**chosen, task.task: largest}, largest)
        return f"{task.task} needs {need / 1e6:.0f} MB, largest free is {(free_bytes(largest) or 0) / 1e6:.0f} MB on {largest.node}"


def _together(tasks: Sequence[FreeTask], open_to: Mapping[str, Sequence[Node]], data_nodes: Sequence[str], rooms: _Rooms) -> dict[str, Node] | None:
    """Nodes on which all tasks have room, the best first."""
    names = sorted((task.task for task in tasks), key=lambda name: -rooms.needs[name])
    places = {name: sorted(open_to[name], key=lambda node: rank(node, data_nodes)) for name in names}
    return room_for_all(names, places, rooms.all_fit, 2 * MOST_ASSIGNMENTS)
