"""Facts of nodes and links between nodes: one type each for profile, peer table, placement and simulator. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

Rate = Annotated[float, Meta(gt=0)]


class NodeLink(Struct, frozen=True, kw_only=True):
    """The link of a node to its broker. None: unknown."""

    rtt_s: float | None = None
    """To the broker and back."""
    bandwidth_bytes_s: float | None = None
    """Each way."""
    byte_j: float | None = None
    """Joules of a byte at the node's interface, as its energy model is configured."""

    @classmethod
    def of(cls, facts: NodeLink) -> NodeLink:
        """The link alone, out of all that is known of a node."""
        return cls(**{name: getattr(facts, name) for name in NodeLink.__struct_fields__})


class Link(Struct, frozen=True):
    """The way from one node to another."""

    latency_s: Annotated[float, Meta(ge=0)]
    """One way."""
    bytes_per_s: Rate
    """Of the slowest hop."""
    relay_bytes_per_s: Rate | None = None
    """Of the faster hop, where a relay takes in a chunk before it passes the chunk on; None: no relay."""


INSIDE: Final = Link(0.0, math.inf)
"""From a node to itself."""


class NodeFacts(NodeLink, frozen=True):
    """Facts of a node that decide where tasks go and what they cost. None, '' and 0 mean unknown."""

    tier: str
    site: str
    cores: int = 1
    memory_bytes: int = 0
    memory_free_bytes: int = 0
    torch: bool = False
    """A torch worker can run here."""
    flops: float | None = None
    """FLOP/s on the standard op."""
    op_s: float | None = None
    """Seconds of an op's overhead, whatever its size."""
    battery: float | None = None
    """Charge, 0 to 1."""
    idle_w: float | None = None
    """Power at rest, as configured for the energy model."""
    core_w: float | None = None
    """Of a busy core more."""
    datasets: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    links: dict[str, Link] = {}
    """Node -> the way there, where the way over the broker does not describe it."""


class Links:
    """Links between nodes: a sparse matrix. A pair without an entry has the way over the broker, made of the links of both nodes.

    Memory grows with the nodes and the entries, never with the pairs.
    """

    def __init__(self, nodes: Mapping[str, NodeLink], entries: Mapping[tuple[str, str], Link] = {}, *, usual: NodeLink) -> None:
        """nodes: by id. entries: (sender, receiver) -> link, for that direction only. usual: for what is unknown of a node's link."""
        self._usual = _hop(usual, usual)
        self._hops = {name: _hop(link, usual) for name, link in nodes.items()}
        self._entries = dict(entries)

    @classmethod
    def of(cls, facts: Iterable[tuple[str, NodeFacts | None]], *, usual: NodeLink) -> Links:
        """facts: (node, its facts or None for one that was never seen); entries are the `links` that nodes name."""
        known = {name: each for name, each in facts if each is not None}
        return cls(known, {(name, other): link for name, each in known.items() for other, link in each.links.items()}, usual=usual)

    def between(self, sender: str, receiver: str) -> Link:
        """The way from one node to another; INSIDE for one node. A node that is not known has the usual link."""
        if sender == receiver:
            return INSIDE
        if (entry := self._entries.get((sender, receiver))) is not None:
            return entry
        (one, rate), (other, its_rate) = self._hops.get(sender, self._usual), self._hops.get(receiver, self._usual)
        return Link((one + other) / 2, rate, its_rate) if rate <= its_rate else Link((one + other) / 2, its_rate, rate)

    def direct(self, pairs: Iterable[tuple[str, str]]) -> list[Link]:
        """Entries of those (sender, receiver) that have one: their bytes do not pass the nodes' links to the broker."""
        return [self._entries[pair] for pair in pairs if pair in self._entries] if self._entries else []


def _hop(link: NodeLink, usual: NodeLink) -> tuple[float, float]:
    """(round trip in s, B/s), with the usual figures for unknown ones."""
    rtt_s = link.rtt_s if link.rtt_s is not None else usual.rtt_s or 0.0
    return rtt_s, link.bandwidth_bytes_s or usual.bandwidth_bytes_s or math.inf
