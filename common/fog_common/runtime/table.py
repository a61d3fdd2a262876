"""A placement of the coordinator as the host of one node reads it: the node of each task, the tasks of this node, the buddies."""

from __future__ import annotations

from fog_common.runtime import rewind
from fog_common.runtime.machine import Peer
from fog_common.transfer.endpoint import Address
from fog_common.wire.messages import Placement


class Table:
    """Immutable: a newer view is a new table. A host begins with an empty table of view 0."""

    def __init__(self, me: Address, incarnation: int, placement: Placement | None = None) -> None:
        """me, incarnation: address and incarnation of this node's worker of the job."""
        self.placement = placement if placement is not None else Placement("", 0, "", ())
        self.peers = {peer.task: peer for peer in self.placement.tasks}
        """All tasks of the job by name, including those whose node is gone."""
        self._me = me
        self._incarnation = incarnation
        self._incarnations = {peer.node: peer.incarnation for peer in self.placement.tasks if peer.live}

    @property
    def view(self) -> int:
        return self.placement.view

    @property
    def root(self) -> str:
        return self.placement.root

    @property
    def limit(self) -> int | None:
        """The newest label at which a task may begin; None: any."""
        return rewind.limit(self.placement)

    def live(self) -> tuple[Peer, ...]:
        return tuple(peer for peer in self.peers.values() if peer.live)

    def mine(self, task: str) -> bool:
        peer = self.peers.get(task)
        return peer is not None and peer.node == self._me.node and peer.incarnation == self._incarnation

    def is_silent(self, task: Peer) -> bool:
        """Whether the table counts a task of this node as gone; the task goes on, and may be live again unchanged."""
        peer = self.peers.get(task.task)
        return peer is not None and not peer.live and (peer.node, peer.since) == (self._me.node, task.since)

    def of_role(self, role: str) -> list[str]:
        """Tasks of that role on this node."""
        return [peer.task for peer in self.peers.values() if peer.role == role and peer.node == self._me.node]

    def roles(self) -> set[str]:
        """Roles of this node's tasks."""
        return {peer.role for peer in self.peers.values() if peer.node == self._me.node}

    def incarnation(self, node: str) -> int:
        """Incarnation of the node's live worker; 0 if it has none."""
        return self._incarnations.get(node, 0)

    def buddy(self, task: str) -> str:
        """The other node that keeps copies of the task's Saves; '' if none does."""
        buddy = self.placement.buddies.get(task, "")
        return "" if buddy == self._me.node else buddy

    def source(self, task: str) -> str:
        """The other node that may have the task's newest Save; '' if there is none."""
        source = self.placement.fetch.get(task, "")
        return "" if source == self._me.node else source

    def address(self, peer: Peer) -> Address:
        return Address(peer.node, peer.site, peer.tier, self._me.kind)

    def address_of(self, node: str) -> Address | None:
        """Address of that node's host; None if the table does not name the node."""
        peer = next((peer for peer in self.peers.values() if peer.node == node), None)
        if peer is not None:
            return self.address(peer)
        place = self.placement.places.get(node)
        return Address(node, *place, self._me.kind) if place else None
