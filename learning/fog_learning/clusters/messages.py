"""A cluster averages: what its head and its members say to each other, and what a user may say about it.

vertical: every member sends its update up, the head adds them. d2d: the members say that they are ready, average among
themselves (fog_learning.clusters.mixing), and the head pulls the result from one of them, or a disjoint slice from each.
Either way the head knows whose data is in the result and counts each slot once. The head is fog_learning.clusters.head, the
other side fog_learning.clusters.member; `server` and `aggregator` of fog are heads, `trainer` and `aggregator` members.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from fog_common.facts import NodeLink
from fog_common.runtime.machine import Numbers, Peer, Ref, Slots
from fog_learning.clusters.graphs import Kind
from fog_learning.clusters.mixing import Epoch
from fog_learning.job.sections import Count, NotNegative, Positive

# -- what a user may say -------------------------------------------------------------------


class Consensus(Struct, frozen=True, forbid_unknown_fields=True):
    """How the members of a cluster average among themselves."""

    graph: Kind = "full"
    radius: Positive = 0.5
    """geometric: links up to this distance in the unit square."""
    degree: Annotated[int, Meta(ge=2)] = 4
    """small_world: neighbours of each before rewiring."""
    rewire: Annotated[float, Meta(ge=0, le=1)] = 0.2
    turns: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """Fixed number; 0 = as many as shrink the disagreement to `shrink`, by the second eigenvalue of the graph."""
    shrink: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    max_error: NotNegative = 0.0
    """Go on, doubling the turns, until the measured error is at most this; 0 = whatever the turns give, measured and reported."""
    max_turns: Count = 1000
    sketch: Annotated[int, Meta(ge=128, multiple_of=8)] = 128
    """Numbers that each member sends so that the error can be bounded; at least the size of the model: measured exactly. With fewer than 128
    the bound would be missed too often."""
    stall_s: Positive = 30.0
    """A neighbour that is silent for so long is reported; the link is left out, and the consensus begins again."""


# -- what they say -------------------------------------------------------------------------

Line = tuple[int, ...]
"""(view, incarnation) of every head from the root down to the one who calls. A head that began anew has a later line: it may ask again
for what an earlier one had, and what was meant for the earlier one does not count for it."""


class Call(Struct, frozen=True, tag="Call"):
    """Head -> member, or passed on by a neighbour: work on these weights. root: the root's round that this belongs to. relay: pass it on to these.

    whole: `weights` holds all blocks; else all but those that stay with the trainers for now. base: a whole model with these blocks, for
    one who lacks them."""

    number: int
    root: int
    weights: Ref
    head: str
    line: Line
    d2d: bool = False
    relay: tuple[str, ...] = ()
    whole: bool = True
    base: Ref | None = None


class PassOn(Struct, frozen=True, tag="Pass"):
    """Head -> member: pass the round's Call on to these neighbours (they joined, or lost the one who should have)."""

    number: int
    line: Line
    relay: tuple[str, ...]


class Lacking(Struct, frozen=True, tag="Lacking"):
    """Member -> head: the Call is not whole, and I have no blocks of my own that fit it (I am new, or missed the last whole round)."""

    number: int
    line: Line


class Ready(Struct, frozen=True, tag="Ready"):
    """Member -> head (d2d): my input of this round is there and durable. counts: as in Contribution."""

    number: int
    line: Line
    examples: int
    slots: Slots
    numbers: Numbers = {}
    counts: tuple[int, ...] = ()


class Contribution(Struct, frozen=True, tag="Update"):
    """Member -> head: vertical: my update; d2d (`epoch` not empty): slice `part` of `of` of what the cluster agreed on.

    counts: examples of each slot, in their order, if there are in-block rounds (which may hold different slots).
    """

    number: int
    line: Line
    weights: Ref
    examples: int
    slots: Slots
    numbers: Numbers = {}
    epoch: Epoch = ()
    part: int = 0
    of: int = 1
    counts: tuple[int, ...] = ()


class NoContribution(Struct, frozen=True, tag="Trouble"):
    """Member -> head: nothing from me in this round, and why. empty: nobody is in the cluster that I head; should somebody come, I answer yet."""

    number: int
    line: Line
    why: str
    empty: bool = False


class Neighbours(Struct, frozen=True, tag="Links"):
    """Head -> member: average with these neighbours (task -> weight). A new epoch begins from the inputs."""

    epoch: Epoch
    turns: int
    links: dict[str, float]


class Settled(Struct, frozen=True, tag="Settled"):
    """Member -> head: my turns are done."""

    epoch: Epoch
    turn: int
    mass: float
    sketch: Ref
    exact: bool = False


class More(Struct, frozen=True, tag="More"):
    """Head -> member: not close enough; go on until so many turns are done."""

    epoch: Epoch
    turns: int


class Pull(Struct, frozen=True, tag="Pull"):
    """Head -> member: send slice `part` of `of` of your estimate."""

    epoch: Epoch
    part: int = 0
    of: int = 1


class Stuck(Struct, frozen=True, tag="Stuck"):
    """Member -> head: these neighbours have been silent for too long."""

    epoch: Epoch
    missing: tuple[str, ...]


Said = Lacking | Ready | Contribution | NoContribution | Settled | Stuck

# -- what the head knows of them -----------------------------------------------------------


class Child(Struct, frozen=True):
    """A live member."""

    role: str
    site: str
    link: NodeLink = NodeLink()

    @classmethod
    def of(cls, peer: Peer) -> Child:
        return cls(peer.role, peer.site, peer.link)


class Input(Struct):
    slots: Slots
    examples: int
    numbers: Numbers
    counts: tuple[int, ...] = ()

    def by_slot(self) -> dict[int, int]:
        """Examples of each slot; {} where they were not told."""
        counts = self.counts or ((self.examples,) if len(self.slots) == 1 else ())
        return dict(zip(self.slots, counts, strict=True)) if counts else {}


class Agreed(Struct, frozen=True):
    """The end of a round: weights of all that counted."""

    weights: Ref
    examples: int
    slots: Slots
    members: int
    numbers: Numbers
    counts: dict[int, int] = {}
    """Examples by slot, as far as they were told."""
