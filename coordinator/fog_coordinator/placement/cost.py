"""Cost of one training step on given nodes: seconds, joules, bytes. Pure arithmetic over Demands; everything here is modelled.

    seconds = sum over phases of max over tasks (ops x overhead + FLOPs / FLOP/s  +  transfer)
    transfer = latency + handling + bytes / the slowest hop + one chunk / the faster hop of a relay (fog_common.facts.Links)

A receiver of many takes their bytes one after another over its link. Tasks on one node exchange nothing over the network. Joules:
idle power of every node that takes part over the whole step, busy power while it computes, and joules per byte at both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Final

from fog_common.facts import Links
from fog_learning.costs.demands import Demands, Phase
from fog_learning.costs.objectives import OBJECTIVES, Cost
from fog_learning.costs.place import USUAL_LINK, Place
from fog_learning.job.sections import Placing

CHUNK_BYTES: Final = 256 * 1024
"""Bytes of a chunk: a receiver has the first chunk before the sender has sent the last."""
HANDLING_S: Final = 0.8e-3
"""Of a message in both its workers: frames, checksums, the inbox, the machine."""


def value(cost: Cost, rules: Placing) -> float:
    """The cost that placement minimises, in the unit of the job's objective."""
    return OBJECTIVES[rules.objective].price(cost, rules.weights)


def links_of(places: Iterable[Place]) -> Links:
    """Links between the places, as their nodes announced them."""
    return Links.of(((place.node, place.facts) for place in places), usual=USUAL_LINK)


def transfer_s(size: float, sender: Place, receiver: Place, links: Links) -> float:
    """Seconds from the sender's op to the receiver's machine, on links that nobody else uses."""
    link = links.between(sender.node, receiver.node)
    through = HANDLING_S + link.latency_s + size / link.bytes_per_s
    return through if link.relay_bytes_per_s is None else through + min(size, CHUNK_BYTES) / link.relay_bytes_per_s


def compute_s(phase: Phase, place: Place) -> float:
    return phase.ops * place.op_s + phase.flops / place.flops


def step_cost(demands: Demands, where: Mapping[str, Sequence[Place]], links: Links | None = None) -> Cost:
    """where: role -> places of its tasks, any number of them; a role without a place costs nothing. links: between all places; None: as
    their nodes announced them."""
    walk = _Walk(demands, where, links or links_of(place for places in where.values() for place in places))
    cycles = [walk.phase(phase) for phase in demands.cycle]
    pace = max(cycles, default=0.0) if demands.overlaps else sum(cycles)
    seconds = pace / demands.steps
    share = 1.0 / demands.round_steps
    extra = sum(walk.phase(phase, share) for phase in demands.round)
    seconds += extra * share
    nodes = {place.node: place for places in where.values() for place in places}
    idle = sum(place.idle_w for place in nodes.values()) * seconds
    parts = tuple((name, part) for name, part in walk.parts.items() if part > 0)
    return Cost(seconds, idle + walk.joules, walk.bytes, parts)


class _Walk:
    """Adds up joules and bytes of a step while the phases are timed."""

    def __init__(self, demands: Demands, where: Mapping[str, Sequence[Place]], links: Links) -> None:
        self.demands, self.where, self.links = demands, where, links
        self.joules = self.bytes = 0.0
        self.parts: dict[str, float] = {}

    def phase(self, phase: Phase, share: float | None = None) -> float:
        """Seconds of one phase. share: of it that counts for a step."""
        share = phase.often * (1.0 / self.demands.steps if share is None else share)
        own = self.where.get(phase.role, ())
        if not own:
            return 0.0
        busy = [compute_s(phase, place) for place in own]
        self.joules += share * sum(seconds * place.core_w for seconds, place in zip(busy, own, strict=True))
        others = self.where.get(phase.to, ())
        computing, arrived = self._waited(busy), self._arrivals(phase, own, busy, others, share)
        self._part(f"{phase.role} computes", share * computing)
        if phase.to:
            self._part(f"{phase.role} to {phase.to}", share * (arrived - computing))
        return phase.often * arrived

    def _part(self, name: str, seconds: float) -> None:
        self.parts[name] = self.parts.get(name, 0.0) + seconds

    def _waited(self, times: Sequence[float]) -> float:
        """When the fastest of them are done that are waited for."""
        if not times:
            return 0.0
        return sorted(times)[max(1, ceil(self.demands.waits_for * len(times) - 1e-9)) - 1]

    def _arrivals(self, phase: Phase, own: Sequence[Place], busy: Sequence[float], others: Sequence[Place], share: float) -> float:
        """When what the phase sends is there."""
        if not others:
            return self._waited(busy)
        size = phase.bytes
        if len(own) > 1 or len(others) == 1:  # many to one, or to each of several
            return max(self._to_one(size, own, busy, hub, share) for hub in others)
        hub, begin = own[0], busy[0]  # one to many
        far = [place for place in others if place.node != hub.node]
        sent, seconds = self._through(size, hub, [(hub.node, place.node) for place in far], phase.cast)
        self._moved(sent, share, [(place, size) for place in far], (hub, sent))
        queue = begin + HANDLING_S * (1 if phase.cast else len(others)) + seconds
        return max(begin + self._waited([transfer_s(size, hub, place, self.links) for place in others]), queue)

    def _to_one(self, size: float, own: Sequence[Place], busy: Sequence[float], hub: Place, share: float) -> float:
        """When all that one receiver waits for is there."""
        far = [place for place in own if place.node != hub.node]
        taken, queued = self._through(size, hub, [(place.node, hub.node) for place in far])
        self._moved(taken, share, [(place, size) for place in far], (hub, taken))
        ends = [seconds + transfer_s(size, place, hub, self.links) for seconds, place in zip(busy, own, strict=True)]
        queue = min(busy) + HANDLING_S * len(own) + queued
        return max(self._waited(ends), queue)

    def _through(self, size: float, hub: Place, pairs: Sequence[tuple[str, str]], cast: bool = False) -> tuple[float, float]:
        """(bytes, seconds) at the hub's interfaces for `size` bytes of each pair, one after another; a cast passes the broker once for all."""
        direct = self.links.direct(pairs)
        relayed = len(pairs) - len(direct)
        over_broker = size * (min(1, relayed) if cast else relayed)
        return over_broker + size * len(direct), over_broker / hub.bytes_s + sum(size / link.bytes_per_s for link in direct)

    def _moved(self, size: float, share: float, ends: Iterable[tuple[Place, float]], hub: tuple[Place, float]) -> None:
        self.bytes += share * size
        self.joules += share * sum(place.byte_j * moved for place, moved in [*ends, hub])
