"""fog: a node with data. See fog.py."""

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
    """Trainings begun: one may be begun again, and the first still be running."""
    next: Call | None = None
    """The newest call that came while another was worked on: one at a time."""
    own: Ref | None = None
    """deep: the blocks that stay here between two whole rounds, as they were before the newest training that counted, and `grown`, after it."""
    grown: Ref | None = None
    at: tuple[int, int] = (0, 0)
    """(root's round, round) of that training."""
    basis: int = -1
    """The whole round that they go back to; -1: there are none."""
    using: Ref | None = None
    """Own blocks that the running training began with."""
    lacks: bool = False
    """Asked for a whole model: without it this node cannot join the round."""
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
                self.newest = call.number - 1  # asked again, it tries again
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
            return []  # a copy of an older one, by way of a slow neighbour
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
        """The blocks that this round does not bring. A round that is done once more begins where it began the first time."""
        if self.basis != self.blocks.newest_whole(call.root):
            return None
        return self.grown if (call.root, call.number) > self.at else self.own

    def _trained(self, weights: Ref, grown: Ref | None, numbers: Numbers, now: float) -> list[Command]:
        call, own = self.doing, self.using
        if call is None:
            return []
        after = self._go_on(now)
        if after:  # the head has closed this round, or began it anew: it would not count
            return [Measure("late_updates", 1), *after]
        if self.blocks.deep:
            self.own, self.grown, self.at, self.basis = own, grown, (call.root, call.number), self.blocks.newest_whole(call.root)
        self.saved = max(self.saved + 1, call.number)
        given = self.member.give(call, weights, int(numbers["examples"]), Slots.of(self.slot), {"loss": numbers["loss"]})
        return [Save(self.saved), *given, Measure("loss", numbers["loss"])]

    def _go_on(self, now: float) -> list[Command]:
        call, self.doing, self.next, self.using, self.since = self.next, None, None, None, now
        return [] if call is None else self._begin(call)
