"""Messages between the head and the members of a cluster that averages, and the section `consensus` of a job file.

vertical: every member sends its update up, the head adds them. d2d: the members report that they are ready, average among
themselves (fog_learning.clusters.mixing), and the head pulls the result from one of them, or a disjoint slice from each.
Either way the head knows the slots in the result and counts each once. The head is fog_learning.clusters.head, the other
side fog_learning.clusters.member; `server` and `aggregator` of fog are heads, `trainer` and `aggregator` members.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from fog_common.facts import NodeLink
from fog_common.runtime.machine import Numbers, Peer, Ref, Slots
from fog_learning.clusters.graphs import Kind
from fog_learning.clusters.mixing import Epoch
from fog_learning.job.sections import Count, NotNegative, Positive

# -- the section `consensus` ---------------------------------------------------------------


class Consensus(Struct, frozen=True, forbid_unknown_fields=True):
    """Rules by which the members of a cluster average among themselves."""

    graph: Kind = "full"
    radius: Positive = 0.5
    """geometric: links up to this distance in the unit square."""
    degree: Annotated[int, Meta(ge=2)] = 4
    """small_world: neighbours of each member before rewiring."""
    rewire: Annotated[float, Meta(ge=0, le=1)] = 0.2
    """small_world: probability that a link is moved."""
    turns: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """Number of turns; 0 = as many as shrink the disagreement to `shrink`, by the second eigenvalue of the graph."""
    shrink: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    max_error: NotNegative = 0.0
    """Double the turns until the measured error is at most this; 0 = never, the error is only measured and reported."""
    max_turns: Count = 1000
    sketch: Annotated[int, Meta(ge=128, multiple_of=8)] = 128
    """Numbers that each member sends to bound the error; with at least the size of the model the error is exact. With fewer than 128 the
    bound would fail too often."""
    stall_s: Positive = 30.0
    """Seconds after which a silent neighbour is reported; the link is then left out, and the consensus begins again."""


# -- messages ------------------------------------------------------------------------------

Line = tuple[int, ...]
"""(view, incarnation) of every head from the root down to the caller. A head that began anew has a later line: it may ask again for
inputs that an earlier instance got, and answers to the earlier instance do not count for it."""


class Call(Struct, frozen=True, tag="Call"):
    """Head -> member, or passed on by a neighbour: work on these weights.

    root: the root's round to which this round belongs; relay: members to which the receiver passes the call on.
    whole: `weights` holds all blocks, otherwise all but those that stay with the trainers for now; base: a whole model with
    these blocks, for a member that lacks them.
    """

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
    """Head -> member: pass the round's Call on to these neighbours, which joined late or lost the member that should have done so."""

    number: int
    line: Line
    relay: tuple[str, ...]


class Lacking(Struct, frozen=True, tag="Lacking"):
    """Member -> head: the Call is not whole, and the sender, new or absent from the last whole round, has no own blocks that fit it."""

    number: int
    line: Line


class Ready(Struct, frozen=True, tag="Ready"):
    """Member -> head (d2d): the sender's input of this round is durable. counts: as in Contribution."""

    number: int
    line: Line
    examples: int
    slots: Slots
    numbers: Numbers = {}
    counts: tuple[int, ...] = ()


class Contribution(Struct, frozen=True, tag="Update"):
    """Member -> head: vertical: the sender's update; d2d (`epoch` not empty): slice `part` of `of` of the cluster's result.

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
    """Member -> head: the sender has no input in this round. why: the reason, for a person. empty: the sender's own cluster has no members
    now; if one joins, an input may still follow."""

    number: int
    line: Line
    why: str
    empty: bool = False


class Neighbours(Struct, frozen=True, tag="Links"):
    """Head -> member: average with these neighbours (task -> weight) in a new epoch, from the inputs."""

    epoch: Epoch
    turns: int
    links: dict[str, float]


class Settled(Struct, frozen=True, tag="Settled"):
    """Member -> head: the sender's turns are done."""

    epoch: Epoch
    turn: int
    mass: float
    sketch: Ref
    exact: bool = False


class More(Struct, frozen=True, tag="More"):
    """Head -> member: the error is too large; go on until `turns` turns are done."""

    epoch: Epoch
    turns: int


class Pull(Struct, frozen=True, tag="Pull"):
    """Head -> member: request for slice `part` of `of` of the member's estimate."""

    epoch: Epoch
    part: int = 0
    of: int = 1


class Stuck(Struct, frozen=True, tag="Stuck"):
    """Member -> head: these neighbours are silent for too long."""

    epoch: Epoch
    missing: tuple[str, ...]


Said = Lacking | Ready | Contribution | NoContribution | Settled | Stuck

# -- members and inputs at the head --------------------------------------------------------


class Child(Struct, frozen=True):
    """A live member. link: of its node, as in Peer."""

    role: str
    site: str
    link: NodeLink = NodeLink()

    @classmethod
    def of(cls, peer: Peer) -> Child:
        return cls(peer.role, peer.site, peer.link)


class Input(Struct):
    """A member's input of the round, without its weights."""

    slots: Slots
    examples: int
    numbers: Numbers
    counts: tuple[int, ...] = ()

    def by_slot(self) -> dict[int, int]:
        """Examples of each slot; {} if they are unknown."""
        counts = self.counts or ((self.examples,) if len(self.slots) == 1 else ())
        return dict(zip(self.slots, counts, strict=True)) if counts else {}


class Agreed(Struct, frozen=True):
    """Result of a round. members: number of inputs in it."""

    weights: Ref
    examples: int
    slots: Slots
    members: int
    numbers: Numbers
    counts: dict[int, int] = {}
    """Examples by slot, as far as they are known."""
