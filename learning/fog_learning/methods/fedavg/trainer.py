"""The trainer of fedavg: a node with data (protocol and ops: fog_learning.methods.fedavg.method)."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from fog_common.runtime.machine import (
    Cancel,
    Command,
    Delivered,
    Event,
    Failed,
    Joined,
    Machine,
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
)
from fog_learning.methods.fedavg.messages import Branch, NoUpdate, Plan, RoundCall, Update


class Called(Struct, frozen=True):
    """A RoundCall and its sender, which gets the answer."""

    sender: str
    round: RoundCall


class Trainer(Machine):
    plan: Plan
    slot: int
    late: Literal["drop", "accept"] = "drop"
    late_rounds: int = 0
    newest: int = 0
    """The newest round begun."""
    branch: Branch = ""
    """Branch of the weights with which `newest` was begun."""
    doing: Called | None = None
    next: Called | None = None
    """The newest call that came during a training; older ones are dropped, so that a slow node never falls further behind."""
    own: Ref | None = None
    """Blocks that are not averaged, as they were before round `at`."""
    grown: Ref | None = None
    """The same blocks after round `at`."""
    at: int = 0
    """The newest round trained."""
    using: Ref | None = None
    """The own blocks with which the running round began."""
    scores: Numbers = field(default_factory=dict)
    renewed: bool = False
    """The server is a new instance and may have fallen back, so that a lower round number may be current."""
    since: float = 0.0

    def step(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started():
                self.since = now
            case Rewound():
                self.since, self.renewed = now, True  # the server may have fallen back together with us
            case Joined(peer) if peer.role == "server":
                self.renewed = True
            case Delivered(sender, RoundCall() as call):
                return self._called(Called(sender, call))
            case Ran(("scored", number), _, numbers) if self._does(number):
                return self._scored({"accuracy": numbers["accuracy"], "rated_loss": numbers["loss"], "rated_examples": numbers["examples"]}, now)
            case Ran(("trained", number), refs, numbers) if self._does(number):
                return self._trained(refs, numbers, now)
            case Failed((what, number), why) if self._does(number):
                return self._failed(str(what), why, now)
        return []

    def waiting(self, now: float) -> Waiting | None:
        return None if self.doing else Waiting("round", since=self.since)

    def progress(self) -> int:
        return self.newest

    def _does(self, number: str | int) -> bool:
        return self.doing is not None and self.doing.round.number == number

    def _called(self, call: Called) -> list[Command]:
        number = call.round.number
        anew = number == self.newest and call.round.branch != self.branch  # the server fell back and closed the previous round again
        fresh = number > self.newest or (self.renewed and number <= self.newest) or anew or not call.round.train
        if not fresh or (self._does(number) and not anew):
            return []
        if self.doing is None:
            return self._begin(call)
        if self.next is None or self.renewed or number >= self.next.round.number:
            self.next = call
        return []

    def _begin(self, call: Called) -> list[Command]:
        self.doing, self.newest, self.branch, self.renewed, self.scores = call, call.round.number, call.round.branch, False, {}
        number = call.round.number
        weights: dict[str, Ref] = {"weights": call.round.weights}
        self.using = self.grown if number > self.at else self.own  # a repeated round begins with the same blocks as the first time
        if self.using is not None:
            weights["own"] = self.using
        common: dict[str, float | int | str] = {"slot": self.slot, "layers": ",".join(self.plan.layers)}
        commands: list[Command] = []
        if call.round.rate or not call.round.train:
            commands.append(Run("evaluate_local", weights, ("scored", number), common))
        if call.round.train:
            numbers = {**common, "round": number, "steps": self.plan.local_steps, "prox_mu": self.plan.prox_mu}
            commands.append(Run("train", weights, ("trained", number), numbers))
        return commands

    def _scored(self, scores: Numbers, now: float) -> list[Command]:
        assert self.doing is not None
        self.scores = scores
        if self.doing.round.train:
            return []
        update = Update(self.doing.round.number, None, 0, Slots.of(self.slot), scores, self.doing.round.branch)
        answer = Send(self.doing.sender, update, latest=True)
        return [answer, *self._go_on(now)]

    def _trained(self, refs: dict[str, Ref], numbers: Numbers, now: float) -> list[Command]:
        assert self.doing is not None
        number, sender, branch = self.doing.round.number, self.doing.sender, self.doing.round.branch
        self.own, self.grown, self.at = self.using, refs.get("own"), number
        examples = int(numbers["examples"])
        update = Update(number, refs["weights"], examples, Slots.of(self.slot), {"loss": numbers["loss"], **self.scores}, branch)
        after = self._go_on(now)
        if self.late == "drop" and after and (self.newest, self.branch) != (number, branch):
            return [Measure("late_updates", 1), *after]  # the round is closed or called anew, so the update would not count
        keep = number + self.late_rounds if self.late == "accept" else number
        return [Save(number), Send(sender, update, keep=keep), Measure("loss", numbers["loss"]), *after]

    def _failed(self, what: str, why: str, now: float) -> list[Command]:
        assert self.doing is not None
        number, sender = self.doing.round.number, self.doing.sender
        if what == "scored":
            what = "evaluation"
        tag = ("trained", number)
        trouble = Send(sender, NoUpdate(number, Slots.of(self.slot), f"{'training' if what == 'trained' else what} failed: {why}"), latest=True)
        self.newest = number - 1  # another call of this round tries again
        return [Cancel(tag), trouble, *self._go_on(now)]

    def _go_on(self, now: float) -> list[Command]:
        """Begin the next round, if one waits."""
        call, self.doing, self.next, self.since = self.next, None, None, now
        return [] if call is None else self._begin(call)
