"""The plan of fog, and the blocks that each round of the root averages."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from fog_learning.clusters.messages import Consensus
from fog_learning.clusters.tradeoff import LinkCosts, Objective
from fog_learning.job.sections import BlockName, Count, Fraction, NotNegative


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["vertical", "d2d", "auto"] = "auto"
    local_steps: Count = 10
    """Optimiser steps per round on each node with data."""
    prox_mu: NotNegative = 0.0
    consensus: Consensus = Consensus()
    uplink: Literal["sample", "diversity"] = "sample"
    """d2d, sample: one member, chosen at random under the seed, sends all; diversity: each member sends a disjoint slice."""
    downlink: Literal["relay", "direct"] = "relay"
    """relay: a task that joins during a round gets the weights from a neighbour of its site, with d2d all members but one do;
    direct: the head sends them to each."""
    clusters: Fraction = 1.0
    """Fraction of the clusters under a node that take part in a round; trainers directly under the node always do."""
    period: Count | list[Count] = 1
    """In-block rounds of an inner node for each of its parent's rounds: one number for all, or a list by layer, the lowest first
    (1 above the last)."""
    deep: list[BlockName] = []
    """Blocks that are averaged only every `deep_every` rounds of the root, and in the last; in between each trainer keeps its own."""
    deep_every: Count = 1
    absent_s: NotNegative = 30.0
    """Seconds that a round waits for a lost head to be placed again, before it closes without its cluster."""
    costs: LinkCosts = LinkCosts()
    """auto: costs of the links."""
    objective: Objective = "energy"
    """auto: the cost to minimise."""

    def in_block(self, layer: int) -> int:
        """In-block rounds of the inner nodes of this layer; 1 is the lowest."""
        if isinstance(self.period, int):
            return self.period
        return self.period[layer - 1] if layer <= len(self.period) else 1

    @property
    def has_blocks(self) -> bool:
        """Whether some layer has more than one in-block round."""
        return self.period > 1 if isinstance(self.period, int) else any(period > 1 for period in self.period)


class Blocks(Struct, frozen=True):
    """Blocks that a round averages: a function of the root's round, and so the same in every layer and every in-block round."""

    deep: tuple[str, ...] = ()
    every: int = 1
    rounds: int = 1

    def is_whole(self, root: int) -> bool:
        """Whether this round of the root averages all blocks; otherwise it leaves out the deep ones."""
        return not self.deep or root % self.every == 0 or root >= self.rounds

    def newest_whole(self, root: int) -> int:
        """The last whole round before this one, from which the trainers' own blocks come; 0: the first weights."""
        return (root - 1) // self.every * self.every if self.deep else root - 1

    def without(self, root: int) -> str:
        """Names of the blocks that this round leaves out, separated by commas."""
        return "" if self.is_whole(root) else ",".join(self.deep)
