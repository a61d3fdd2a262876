"""What peers and observer of gossip say to each other, and the plan."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from fog_common.runtime.machine import (
    Numbers,
    Ref,
    Slots,
)
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
    """Gradient tracking with local steps (Liu et al. 2023, K-GT): each peer corrects its gradients by how they differ from its neighbours', so
    that unequal data leaves no bias. Exchanges carry twice the bytes, and each peer counts the same, whatever its examples."""
    sketch_every: Annotated[int, Meta(ge=1)] = 1
    """Rounds between measurements of how far the peers are apart."""


# -- what they say -------------------------------------------------------------------------

Instance = tuple[str, int, int]
"""(task, view in which it was placed, incarnation) of a peer."""
Cut = tuple[Instance, Instance]
"""The two ends of a link that carries nothing, in order. It holds as long as both instances live."""


class Here(Struct, frozen=True, tag="Here"):
    """Peer -> all peers, when the crew has changed: the round that I do next. new: I have never trained."""

    crew: int
    next: int
    new: bool
    meeting: int = 0
    """Counts the sender's meetings. A later one of the same crew: somebody was thought to be gone, and only its neighbours were told."""
    cuts: tuple[Cut, ...] = ()
    """Links that the sender leaves out."""


class Silent(Struct, frozen=True, tag="Silent"):
    """Peer -> all peers: these neighbours have been silent for too long. Who has long given what is missed here knows that the link is dead."""

    crew: int
    round: int
    turn: int
    missing: tuple[str, ...]


class Model(Struct, frozen=True, tag="Model"):
    """Peer -> newcomer: go on from here."""

    crew: int
    weights: Ref


class Report(Struct, frozen=True, tag="Report"):
    """Peer -> observer: this round is done here. examples = 0: it was skipped, the others were further."""

    round: int
    examples: int
    slots: Slots
    numbers: Numbers
    mass: float = 0.0
    sketch: Ref | None = None
    exact: bool = False
    first: int = 0
    """Of the rounds that were skipped, up to `round`; 0: it speaks of `round` alone."""


class Halted(Struct, frozen=True, tag="Trouble"):
    """Peer -> observer: I cannot go on, and why."""

    why: str


class AskModel(Struct, frozen=True, tag="Ask"):
    """Observer -> peer: send me your model."""

    round: int


class Told(Struct, frozen=True, tag="Told"):
    """Peer -> observer: my model as it is now."""

    round: int
    weights: Ref
