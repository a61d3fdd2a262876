"""The plan of fedavg and the messages between its tasks (protocol: fog_learning.methods.fedavg.method)."""

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
    """momentum: the factor of the old gradient; adam: decay of the first moment."""
    beta2: Decay = 0.99
    """adam: decay of the second moment."""
    eps: Positive = 1e-3
    """adam: added to the root of the second moment."""
    layers: list[BlockName] = []
    """Blocks that are averaged; the others stay each trainer's own. Empty = all."""


# -- messages ------------------------------------------------------------------------------


Branch = str
"""Name of the updates that made some weights. A round that is closed again after a fall-back may get others. '' = the first weights."""

Part = tuple[int, tuple[int, ...], Branch]
"""An update in a mean: (round, slots, branch)."""


def branch_of(before: Branch, parts: Iterable[Part]) -> Branch:
    """Branch of the weights made from those of branch `before` with these updates, in any order."""
    return hashlib.blake2b(repr((before, sorted(parts))).encode(), digest_size=8).hexdigest()


class RoundCall(Struct, frozen=True, tag="Round"):
    """Server -> trainers: train from these weights. rate: evaluate them first on the held-out part; train=False: evaluate only."""

    number: int
    weights: Ref
    train: bool = True
    rate: bool = False
    branch: Branch = ""
    """Branch of these weights."""


class Update(Struct, frozen=True, tag="Update"):
    """Trainer -> sender of the RoundCall. slots: owners of the data in it. numbers: loss; with `rate` accuracy, rated_loss, rated_examples."""

    round: int
    weights: Ref | None
    examples: int
    slots: Slots
    numbers: Numbers = {}
    branch: Branch = ""
    """Branch of the weights that the training began with; the update counts in a round only if they are that round's."""


class NoUpdate(Struct, frozen=True, tag="Trouble"):
    """Trainer -> server: the trainer has no update in this round. why: the reason, for a person."""

    round: int
    slots: Slots
    why: str
