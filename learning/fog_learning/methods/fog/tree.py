"""Fog learning (Hosseinalipour et al. 2020): aggregation at every layer of a tree, averaging sideways inside its clusters.

The tree is the placement's: each task names its parent (Peer.parent; trainers without one belong to the server). An inner
node heads the cluster of its children; it is itself a member of its parent's cluster. Each cluster averages `vertical`
(everybody sends up) or `d2d` (the members agree among themselves, one vector goes up), `auto` decides by cost and says why.
Every aggregate carries its slots and its sum of examples; parents merge disjoint sets only. With `mode: vertical` this is
federated averaging in a tree: the result is that of the flat star, to rounding.

Ops: `init`, `train`, `evaluate` as in fedavg; those of the cluster are listed in head.py (the head) and mixing.py (the members).

Schedules: `clusters` is the fraction of a parent's clusters that take part in a round; `period` the number of in-block rounds that an
inner node runs with its children for each update that it sends up, for all or for each layer. `deep` names blocks that are averaged only every `deep_every` rounds
of the root (periods layer by layer): in between they stay with the trainers, and neither calls nor updates carry them. The root and the
heads keep the newest whole model for members who have no such blocks of their own, and to rate and hand out a model at any time.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from fog_common.runtime.machine import (
    Command,
    Delivered,
    Event,
    Failed,
    Handle,
    Joined,
    Left,
    Machine,
    Measure,
    Numbers,
    Peer,
    Ran,
    Ref,
    Rewound,
    RoundRecord,
    Run,
    Save,
    Send,
    Slots,
    Started,
    Waiting,
    Woke,
)
from fog_learning.clusters.agreement import Agreement
from fog_learning.clusters.head import ClusterHead
from fog_learning.clusters.member import ClusterMember
from fog_learning.clusters.messages import Call, Contribution, Lacking, Links, More, NoContribution, PassOn, Pull, Ready, Settled, Stuck
from fog_learning.clusters.mixing import Share
from fog_learning.job.sections import Job
from fog_learning.methods.base import Method, Role
from fog_learning.methods.fog.plan import Blocks, Plan, check
from fog_learning.methods.fog.trainer import Leaf
from fog_learning.rounds.alarm import Alarm
from fog_learning.rounds.closing import Closing
from fog_learning.rounds.ledger import Ledger

# -- an inner node -------------------------------------------------------------------------


class Aggregator(Alarm, kw_only=True):
    plan: Plan
    blocks: Blocks
    me: str
    head: ClusterHead
    member: ClusterMember
    newest: int = 0
    doing: Call | None = None
    base: Ref | None = None
    """deep: the newest whole model that the root sent."""
    basis: int = -1
    """The root's round that it is from; -1: it is not for members who lack blocks."""
    lacks: bool = False
    """Asked for one."""
    block: int = 0
    """In-block rounds that are done of the parent's round."""
    period: int = 1
    """In-block rounds of a parent's round."""
    counts: dict[int, int] = field(default_factory=dict)
    """Examples by slot of all that is in the block so far: a slot may be in one of its rounds and miss another."""
    deserted: bool = False
    """Our parent knows that nobody is here."""
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
        """A round of the parent. One that is still open here was closed there without us."""
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
        """Keep the whole model that the call brings. Whether there is one for members who will lack their blocks in this round."""
        if not self.blocks.deep:
            return True
        newest = self.blocks.newest_whole(call.root)
        if call.whole:  # if this round is whole, too, nobody will lack anything, and these may be in-block weights of the parent
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
        """Look whether the cluster's round has ended."""
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
        if self.plan.has_blocks:  # the weight of all that is in it, not of the last round alone
            counts, examples, slots = tuple(self.counts.values()), sum(self.counts.values()), Slots.of(*self.counts)
        given = self.member.give(call, agreed.weights, examples, slots, agreed.numbers, counts)
        return [*commands, Save(self.saved), *given]


# -- the root ------------------------------------------------------------------------------


class Root(Alarm, kw_only=True):
    plan: Plan
    blocks: Blocks
    ledger: Ledger
    me: str
    head: ClusterHead
    phase: Literal["starting", "idle", "running", "rating", "stopping"] = "starting"
    weights: Ref | None = None
    base: Ref | None = None
    """deep: the newest whole model. It is `weights` after a round that averaged all."""
    since: float = 0.0

    def react(self, event: Event, now: float) -> list[Command]:
        if self.ledger.over:
            return []
        if self.phase == "stopping":
            return self._stopped(event)
        match event:
            case Started(roster):
                self.head.meet(roster, self._mine(roster))
                self.since = now
                return [Run("init", {}, ("init",), {"layers": ""})]
            case Rewound(_, roster):
                renewed = self.head.renew(roster, self._mine(roster), now)
                return self._open(now) if self.phase == "idle" else self._after(renewed, now)
            case Joined(peer) if self._is_mine(peer):
                joined = self.head.joined(peer, now)
                return self._open(now) if self.phase == "idle" else self._after(joined, now)
            case Left(peer, False) if self._is_mine(peer):
                return self._after(self.head.left(peer.task, now), now)
            case Delivered(sender, Lacking() | Ready() | Contribution() | NoContribution() | Settled() | Stuck() as said):
                return self._after(self.head.hear(sender, said, now), now)
            case Ran(("init",), refs, numbers):
                self.weights, self.head.size_bytes = refs["weights"], int(numbers.get("bytes", 0))
                self.base = self.weights if self.blocks.deep else None
                return [Save(0), *self._open(now)]
            case Ran(("rated", number), _, numbers):
                return self._rated(int(number), {"accuracy": numbers["accuracy"], "rated_loss": numbers["loss"]})
            case Ran():
                return self._after(self.head.ran(event), now)
            case Failed(("init" | "rated" as what, *_), why):
                return self.ledger.fail(f"{'making the first weights' if what == 'init' else 'the evaluation'} failed: {why}")
            case Failed():
                return self._after(self.head.op_failed(event, now), now)
            case Woke():
                return self._after(self.head.woke(now), now)
        return []

    def times(self) -> tuple[float | None, ...]:
        return (self.head.wakes_at(),) if self.phase == "running" else ()

    def note(self) -> str:
        return self.head.note()

    def waiting(self, now: float) -> Waiting | None:
        if self.phase == "idle":
            return Waiting("nodes", 0, 1, (), self.since)
        return self.head.waiting() if self.phase == "running" else None

    def progress(self) -> int:
        return self.ledger.round

    def figures(self) -> Numbers:
        return self.ledger.numbers

    def _is_mine(self, peer: Peer) -> bool:
        return peer.parent == self.me or (peer.parent == "" and peer.role == "trainer")

    def _mine(self, roster: tuple[Peer, ...]) -> tuple[str, ...]:
        return tuple(peer.task for peer in roster if self._is_mine(peer))

    def _open(self, now: float) -> list[Command]:
        self.since = now
        if not self.head.children:
            self.phase = "idle"
            return []
        assert self.weights is not None
        self.phase = "running"
        number = self.ledger.open()
        whole = self.blocks.newest_whole(number) == number - 1
        return self.head.open(number, number, (), self.weights, now, self.plan.clusters, whole, self.base, self.blocks.without(number))

    def _after(self, commands: list[Command], now: float) -> list[Command]:
        agreed = self.head.agreed
        if self.head.failed:
            return [*commands, *self.ledger.fail(f"no node can go on in round {self.ledger.round}: {self.head.failed}")]
        if agreed is None or self.phase != "running":
            return commands
        self.head.agreed = None
        self.weights, number = agreed.weights, self.ledger.round
        if self.blocks.deep and self.blocks.is_whole(number):
            self.base = self.weights
        record = RoundRecord(number, now, agreed.members, agreed.examples, {**agreed.numbers, "slots": float(len(agreed.slots))})
        measured = [Measure(name, agreed.numbers[name]) for name in sorted(agreed.numbers) if name != "consensus_error"]
        rated = self.ledger.rates_here(number)
        refs = {"weights": self.weights} if self.base in (None, self.weights) else {"weights": self.weights, "own": self.base}
        rating = [Run("evaluate", refs, ("rated", number), {"round": number})] if rated else []
        commands = [*commands, *self.ledger.close(record, rate=rated), Save(number), *measured]
        if not self.ledger.last:
            return [*commands, *self._open(now), *rating]  # the evaluation overlaps the next round
        self.phase = "rating"
        return [*commands, *(rating or self.ledger.finish(self.weights))]

    def _rated(self, number: int, numbers: Numbers) -> list[Command]:
        rated = self.ledger.rate(number, numbers)
        if self.phase != "rating" or self.ledger.unrated:
            return rated
        assert self.weights is not None
        return [*rated, *self.ledger.finish(self.weights)]

    def stop(self, why: str, roster: tuple[Peer, ...], now: float) -> list[Command]:
        """deep: what was averaged last, and the other blocks as they were averaged last."""
        if self.weights is None or self.base in (None, self.weights):
            return super().stop(why, roster, now)
        self.phase = "stopping"
        total = Handle("whole")
        add = Run("accumulate", {"sum": total, "add": self.weights}, ("summed",), {"n": 1}, {"sum": total})
        return [add, Run("mean", {"sum": total, "base": self.base}, ("whole",))]

    def _stopped(self, event: Event) -> list[Command]:
        match event:
            case Ran(("whole",), refs):
                self.weights = refs["weights"]
                return self.ledger.finish(self.weights)
            case Failed(("summed" | "whole",), why):
                return self.ledger.fail(f"putting the whole model together failed: {why}")
        return []


# -- the method ----------------------------------------------------------------------------


def build(job: Job, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    blocks = Blocks(tuple(plan.deep), plan.deep_every, job.train.rounds)
    member = ClusterMember(seed=job.seed, consensus=plan.consensus, head=peer.parent)
    if peer.role == "trainer":
        return Leaf(plan=plan, blocks=blocks, slot=peer.slot, member=member)
    head = ClusterHead(
        me=peer.task,
        seed=job.seed,
        mode=plan.mode,
        downlink=plan.downlink,
        agreement=Agreement(peer.task, job.seed, plan.uplink, plan.consensus),
        absent_s=plan.absent_s,
        closing=Closing(job.stragglers),
        costs=plan.costs,
        objective=plan.objective,
    )
    if peer.role == "aggregator":
        return Aggregator(plan=plan, blocks=blocks, me=peer.task, head=head, member=member, period=plan.in_block(max(1, peer.layer)))
    return Root(plan=plan, blocks=blocks, ledger=Ledger(job.train.rounds, job.evaluation), me=peer.task, head=head)


FOG = Method(
    name="fog",
    title="Fog learning: a tree of clusters, averaging up or sideways",
    source="Hosseinalipour et al. 2020",
    plan=Plan,
    roles=(
        Role("server", Root, bound="free", stateful=True),
        Role("aggregator", Aggregator, bound="tree", stateful=True),
        Role("trainer", Leaf, bound="slot", heritable=True),
    ),
    messages=(Call, Lacking, PassOn, Ready, Contribution, NoContribution, Links, Settled, More, Pull, Stuck, Share),
    root="server",
    build=build,
    check=check,
)
