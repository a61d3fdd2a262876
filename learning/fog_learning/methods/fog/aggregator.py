"""The aggregator of fog: an inner node of the tree (protocol and ops: fog_learning.methods.fog.method)."""

from __future__ import annotations

from msgspec import field

from fog_common.runtime.machine import (
    Command,
    Delivered,
    Event,
    Failed,
    Joined,
    Left,
    Peer,
    Ran,
    Ref,
    Rewound,
    Save,
    Send,
    Slots,
    Started,
    Waiting,
    Woke,
)
from fog_learning.clusters.head import ClusterHead
from fog_learning.clusters.member import ClusterMember
from fog_learning.clusters.messages import Call, Contribution, Lacking, NoContribution, Ready, Settled, Stuck
from fog_learning.methods.fog.plan import Blocks, Plan
from fog_learning.rounds.alarm import Alarm


class Aggregator(Alarm, kw_only=True):
    plan: Plan
    blocks: Blocks
    me: str
    head: ClusterHead
    member: ClusterMember
    newest: int = 0
    doing: Call | None = None
    base: Ref | None = None
    """deep: the newest whole model from the root."""
    basis: int = -1
    """The root's round of `base`; -1: members that lack blocks cannot use it."""
    lacks: bool = False
    """This node waits for a whole model that it asked for."""
    block: int = 0
    """Finished in-block rounds of the parent's round."""
    period: int = 1
    """In-block rounds of a parent's round."""
    counts: dict[int, int] = field(default_factory=dict)
    """Examples by slot of all in-block rounds so far: a slot may be in one of them and miss another."""
    deserted: bool = False
    """The parent knows that the cluster is empty."""
    saved: int = 0
    since: float = 0.0

    def react(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started(roster):
                self.since = now
                self.head.meet(roster, self._mine(roster))
                return []
            case Rewound(_, roster):
                return self._after(self.head.renew(roster, self._mine(roster), now), now)
            case Joined(peer) if peer.parent == self.me:
                return self._after(self.head.joined(peer, now), now)
            case Left(peer, False) if peer.parent == self.me:  # in order: Joined comes with its new instance
                return self._after(self.head.left(peer.task, now), now)
            case Delivered(_, Call() as call):
                return [*self.member.called(call), *self._called(call, now)]
            case Delivered(sender, Lacking() | Ready() | Contribution() | NoContribution() | Settled() | Stuck() as said):
                return self._after(self.head.hear(sender, said, now), now)
            case Delivered(sender, said):
                return self.member.hear(sender, said, now)
            case Ran():
                return self._after([*self.head.ran(event), *self.member.ran(event, now)], now)
            case Failed():
                return self._after([*self.head.op_failed(event, now), *self.member.op_failed(event)], now)
            case Woke():
                return self._after([*self.member.woke(now), *self.head.woke(now)], now)
        return []

    def times(self) -> tuple[float | None, ...]:
        return (self.member.stuck_at, self.head.wakes_at())

    def note(self) -> str:
        return self.head.note()

    def waiting(self, now: float) -> Waiting | None:
        round_ = Waiting("whole model, to begin with" if self.lacks else "round", since=self.since)
        return self.head.waiting() or self.member.waiting(now) or round_

    def progress(self) -> int:
        return self.newest

    def _mine(self, roster: tuple[Peer, ...]) -> tuple[str, ...]:
        return tuple(peer.task for peer in roster if peer.parent == self.me)

    def _called(self, call: Call, now: float) -> list[Command]:
        """Take a call of the parent; an older round that is still open here was closed there without this cluster."""
        match self.member.verdict(call, self.doing, self.newest):
            case "elsewhere":
                return self.member.elsewhere(call)
            case "again":
                self.newest, self.doing = call.number, None
                return self.member.give_again(call)
            case "adopt":
                self.doing, self.deserted = call, False
                return self._after(self.head.called_anew(call.line), now)
            case "begin":
                self.lacks = not self._has_base(call)
                if self.lacks:
                    return [Send(call.head, Lacking(call.number, call.line), keep=call.root)]
                self.doing, self.newest, self.block, self.counts, self.deserted = call, call.number, 0, {}, False
                return self._after(self._open(call.weights, now), now)
        return []

    def _has_base(self, call: Call) -> bool:
        """Keep the call's whole model; returns whether there is one for members that lack their blocks in this round."""
        if not self.blocks.deep:
            return True
        newest = self.blocks.newest_whole(call.root)
        if call.whole:  # in a whole round no member lacks blocks, and the weights may be those of the parent's block
            self.base, self.basis = call.weights, -1 if self.blocks.is_whole(call.root) else newest
        elif call.base is not None:
            self.base, self.basis = call.base, newest
        return call.whole or self.basis == newest

    def _open(self, weights: Ref, now: float) -> list[Command]:
        call, root = self.doing, self.doing.root if self.doing else 0
        assert call is not None
        number = (call.number - 1) * self.period + self.block + 1
        whole = self.blocks.is_whole(root) if self.block else call.whole
        return self.head.open(number, root, call.line, weights, now, self.plan.clusters, whole, self.base, self.blocks.without(root))

    def _after(self, commands: list[Command], now: float) -> list[Command]:
        """Answer the parent if the cluster's round has failed or ended, or the cluster is empty."""
        call, agreed = self.doing, self.head.agreed
        if call is None:
            return commands
        if self.head.failed:
            why, self.doing, self.newest, self.since = self.head.failed, None, call.number - 1, now
            return [*commands, Send(call.head, NoContribution(call.number, call.line, why), latest=True)]
        if self.head.deserted() != self.deserted:
            self.deserted = not self.deserted
            if self.deserted:
                return [*commands, Send(call.head, NoContribution(call.number, call.line, "nobody is in its cluster", empty=True), latest=True)]
        if agreed is None:
            return commands
        self.head.agreed = None
        self.block += 1
        self.counts = dict(sorted({**self.counts, **agreed.counts}.items()))
        if self.block < self.period:
            return [*commands, *self._after(self._open(agreed.weights, now), now)]
        self.doing, self.since = None, now
        self.saved = max(self.saved + 1, call.number)
        counts: tuple[int, ...] = ()
        examples, slots = agreed.examples, agreed.slots
        if self.plan.has_blocks:  # the weight counts all in-block rounds, not the last alone
            counts, examples, slots = tuple(self.counts.values()), sum(self.counts.values()), Slots.of(*self.counts)
        given = self.member.give(call, agreed.weights, examples, slots, agreed.numbers, counts)
        return [*commands, Save(self.saved), *given]
