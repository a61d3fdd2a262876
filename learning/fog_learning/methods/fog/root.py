"""The root of fog (protocol and ops: fog_learning.methods.fog.method)."""

from __future__ import annotations

from typing import Literal

from fog_common.runtime.machine import (
    Command,
    Delivered,
    Event,
    Failed,
    Handle,
    Joined,
    Left,
    Measure,
    Numbers,
    Peer,
    Ran,
    Ref,
    Rewound,
    RoundRecord,
    Run,
    Save,
    Started,
    Waiting,
    Woke,
)
from fog_learning.clusters.head import ClusterHead
from fog_learning.clusters.messages import Contribution, Lacking, NoContribution, Ready, Settled, Stuck
from fog_learning.methods.fog.plan import Blocks, Plan
from fog_learning.rounds.alarm import Alarm
from fog_learning.rounds.ledger import Ledger


class Root(Alarm, kw_only=True):
    plan: Plan
    blocks: Blocks
    ledger: Ledger
    me: str
    head: ClusterHead
    phase: Literal["starting", "idle", "running", "rating", "stopping"] = "starting"
    weights: Ref | None = None
    base: Ref | None = None
    """deep: the newest whole model; `weights` after a round that averaged all blocks."""
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
        """deep: put the newest weights and the deep blocks of the newest whole model together; otherwise as any root."""
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
