"""The nodes of the fleet and their state. Pure: events in, answers out.

A node is *online* while its connection (named by a nonce) is known and a message came lately; *unknown* after a restart of the
coordinator, until its first message or a long silence: tasks on an unknown node count as running.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from fog_common.facts import NodeFacts
from fog_common.ids import CLOUD_SITE, is_id
from fog_common.wire.api.states import OFFLINE, ONLINE, UNKNOWN
from fog_common.wire.messages import Announce, Heartbeat, Presence, Profile, WorkerState
from fog_coordinator.state.counts import Totals
from fog_coordinator.state.effects import Row
from fog_coordinator.state.jobs import Reading

MAX_STRANGERS: Final = 1024
FIRST_SITES: Final = (CLOUD_SITE, "home")
"""Sites at which a node that never announced itself is asked, beside the known sites."""
SPEED_GAUGES: Final = {"flops": "flops_per_second", "op_s": "op_overhead_seconds"}
"""Fact -> gauge of a worker that has measured it."""


class NodeRow(Struct, frozen=True):
    """Row of a node in the journal."""

    node: str
    profile: Profile
    drain: bool = False
    totals: Totals = field(default_factory=Totals)
    spoke_at: float = 0.0


class Node(Struct):
    node: str
    profile: Profile
    drain: bool = False
    """An operator drains the node, until the drain is undone."""
    goodbye: bool = False
    """The agent wants to leave, until it announces itself on another connection."""
    leaving_since: float = 0.0
    """Time of the drain or goodbye; 0: unknown."""
    nonce: str = ""
    state: str = UNKNOWN
    since: float = 0.0
    """Time at which the node entered its state."""
    why: str = ""
    """Reason of being offline."""
    gone_at: float = 0.0
    """Offline: time of the last sign of the node."""
    heard_at: float = 0.0
    """Start of its silence: the last message, or the moment from which the coordinator could hear one."""
    spoke_at: float = 0.0
    """Time of the last message of the node itself; 0: none is known."""
    kept_at: float = 0.0
    """`spoke_at` in the journal."""
    reported_at: float = 0.0
    """Time of the last heartbeat."""
    uptime_s: float = 0.0
    held: bool = True
    """This connection has sent no heartbeat yet: `workers` are those of an earlier connection."""
    workers: dict[str, WorkerState] = {}
    """job -> its worker on this node, from the last heartbeat."""
    desired_heard: int = 0
    """Number of the last Desired that the node has applied."""
    number: int = 0
    """Number of the last Desired sent; 0: none by this process."""
    told: tuple[tuple[tuple[str, int], ...], bool] | None = None
    """Content of the last Desired: ((job, view) …), release."""
    told_at: float = 0.0
    """Time of the last Desired."""
    unsent: str = ""
    """Reason for which the last Desired could not be sent; '' if it was sent."""
    gauges: dict[str, float] = {}
    counters: dict[str, float] = {}
    energy_j: dict[str, float] = {}
    reading: Reading | None = None
    """Reading of the last heartbeat (see fog_coordinator.accounts.energy)."""
    totals: Totals = field(default_factory=Totals)
    """Sums of the counters of all its successive agents."""

    @property
    def online(self) -> bool:
        return self.state == ONLINE

    @property
    def free_bytes(self) -> int | None:
        """Memory that a new worker could have; None = unknown. The heartbeat's figure is newer than the profile's."""
        free = int(self.gauges.get("memory_free_bytes", 0)) or self.profile.memory_free_bytes
        if not free:
            return None
        return min(free, self.profile.memory_bytes) if self.profile.memory_bytes else free

    @property
    def facts(self) -> NodeFacts:
        """Facts that the agent announced, with newer figures of its workers and heartbeats."""
        speed = {"flops": self.profile.flops, "op_s": self.profile.op_s}
        for name, gauge in SPEED_GAUGES.items():
            speed[name] = next((figure for worker in reversed(self.workers.values()) if (figure := worker.gauges.get(gauge))), speed[name])
        return replace(self.profile, memory_free_bytes=self.free_bytes or 0, **speed)

    @property
    def measured(self) -> dict[str, float]:
        """The node's gauges and the link's bandwidth, as its agent probed it or otherwise as its workers saw it."""
        bandwidth = self.profile.bandwidth_bytes_s
        if bandwidth is None:
            name = "bandwidth_bytes_per_second"
            bandwidth = max((worker.gauges[name] for worker in self.workers.values() if name in worker.gauges), default=None)
        return self.gauges if bandwidth is None else {**self.gauges, "bandwidth_bytes_per_second": bandwidth}

    @property
    def leaving(self) -> bool:
        return self.drain or self.goodbye

    def row(self) -> Row:
        self.kept_at = self.spoke_at
        return Row("nodes", (self.node,), _encoder.encode(NodeRow(self.node, self.profile, self.drain, self.totals, self.spoke_at)))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(NodeRow)


class Registry:
    """Nodes by id. silent_s: seconds of silence after which a node counts as offline."""

    def __init__(self, silent_s: float, rows: list[bytes] | None = None) -> None:
        self.silent_s = silent_s
        self._nodes: dict[str, Node] = {}
        for body in rows or []:
            row = _decoder.decode(body)
            self._nodes[row.node] = Node(row.node, row.profile, row.drain, totals=row.totals, spoke_at=row.spoke_at, kept_at=row.spoke_at)

    def __iter__(self) -> Iterator[Node]:
        """In order of their names."""
        return iter([self._nodes[name] for name in sorted(self._nodes)])

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def begin(self, now: float) -> None:
        """The coordinator can hear from now on: the silence of every node begins now."""
        for node in self._nodes.values():
            node.heard_at = max(node.heard_at, now)
            if node.state == UNKNOWN and not node.since:
                node.since = now

    def presence(self, now: float, presence: Presence) -> Node | None:
        """The node if its state changed; None otherwise. A stale will (of another connection) is ignored."""
        node = self._nodes.get(presence.node)
        if node is None:
            return None
        if presence.online:
            if presence.nonce != node.nonce:
                self._new_connection(node, presence.nonce)
                return node
            if node.state != ONLINE:
                self._online(now, node)
                return node
            node.heard_at = now
            return None
        if (node.nonce and presence.nonce != node.nonce) or node.state == OFFLINE:
            return None
        self._offline(now, node, "its connection ended", now)
        node.nonce = ""  # only a new announcement makes it current again
        return node

    def announce(self, now: float, announce: Announce) -> tuple[Node, bool]:
        """Take over an announcement; returns (the node, whether its row changed)."""
        node = self._nodes.get(announce.node)
        changed = node is None or node.profile != announce.profile
        if node is None:
            node = self._nodes[announce.node] = Node(announce.node, announce.profile)
        if node.nonce != announce.nonce:
            self._new_connection(node, announce.nonce)
        node.profile = announce.profile
        self._online(now, node)
        node.spoke_at = now
        return node, changed

    def heartbeat(self, now: float, beat: Heartbeat) -> Node | None:
        """The node with the facts of the heartbeat; None if it must announce itself first, or a newer heartbeat came before."""
        node = self._nodes.get(beat.node)
        if node is None or not node.nonce or node.nonce != beat.nonce:
            return None
        if beat.uptime_s < node.uptime_s and not node.held:
            return None
        self._online(now, node)
        node.held = False
        node.uptime_s = beat.uptime_s
        node.reported_at = node.spoke_at = now
        node.desired_heard = beat.desired
        node.goodbye = beat.draining
        node.gauges, node.counters = beat.gauges, beat.counters
        node.totals.update(beat.nonce, {"carbon_g": beat.gauges.get("carbon_g", 0.0), **beat.counters})
        return node

    def known(self, beat: Heartbeat) -> bool:
        """Whether the heartbeat comes from the connection that announced itself last."""
        node = self._nodes.get(beat.node)
        return node is not None and bool(node.nonce) and node.nonce == beat.nonce

    def silent(self, now: float) -> list[Node]:
        """Declare nodes offline that are silent for too long, and return them."""
        gone = [node for node in self._nodes.values() if node.state != OFFLINE and now - node.heard_at > self.silent_s]
        for node in gone:
            why = f"nothing heard for {self.silent_s:.0f} s" if node.state == ONLINE else "not heard of since the coordinator's start"
            self._offline(now, node, why, node.heard_at)
        return sorted(gone, key=lambda node: node.node)

    def _new_connection(self, node: Node, nonce: str) -> None:
        node.goodbye = False
        node.nonce = nonce
        node.held = True
        node.uptime_s = 0.0
        node.told = None

    def _online(self, now: float, node: Node) -> None:
        node.heard_at = now
        if node.state != ONLINE:
            node.state, node.since, node.why = ONLINE, now, ""
            if node.held:
                node.told = None

    def _offline(self, now: float, node: Node, why: str, gone_at: float) -> None:
        node.state, node.since, node.why, node.gone_at = OFFLINE, now, why, gone_at
        node.told = None
        node.held = True
        node.goodbye = False


class Strangers:
    """Nodes that must announce themselves before their messages count, each asked at most every `every_s` seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._asked: dict[str, float] = {}

    def ask(self, now: float, name: str, registry: Registry, site: str = "") -> list[str]:
        """Sites at which to ask the node now. site: its own, if its message names one; otherwise the registry's, or all known sites."""
        if now - self._asked.get(name, float("-inf")) < self._every_s:
            return []
        if len(self._asked) >= MAX_STRANGERS:
            self._asked.clear()
        self._asked[name] = now
        if is_id(site):
            return [site]
        known = registry.get(name)
        return [known.profile.site] if known else sorted({*FIRST_SITES, *(node.profile.site for node in registry)})

    def forget(self, name: str) -> None:
        self._asked.pop(name, None)
