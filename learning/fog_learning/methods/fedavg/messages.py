"""What a job file may say about fedavg, and what its tasks say to each other (protocol: fog_learning.methods.fedavg.server)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from fog_common.runtime.machine import Numbers, Ref, Slots
from fog_learning.job.sections import BlockName, Count, NotNegative, Positive

Decay = Annotated[float, Meta(ge=0, lt=1)]


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    local_steps: Count = 10
    """Optimiser steps per round on each node; 1 = FedSGD."""
    prox_mu: NotNegative = 0.0
    """FedProx: adds mu/2 |w - w_round|^2 to the local loss."""
    server_optimizer: Literal["none", "momentum", "adam"] = "none"
    server_lr: Positive = 1.0
    beta1: Decay = 0.9
    """momentum: its factor; adam: decay of the first moment."""
    beta2: Decay = 0.99
    eps: Positive = 1e-3
    """adam: added to the root of the second moment."""
    layers: list[BlockName] = []
    """Blocks that are averaged; the others stay each trainer's own. Empty = all."""


# -- what they say -------------------------------------------------------------------------


Branch = str
"""What weights are made of: after a fallback the same round is closed again, with the same updates or with others. '' = the first weights."""

Part = tuple[int, tuple[int, ...], Branch]
"""Of a mean: (round, slots, branch) of an update in it."""


def branch_of(before: Branch, parts: Iterable[Part]) -> Branch:
    """Of weights that were made from those of `before` with these updates, in whatever order they came."""
    return hashlib.blake2b(repr((before, sorted(parts))).encode(), digest_size=8).hexdigest()


class RoundCall(Struct, frozen=True, tag="Round"):
    """Server -> trainers: start from these weights. rate: evaluate them first on the held-out part; train=False: only that."""

    number: int
    weights: Ref
    train: bool = True
    rate: bool = False
    branch: Branch = ""
    """Of these weights."""


class Update(Struct, frozen=True, tag="Update"):
    """Trainer -> sender of the RoundCall. `slots`: whose data is in it. numbers: loss; with `rate` accuracy, rated_loss, rated_examples."""

    round: int
    weights: Ref | None
    examples: int
    slots: Slots
    numbers: Numbers = {}
    branch: Branch = ""
    """Of the weights that it began with: it counts in a round only if they are that round's."""


class NoUpdate(Struct, frozen=True, tag="Trouble"):
    """Trainer -> server: no update of mine in this round, and why."""

    round: int
    slots: Slots
    why: str
