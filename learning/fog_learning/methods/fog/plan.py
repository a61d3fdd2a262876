"""What a user may say about fog, and what follows from it for a round of the root: which blocks are averaged."""

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
    """d2d: one member, chosen at random under the seed, sends all; or each sends a disjoint slice."""
    downlink: Literal["relay", "direct"] = "relay"
    """relay: who joins in a round gets the weights from a neighbour of its site; d2d: all but one do. direct: the head sends them to each."""
    clusters: Fraction = 1.0
    """Of the clusters under a node, the fraction that takes part in a round. Trainers directly under it always do."""
    period: Count | list[Count] = 1
    """In-block rounds of an inner node for each of its parent's rounds: of all of them, or layer by layer, the lowest first (1 above the last)."""
    deep: list[BlockName] = []
    """Layer-wise periods: these blocks are averaged only every `deep_every` rounds of the root, and in the last; in between each trainer keeps its own."""
    deep_every: Count = 1
    absent_s: NotNegative = 30.0
    """A head that is lost is placed again; its parent's round waits so long for it before it closes without its cluster."""
    costs: LinkCosts = LinkCosts()
    """auto: what links cost."""
    objective: Objective = "energy"
    """auto: what is to be small."""

    def in_block(self, layer: int) -> int:
        """In-block rounds of the inner nodes of this layer, 1 being the lowest."""
        if isinstance(self.period, int):
            return self.period
        return self.period[layer - 1] if layer <= len(self.period) else 1

    @property
    def has_blocks(self) -> bool:
        return self.period > 1 if isinstance(self.period, int) else any(period > 1 for period in self.period)


class Blocks(Struct, frozen=True):
    """Which blocks a round averages: a function of the root's round, so that it is the same in every layer and every in-block round."""

    deep: tuple[str, ...] = ()
    every: int = 1
    rounds: int = 1

    def is_whole(self, root: int) -> bool:
        """Whether this round of the root averages all blocks; else all but the deep ones."""
        return not self.deep or root % self.every == 0 or root >= self.rounds

    def newest_whole(self, root: int) -> int:
        """The last round before this one that did; 0: the first weights. What the trainers' own blocks of this round go back to."""
        return (root - 1) // self.every * self.every if self.deep else root - 1

    def without(self, root: int) -> str:
        """Names of the blocks that this round leaves out, with commas."""
        return "" if self.is_whole(root) else ",".join(self.deep)
