"""What one training step costs on given nodes: seconds, joules, bytes. Pure arithmetic over Demands; everything here is modelled.

    seconds = sum over phases of max over tasks (ops x overhead + FLOPs / FLOP/s  +  transfer)
    transfer = half of both round trips + handling + bytes / the slower link + one chunk / the faster one

A receiver of many takes their bytes one after another over its link. Tasks on one node exchange nothing over the network. Joules:
idle power of every node that takes part over the whole step, busy power while it computes, and joules per byte at both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import Final

from fog_learning.costs.demands import Demands, Phase
from fog_learning.costs.objectives import OBJECTIVES, Cost
from fog_learning.costs.place import Place
from fog_learning.job.sections import Placing

CHUNK_BYTES: Final = 256 * 1024
"""What is on its way at once: a receiver has the first chunk before the sender has sent the last."""
HANDLING_S: Final = 0.8e-3
"""Of a message in both its workers: frames, checksums, the inbox, the machine."""


def value(cost: Cost, rules: Placing) -> float:
    """What placement makes as small as possible, in the unit of the job's objective."""
    return OBJECTIVES[rules.objective].price(cost, rules.weights)


def transfer_s(size: float, sender: Place, receiver: Place) -> float:
    """Seconds from the sender's op to the receiver's machine, on links that nobody else uses."""
    if sender.node == receiver.node:
        return HANDLING_S
    slow, fast = sorted((sender.bytes_s, receiver.bytes_s))
    return HANDLING_S + (sender.rtt_s + receiver.rtt_s) / 2 + size / slow + min(size, CHUNK_BYTES) / fast


def compute_s(phase: Phase, place: Place) -> float:
    return phase.ops * place.op_s + phase.flops / place.flops


def step_cost(demands: Demands, where: Mapping[str, Sequence[Place]]) -> Cost:
    """where: role -> places of its tasks, any number of them; a role without a place costs nothing."""
    walk = _Walk(demands, where)
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

    def __init__(self, demands: Demands, where: Mapping[str, Sequence[Place]]) -> None:
        self.demands, self.where = demands, where
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
        sent = size * (min(1, len(far)) if phase.cast else len(far))
        self._moved(sent, share, [(place, size) for place in far], (hub, sent))
        queue = begin + HANDLING_S * (1 if phase.cast else len(others)) + sent / hub.bytes_s
        return max(begin + self._waited([transfer_s(size, hub, place) for place in others]), queue)

    def _to_one(self, size: float, own: Sequence[Place], busy: Sequence[float], hub: Place, share: float) -> float:
        """When all that one receiver waits for is there."""
        far = [place for place in own if place.node != hub.node]
        self._moved(size * len(far), share, [(place, size) for place in far], (hub, size * len(far)))
        ends = [seconds + transfer_s(size, place, hub) for seconds, place in zip(busy, own, strict=True)]
        queue = min(busy) + HANDLING_S * len(own) + size * len(far) / hub.bytes_s
        return max(self._waited(ends), queue)

    def _moved(self, size: float, share: float, ends: Iterable[tuple[Place, float]], hub: tuple[Place, float]) -> None:
        self.bytes += share * size
        self.joules += share * sum(place.byte_j * moved for place, moved in [*ends, hub])


Score = Callable[[Cost], float]
