"""The plan of gossip and the messages between its peers and its observer."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from fog_common.runtime.machine import Numbers, Ref, Slots
from fog_learning.clusters.messages import Consensus
from fog_learning.job.sections import Count, NotNegative


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    local_steps: Count = 10
    """Optimiser steps between two exchanges."""
    prox_mu: NotNegative = 0.0
    consensus: Consensus = Consensus(graph="ring", turns=1)
    """graph (inside each site; neighbouring sites are linked by one pair of peers) and turns of an exchange (turns: 1 is decentralised SGD);
    shrink, max_error and max_turns are refused."""
    tracking: bool = False
    """Gradient tracking with local steps (Liu et al. 2023, K-GT): each peer corrects its gradients by their difference from its neighbours', so
    that unequal data leaves no bias. Exchanges carry twice the bytes, and all peers have the same weight, whatever their examples."""
    sketch_every: Annotated[int, Meta(ge=1)] = 1
    """Rounds between two measurements of the distance between the peers' models."""


# -- messages ------------------------------------------------------------------------------

Instance = tuple[str, int, int]
"""(task, view in which it was placed, incarnation) of a peer."""
Cut = tuple[Instance, Instance]
"""The two ends of a dead link, in order. A cut holds as long as both instances live."""


class Here(Struct, frozen=True, tag="Here"):
    """Peer -> all peers, when the crew has changed. next: the sender's next round; new: the sender has never trained."""

    crew: int
    next: int
    new: bool
    meeting: int = 0
    """Number of the sender's meeting. A second one of the same crew: a peer was wrongly declared dead, and only its neighbours learned of it."""
    cuts: tuple[Cut, ...] = ()
    """Links that the sender leaves out."""


class Silent(Struct, frozen=True, tag="Silent"):
    """Peer -> all peers: the neighbours in `missing` are silent for too long. A neighbour that has sent its share long ago declares the link dead."""

    crew: int
    round: int
    turn: int
    missing: tuple[str, ...]


class Model(Struct, frozen=True, tag="Model"):
    """Peer -> newcomer: the model from which the newcomer goes on."""

    crew: int
    weights: Ref


class Report(Struct, frozen=True, tag="Report"):
    """Peer -> observer: the sender has finished a round. examples = 0: it skipped the round, because the other peers were ahead."""

    round: int
    examples: int
    slots: Slots
    numbers: Numbers
    mass: float = 0.0
    sketch: Ref | None = None
    exact: bool = False
    first: int = 0
    """First of the skipped rounds, which end with `round`; 0: the report covers `round` alone."""


class Halted(Struct, frozen=True, tag="Trouble"):
    """Peer -> observer: the sender cannot go on. why: the reason, for a person."""

    why: str


class AskModel(Struct, frozen=True, tag="Ask"):
    """Observer -> peer: request for the peer's model."""

    round: int


class Told(Struct, frozen=True, tag="Told"):
    """Peer -> observer: the sender's present model."""

    round: int
    weights: Ref
