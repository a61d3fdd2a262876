"""Fog learning (Hosseinalipour et al. 2020): aggregation at every layer of a tree, averaging sideways inside its clusters.

The tree is the placement's: each task names its parent (Peer.parent; trainers without one belong to the server). An inner
node heads the cluster of its children; it is itself a member of its parent's cluster. Each cluster averages `vertical`
(everybody sends up) or `d2d` (the members agree among themselves, one vector goes up), `auto` decides by cost and says why.
Every aggregate carries its slots and its sum of examples; parents merge disjoint sets only. With `mode: vertical` this is
federated averaging in a tree: the result is that of the flat star, to rounding.

Ops: `init`, `train`, `evaluate` as in fedavg; those of the cluster are listed in head.py (the head) and mixing.py (the members).

Schedules: `clusters` is the fraction of a parent's clusters that take part in a round; `period` the number of in-block rounds that an
inner node runs with its children for each update that it sends up.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from fog_common.errors import ConfigError
from fog_common.machine import (
    Command,
    Delivered,
    Event,
    Failed,
    Finish,
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
    WakeAt,
    Woke,
)
from fog_learning.job import Count, Evaluation, Fraction, Job, NotNegative
from fog_learning.methods.base import Method, Role
from fog_learning.methods.cluster import Call, Consensus, Links, More, Pass, Pull, Ready, Settled, Stuck, Trouble, Update
from fog_learning.methods.head import Head
from fog_learning.methods.member import Member
from fog_learning.methods.mixing import Share
from fog_learning.methods.tradeoff import LinkCosts, Objective


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["vertical", "d2d", "auto"] = "auto"
    local_steps: Count = 10
    """Optimiser steps per round on each node with data."""
    prox_mu: NotNegative = 0.0
    consensus: Consensus = Consensus()
    uplink: Literal["sample", "diversity"] = "sample"
    """d2d: one member, chosen at random under the seed, sends all; or each sends a disjoint slice."""
    downlink: Literal["relay", "direct"] = "relay"
    """d2d: the head sends the weights to one member, who passes them on; or to each."""
    clusters: Fraction = 1.0
    """Of the clusters under a node, the fraction that takes part in a round."""
    period: Count = 1
    """In-block rounds of an inner node for each of its parent's rounds."""
    absent_s: NotNegative = 30.0
    """A head that is lost is placed again; its parent's round waits so long for it before it closes without its cluster."""
    costs: LinkCosts = LinkCosts()
    """auto: what links cost."""
    objective: Objective = "energy"
    """auto: what is to be small."""


class _Alarm(Machine, kw_only=True):
    """What all three roles share: one wake-up for the deadline of a round and the stall of a consensus."""

    alarm: float | None = None
    """The wake-up that is set."""

    def step(self, event: Event, now: float) -> list[Command]:
        if isinstance(event, Woke):
            self.alarm = None
        commands = self.react(event, now)
        times = [time for time in self.times() if time is not None]
        if times and min(times) != self.alarm:
            self.alarm = min(times)
            commands = [*commands, WakeAt(self.alarm)]
        return commands

    def react(self, event: Event, now: float) -> list[Command]:
        raise TypeError(f"{type(self).__name__} does not define react()")

    def times(self) -> tuple[float | None, ...]:
        return ()


# -- a node with data ----------------------------------------------------------------------


class Trainer(_Alarm, kw_only=True):
    plan: Plan
    slot: int
    member: Member
    newest: int = 0
    doing: Call | None = None
    begun: int = 0
    """Trainings begun: one may be begun again, and the first still be running."""
    next: Call | None = None
    """The newest call that came while another was worked on: one at a time."""
    saved: int = 0
    since: float = 0.0

    def react(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started() | Rewound():
                self.since = now
            case Delivered(_, Call() as call):
                return [*self.member.called(call), *self._called(call)]
            case Delivered(sender, said):
                return self.member.hear(sender, said, now)
            case Ran(("trained", _, begun), refs, numbers) if begun == self.begun:
                return self._trained(refs["weights"], numbers, now)
            case Failed(("trained", _, begun), why) if begun == self.begun and self.doing is not None:
                call = self.doing
                self.newest = call.number - 1  # asked again, it tries again
                return [Send(call.head, Trouble(call.number, call.line, f"training failed: {why}"), latest=True), *self._go_on(now)]
            case Ran():
                return self.member.ran(event, now)
            case Failed():
                return self.member.op_failed(event)
            case Woke():
                return self.member.woke(now)
        return []

    def times(self) -> tuple[float | None, ...]:
        return (self.member.stuck_at,)

    def waiting(self, now: float) -> Waiting | None:
        return None if self.doing else self.member.waiting(now) or Waiting("round", since=self.since)

    def progress(self) -> tuple[int, tuple[RoundRecord, ...]]:
        return self.newest, ()

    def _called(self, call: Call) -> list[Command]:
        match self.member.verdict(call, self.doing, self.newest):
            case "elsewhere":
                return self.member.elsewhere(call)
            case "again":
                self.newest, self.doing, self.next = call.number, None, None
                self.begun += 1
                return self.member.give_again(call)
            case "adopt":
                self.doing, self.next = call, None
            case "begin" if self.doing is None:
                return self._begin(call)
            case "begin":
                self.next = call
        return []

    def _begin(self, call: Call) -> list[Command]:
        self.doing, self.newest = call, call.number
        self.begun += 1
        numbers: dict[str, float | int | str] = {
            "round": call.number,
            "slot": self.slot,
            "steps": self.plan.local_steps,
            "prox_mu": self.plan.prox_mu,
            "layers": "",
        }
        return [Run("train", {"weights": call.weights}, ("trained", call.number, self.begun), numbers)]

    def _trained(self, weights: Ref, numbers: Numbers, now: float) -> list[Command]:
        call = self.doing
        if call is None:
            return []
        after = self._go_on(now)
        if after:  # the head has closed this round, or began it anew: it would not count
            return [Measure("late_updates", 1), *after]
        self.saved = max(self.saved + 1, call.number)
        given = self.member.give(call, weights, int(numbers["examples"]), Slots.of(self.slot), {"loss": numbers["loss"]})
        return [Save(self.saved), *given, Measure("loss", numbers["loss"])]

    def _go_on(self, now: float) -> list[Command]:
        call, self.doing, self.next, self.since = self.next, None, None, now
        return [] if call is None else self._begin(call)


# -- an inner node -------------------------------------------------------------------------


class Aggregator(_Alarm, kw_only=True):
    plan: Plan
    me: str
    head: Head
    member: Member
    newest: int = 0
    doing: Call | None = None
    block: int = 0
    """In-block rounds that are done of the parent's round."""
    slots: Slots = Slots()
    """All that is in the block so far."""
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
            case Left(peer) if peer.parent == self.me:
                return self._after(self.head.left(peer.task, now), now)
            case Delivered(_, Call() as call):
                return [*self.member.called(call), *self._called(call, now)]
            case Delivered(sender, Ready() | Update() | Trouble() | Settled() | Stuck() as said):
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
        return self.head.waiting() or self.member.waiting(now) or Waiting("round", since=self.since)

    def progress(self) -> tuple[int, tuple[RoundRecord, ...]]:
        return self.newest, ()

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
                return self._after([], now)
            case "begin":
                self.doing, self.newest, self.block, self.slots, self.deserted = call, call.number, 0, Slots(), False
                return self._after(self._open(call.weights, now), now)
        return []

    def _open(self, weights: Ref, now: float) -> list[Command]:
        assert self.doing is not None
        number = (self.doing.number - 1) * self.plan.period + self.block + 1
        return self.head.open(number, self.doing.root, self.doing.line, weights, now, self.plan.clusters)

    def _after(self, commands: list[Command], now: float) -> list[Command]:
        """Look whether the cluster's round has ended."""
        call, agreed = self.doing, self.head.agreed
        if call is None:
            return commands
        if self.head.failed:
            why, self.doing, self.newest, self.since = self.head.failed, None, call.number - 1, now
            return [*commands, Send(call.head, Trouble(call.number, call.line, why), latest=True)]
        if self.head.deserted() != self.deserted:
            self.deserted = not self.deserted
            if self.deserted:
                return [*commands, Send(call.head, Trouble(call.number, call.line, "nobody is in its cluster", empty=True), latest=True)]
        if agreed is None:
            return commands
        self.head.agreed = None
        self.block += 1
        self.slots |= agreed.slots
        if self.block < self.plan.period:
            return [*commands, *self._after(self._open(agreed.weights, now), now)]
        self.doing, self.since = None, now
        self.saved = max(self.saved + 1, call.number)
        given = self.member.give(call, agreed.weights, agreed.examples, self.slots, agreed.numbers)
        return [*commands, Save(self.saved), *given]


# -- the root ------------------------------------------------------------------------------


class Server(_Alarm, kw_only=True):
    plan: Plan
    evaluation: Evaluation
    rounds: int
    me: str
    head: Head
    phase: Literal["starting", "idle", "running", "rating", "done"] = "starting"
    round: int = 0
    weights: Ref | None = None
    since: float = 0.0
    unrated: list[RoundRecord] = field(default_factory=list)
    history: list[RoundRecord] = field(default_factory=list)

    def react(self, event: Event, now: float) -> list[Command]:
        if self.phase == "done":
            return []
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
            case Left(peer) if self._is_mine(peer):
                return self._after(self.head.left(peer.task, now), now)
            case Delivered(sender, Ready() | Update() | Trouble() | Settled() | Stuck() as said):
                return self._after(self.head.hear(sender, said, now), now)
            case Ran(("init",), refs, numbers):
                self.weights, self.head.size_bytes = refs["weights"], int(numbers.get("bytes", 0))
                return [Save(0), *self._open(now)]
            case Ran(("rated", number), _, numbers):
                return self._rated(int(number), {"accuracy": numbers["accuracy"], "rated_loss": numbers["loss"]})
            case Ran():
                return self._after(self.head.ran(event), now)
            case Failed(("init" | "rated" as what, *_), why):
                return self._fail(f"{'making the first weights' if what == 'init' else 'the evaluation'} failed: {why}")
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

    def progress(self) -> tuple[int, tuple[RoundRecord, ...]]:
        return self.round, tuple(self.history)

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
        self.round += 1
        return self.head.open(self.round, self.round, (), self.weights, now, self.plan.clusters)

    def _after(self, commands: list[Command], now: float) -> list[Command]:
        agreed = self.head.agreed
        if self.head.failed:
            return [*commands, *self._fail(f"no node can go on in round {self.round}: {self.head.failed}")]
        if agreed is None or self.phase != "running":
            return commands
        self.head.agreed = None
        self.weights, number = agreed.weights, self.round
        record = RoundRecord(number, now, agreed.members, agreed.examples, {**agreed.numbers, "slots": float(len(agreed.slots))})
        measured = [Measure(name, agreed.numbers[name]) for name in sorted(agreed.numbers) if name != "consensus_error"]
        rated = self.evaluation.where == "central" and (number % self.evaluation.every == 0 or number == self.rounds)
        rating = [Run("evaluate", {"weights": self.weights}, ("rated", number), {"round": number})] if rated else []
        if rated:
            self.unrated.append(record)
        else:
            self.history.append(record)
        if number < self.rounds:
            return [*commands, Save(number), *measured, *self._open(now), *rating]  # the evaluation overlaps the next round
        self.phase = "rating"
        return [*commands, Save(number), *measured, *(rating or self._finish())]

    def _rated(self, number: int, numbers: Numbers) -> list[Command]:
        for record in [record for record in self.unrated if record.round == number]:
            self.unrated.remove(record)
            self.history.append(RoundRecord(record.round, record.closed_at, record.updates, record.examples, {**record.numbers, **numbers}))
            self.history.sort(key=lambda each: each.round)
        measured = [Measure(name, numbers[name]) for name in sorted(numbers)]
        return [*measured, *(self._finish() if self.phase == "rating" and not self.unrated else [])]

    def _finish(self) -> list[Command]:
        assert self.weights is not None
        self.phase = "done"
        return [Finish({"weights": self.weights}, dict(self.history[-1].numbers))]

    def _fail(self, why: str) -> list[Command]:
        self.phase = "done"
        return [Finish(why=why)]


# -- the method ----------------------------------------------------------------------------


def build(job: Job, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    member = Member(seed=job.seed, consensus=plan.consensus, head=peer.parent)
    if peer.role == "trainer":
        return Trainer(plan=plan, slot=peer.slot, member=member)
    head = Head(
        me=peer.task,
        seed=job.seed,
        mode=plan.mode,
        uplink=plan.uplink,
        downlink=plan.downlink,
        consensus=plan.consensus,
        absent_s=plan.absent_s,
        stragglers=job.stragglers,
        costs=plan.costs,
        objective=plan.objective,
    )
    if peer.role == "aggregator":
        return Aggregator(plan=plan, me=peer.task, head=head, member=member)
    return Server(plan=plan, evaluation=job.evaluation, rounds=job.train.rounds, me=peer.task, head=head)


def check(job: Job, plan: Struct) -> None:
    assert isinstance(plan, Plan)
    if job.evaluation.where == "federated":
        raise ConfigError("evaluation.where: fog evaluates at the root; expected central or none, got federated")
    if job.stragglers.late == "accept":
        raise ConfigError("stragglers.late: fog drops what comes after its round; expected drop, got accept")


FOG = Method(
    name="fog",
    title="Fog learning: a tree of clusters, averaging up or sideways",
    source="Hosseinalipour et al. 2020",
    plan=Plan,
    roles=(
        Role("server", Server, where="cloud", stateful=True),
        Role("aggregator", Aggregator, where="layer", stateful=True),
        Role("trainer", Trainer, where="data", heritable=True),
    ),
    messages=(Call, Pass, Ready, Update, Trouble, Links, Settled, More, Pull, Stuck, Share),
    root="server",
    build=build,
    check=check,
)
