"""The trainer of fog: a node with data (protocol and ops: fog_learning.methods.fog.method)."""

from __future__ import annotations

from fog_common.runtime.machine import (
    Command,
    Delivered,
    Event,
    Failed,
    Measure,
    Numbers,
    Ran,
    Ref,
    Rewound,
    Run,
    Save,
    Send,
    Slots,
    Started,
    Waiting,
    Woke,
)
from fog_learning.clusters.member import ClusterMember
from fog_learning.clusters.messages import Call, Lacking, NoContribution
from fog_learning.methods.fog.plan import Blocks, Plan
from fog_learning.rounds.alarm import Alarm


class Leaf(Alarm, kw_only=True):
    plan: Plan
    blocks: Blocks
    slot: int
    member: ClusterMember
    newest: int = 0
    doing: Call | None = None
    begun: int = 0
    """Number of trainings begun; a training may begin again while an earlier one still runs."""
    next: Call | None = None
    """The newest call that came during a training; older ones are dropped."""
    own: Ref | None = None
    """deep: the blocks that stay here between two whole rounds, as they were before the newest training that counted."""
    grown: Ref | None = None
    """deep: the same blocks after that training."""
    at: tuple[int, int] = (0, 0)
    """(root's round, round) of that training."""
    basis: int = -1
    """The whole round from which `own` and `grown` come; -1: this node has no such blocks."""
    using: Ref | None = None
    """The own blocks with which the running training began."""
    lacks: bool = False
    """This node asked for a whole model, without which it cannot join the round."""
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
                return self._trained(refs["weights"], refs.get("own"), numbers, now)
            case Failed(("trained", _, begun), why) if begun == self.begun and self.doing is not None:
                call = self.doing
                self.newest = call.number - 1  # another call of this round tries again
                return [Send(call.head, NoContribution(call.number, call.line, f"training failed: {why}"), latest=True), *self._go_on(now)]
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
        if self.doing is not None:
            return None
        return self.member.waiting(now) or Waiting("whole model, to begin with" if self.lacks else "round", since=self.since)

    def progress(self) -> int:
        return self.newest

    def _called(self, call: Call) -> list[Command]:
        if self.next is not None and self.next.head == call.head and (call.line, call.number) < (self.next.line, self.next.number):
            return []  # a copy of an older call, relayed by a slow neighbour
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
        own = None if call.whole else call.base or self._own(call)
        self.lacks = not call.whole and own is None
        if self.lacks:
            return [Send(call.head, Lacking(call.number, call.line), keep=call.root)]
        self.doing, self.newest, self.using = call, call.number, own
        self.begun += 1
        refs = {"weights": call.weights} if own is None else {"weights": call.weights, "own": own}
        numbers: dict[str, float | int | str] = {
            "round": call.number,
            "slot": self.slot,
            "steps": self.plan.local_steps,
            "prox_mu": self.plan.prox_mu,
            "without": self.blocks.without(call.root),
        }
        return [Run("train", refs, ("trained", call.number, self.begun), numbers)]

    def _own(self, call: Call) -> Ref | None:
        """Own blocks for a call without them; None without any. A repeated round begins with the same blocks as the first time."""
        if self.basis != self.blocks.newest_whole(call.root):
            return None
        return self.grown if (call.root, call.number) > self.at else self.own

    def _trained(self, weights: Ref, grown: Ref | None, numbers: Numbers, now: float) -> list[Command]:
        call, own = self.doing, self.using
        if call is None:
            return []
        after = self._go_on(now)
        if after:  # the head has closed this round or begun it anew, so the update would not count
            return [Measure("late_updates", 1), *after]
        if self.blocks.deep:
            self.own, self.grown, self.at, self.basis = own, grown, (call.root, call.number), self.blocks.newest_whole(call.root)
        self.saved = max(self.saved + 1, call.number)
        given = self.member.give(call, weights, int(numbers["examples"]), Slots.of(self.slot), {"loss": numbers["loss"]})
        return [Save(self.saved), *given, Measure("loss", numbers["loss"])]

    def _go_on(self, now: float) -> list[Command]:
        call, self.doing, self.next, self.using, self.since = self.next, None, None, None, now
        return [] if call is None else self._begin(call)
