"""The server of fedavg (protocol and ops: fog_learning.methods.fedavg.method)."""

from __future__ import annotations

import math
from typing import Final, Literal

from msgspec import Struct, field

from fog_common.runtime.machine import (
    Cast,
    Close,
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
    WakeAt,
    Woke,
)
from fog_learning.job.sections import Stragglers
from fog_learning.methods.fedavg.messages import Branch, NoUpdate, Part, Plan, RoundCall, Update, branch_of
from fog_learning.rounds.closing import Closing, stale_weight
from fog_learning.rounds.ledger import Ledger

AHEAD: Final = 8
"""Rounds beyond the open one whose updates are kept."""


class Counted(Struct):
    """One update of the open round, without its weights."""

    slots: Slots
    examples: int
    numbers: Numbers
    why: str = ""
    """Reason for which the update could not be added; '' if it was."""


class Server(Machine):
    plan: Plan
    ledger: Ledger
    closing: Closing
    phase: Literal["starting", "idle", "open", "averaging", "rating"] = "starting"
    weights: Ref | None = None
    branch: Branch = ""
    """Branch of the weights."""
    moments: dict[str, Ref] = field(default_factory=dict)
    trainers: dict[str, int] = field(default_factory=dict)
    """Live trainers: task -> slot."""
    sum: Handle | None = None
    answers: list[Counted] = field(default_factory=list)
    heard: dict[int, dict[int, bool]] = field(default_factory=dict)
    """round -> slots whose update came, for the open round and the few before it."""
    troubled: dict[int, str] = field(default_factory=dict)
    """slot -> reason for which it has no update in this round."""
    late: list[Update] = field(default_factory=list)
    """Late updates that wait to be added to the open or the next round."""
    mixed: list[Part] = field(default_factory=list)
    """Late updates in the open round's sum."""
    ahead: list[Update] = field(default_factory=list)
    """Updates of rounds that a lost server had opened; they count if the same weights are made again."""
    stale: int = 0
    """Rounds by which the oldest update in the open round's sum is late."""
    since: float = 0.0

    @property
    def round(self) -> int:
        return self.ledger.round

    @property
    def stragglers(self) -> Stragglers:
        return self.closing.stragglers

    def step(self, event: Event, now: float) -> list[Command]:
        if self.ledger.over:
            return []
        match event:
            case Started(roster):
                self._meet(roster)
                self.since = now
                return [Run("init", {}, ("init",), {"layers": ",".join(self.plan.layers)})]
            case Rewound(_, roster):  # the commands behind the Save were performed again, including the Cast
                self._meet(roster)
                return self._open(now) if self.phase == "idle" else self._close_if_ready(now)
            case Joined(peer) if peer.role == "trainer":
                self.trainers[peer.task] = peer.slot
                if self.phase == "idle":
                    return self._open(now)
                if self.phase == "open" and peer.slot not in self.heard[self.round]:
                    self.troubled.pop(peer.slot, None)
                    return [Send(peer.task, self._call(), latest=True)]
            case Left(peer, False) if peer.role == "trainer":  # in order: Joined comes with its new instance
                self.trainers.pop(peer.task, None)
                return self._close_if_ready(now)
            case Delivered(sender, Update() | NoUpdate() as said) if not self._owns(sender, said.slots):
                return [Measure("bad_updates", 1)]
            case Delivered(_, Update() as update):
                return self._hear(update, now)
            case Delivered(_, NoUpdate(number, slots, why)) if self.phase == "open" and number == self.round:
                self.troubled |= {slot: why for slot in slots if slot not in self.heard[number]}
                return [Measure("troubled_updates", 1), *self._close_if_ready(now)]
            case Woke():
                return [*self._take_ahead(now), *self._close_if_ready(now)]
            case Ran(("init",), refs):
                self.weights = refs["weights"]
                return [Save(0), *self._open(now)]
            case Ran(("weights", number), refs) if self.phase == "averaging" and number == self.round:
                return self._closed(refs, now)
            case Ran(("rated", number), _, numbers):
                return self._rated(int(number), {"accuracy": numbers["accuracy"], "rated_loss": numbers["loss"]})
            case Failed(("added", number, index), why):
                return self._not_added(int(number), int(index), why, now)
            case Failed((what, *_), why):
                return self.ledger.fail(f"{_OPS.get(str(what), str(what))} failed in round {self.round}: {self._first_trouble() or why}")
        return []

    def waiting(self, now: float) -> Waiting | None:
        if self.phase == "idle" or (self.phase == "open" and not self.trainers):
            return Waiting("trainers", 0, 1, (), self.since)
        if self.phase != "open":
            return None
        who = tuple(task for task, slot in self.trainers.items() if not self._answered(slot))
        have = len(self.heard[self.round])
        until = self.closing.until(have, len(self.trainers))
        return Waiting("updates", have, have + len(who), who, self.closing.opened_at, until)

    def progress(self) -> int:
        return self.ledger.shown

    def figures(self) -> Numbers:
        return self.ledger.numbers

    # -- a round opens -----------------------------------------------------------------

    def _meet(self, roster: tuple[Peer, ...]) -> None:
        self.trainers = {peer.task: peer.slot for peer in roster if peer.role == "trainer"}

    def _open(self, now: float) -> list[Command]:
        """Open the next round (the one after the last only rates the result), or wait for trainers."""
        self.since = now
        if not self.trainers:
            self.phase = "idle"
            return []
        self.phase = "open"
        self.ledger.open()
        self.closing.open(now, len(self.trainers))
        self.answers, self.troubled, self.stale = [], {}, 0
        self.mixed = []
        self.heard[self.round] = {}
        kept = self.stragglers.late_rounds if self.stragglers.late == "accept" else 1
        self.heard = {number: slots for number, slots in self.heard.items() if number >= self.round - kept}
        return [Cast("trainer", self._call(), latest=True), *self._alarm()]

    def _call(self) -> RoundCall:
        assert self.weights is not None
        rate = self.ledger.evaluation.where == "federated" and self.ledger.rates(self.round - 1)
        return RoundCall(self.round, self.weights, train=self.round <= self.ledger.rounds, rate=rate, branch=self.branch)

    def _alarm(self) -> list[Command]:
        known = self.closing.opened_at if any(update.round <= self.round for update in self.ahead) else None
        return [WakeAt(min(at))] if (at := [at for at in (known, *self.closing.wakes_at()) if at is not None]) else []

    # -- updates come ------------------------------------------------------------------

    def _owns(self, sender: str, slots: Slots) -> bool:
        """Whether the slots are the sender's own. The last message of a trainer that has just left is accepted."""
        return sender not in self.trainers or slots.members == (self.trainers[sender],)

    def _hear(self, update: Update, now: float) -> list[Command]:
        number = update.round
        if number > self.round:
            return self._keep_ahead(update)
        if number not in self.heard:  # too old
            return [Measure("late_updates", 1)]
        if number == self.round and update.branch != self.branch:  # made from weights that a server before us had, and lost
            return [Measure("late_updates", 1)]
        heard = self.heard[number]
        if any(slot in heard for slot in update.slots):
            return [Measure("repeated_updates", 1)]
        heard |= dict.fromkeys(update.slots, True)
        if number < self.round or self.phase != "open":
            self.closing.arrived(now, self.round - number)
            if self.stragglers.late == "accept" and update.weights is not None:
                self.late.append(update)
            return [Measure("late_updates", 1)]
        self.closing.arrived(now)
        for slot in update.slots:
            self.troubled.pop(slot, None)
        self.answers.append(Counted(update.slots, update.examples, update.numbers))
        adding: list[Command] = []
        if update.weights is not None:
            adding = [*self._add_late(), self._add(update.weights, update.examples, len(self.answers) - 1)]
        return [*adding, *self._close_if_ready(now)]

    def _keep_ahead(self, update: Update) -> list[Command]:
        others = [other for other in self.ahead if (other.round, other.slots) != (update.round, update.slots)]
        if update.round > self.round + AHEAD:
            return [Measure("late_updates", 1)]
        self.ahead = [*others, update]
        return []

    def _take_ahead(self, now: float) -> list[Command]:
        """Take the waiting updates of this round, in a later step than the one that opens it: that step's Save holds no sum."""
        if self.phase != "open":
            return []
        ready = [update for update in self.ahead if update.round <= self.round]
        self.ahead = [update for update in self.ahead if update.round > self.round]
        return [command for update in ready for command in self._hear(update, now)]

    def _add(self, weights: Ref, n: float, index: int) -> Command:
        self.sum = Handle(f"sum{self.round}")
        return Run("accumulate", {"sum": self.sum, "add": weights}, ("added", self.round, index), {"n": n}, {"sum": self.sum})

    def _add_late(self) -> list[Command]:
        """Add late updates after the round's first own update: until then `sum` must be empty, for the Save."""
        late, self.late = [update for update in self.late if self.round - update.round <= self.stragglers.late_rounds], []
        self.stale = max([self.stale, *(self.round - update.round for update in late)])
        self.mixed += [(update.round, update.slots.members, update.branch) for update in late]
        weighted = [(update.weights, stale_weight(update.examples, self.round - update.round, self.stragglers.staleness)) for update in late]
        return [self._add(weights, n, -1) for weights, n in weighted if weights is not None]

    def _not_added(self, number: int, index: int, why: str, now: float) -> list[Command]:
        if number != self.round or index < 0:
            return [Measure("bad_updates", 1)]
        answer = self.answers[index]
        answer.why = why
        for slot in answer.slots:
            self.heard[number].pop(slot, None)
            self.troubled[slot] = f"its update cannot be averaged: {why}"
        return [Measure("bad_updates", 1), *self._close_if_ready(now)]

    # -- a round closes ----------------------------------------------------------------

    def _answered(self, slot: int) -> bool:
        return slot in self.heard[self.round] or slot in self.troubled

    def _close_if_ready(self, now: float) -> list[Command]:
        if self.phase != "open":
            return []
        have, live = len(self.heard[self.round]), len(self.trainers)
        complete = have + len(self.troubled) >= live and all(self._answered(slot) for slot in self.trainers.values())
        if self.closing.offer(now, have, live, complete) != "open":
            return self._close()
        if complete and live and not have:
            return self.ledger.fail(f"no trainer can go on in round {self.round}: {self._first_trouble()}")
        return self._alarm()

    def _close(self) -> list[Command]:
        self.closing.close()
        if self.round > self.ledger.rounds:
            return self._rated(self.ledger.rounds, self._federated())
        self.phase = "averaging"
        number = self.round
        if self.plan.server_optimizer == "none":
            return [Run("mean", self._sum(), ("weights", number))]
        mean = Handle(f"mean{number}")
        plan = self.plan
        assert self.weights is not None
        return [
            Run("mean", self._sum(), ("mean", number), into={"weights": mean}),
            Run(
                "server_opt",
                {"weights": self.weights, "mean": mean, **self.moments},
                ("weights", number),
                {"kind": plan.server_optimizer, "lr": plan.server_lr, "beta1": plan.beta1, "beta2": plan.beta2, "eps": plan.eps, "round": number},
            ),
        ]

    def _sum(self) -> dict[str, Ref]:
        return {} if self.sum is None else {"sum": self.sum}

    def _closed(self, refs: dict[str, Ref], now: float) -> list[Command]:
        """The new weights are ready: close the round, save, open the next or finish."""
        self.weights = refs["weights"]
        self.moments = {name: refs[name] for name in ("m", "v") if name in refs}
        self.sum = None
        good = sorted((answer for answer in self.answers if not answer.why), key=lambda answer: answer.slots.members)
        self.branch = branch_of(self.branch, [*self.mixed, *((self.round, answer.slots.members, self.branch) for answer in good)])
        record = RoundRecord(
            self.round, now, len(good), sum(a.examples for a in good), {"loss": _mean([(a.examples, a.numbers.get("loss")) for a in good])}
        )
        number, last, ledger = self.round, self.ledger.last, self.ledger
        # federated: the trainers of this round rated the weights of the one before
        before = [command for command in ledger.rate(number - 1, self._federated()) if isinstance(command, Close)]
        closed = [*before, *ledger.close(record, rate=ledger.rates(number))]
        measured = [Measure("loss", record.numbers["loss"]), Measure("staleness_rounds", float(self.stale))]
        saved: list[Command] = [*closed, Save(number), *measured]
        if not ledger.waits_for(number):
            return [*saved, *(ledger.finish(self.weights) if last else self._open(now))]
        if ledger.evaluation.where == "federated":
            return [*saved, *self._open(now)]
        rating = Run("evaluate", {"weights": self.weights}, ("rated", number), {"round": number})
        if last:
            self.phase = "rating"
            return [*saved, rating]
        return [*saved, *self._open(now), rating]  # the evaluation overlaps the next round

    def _federated(self) -> Numbers:
        good = sorted((answer for answer in self.answers if not answer.why), key=lambda answer: answer.slots.members)
        return {
            name: _mean([(answer.numbers.get("rated_examples", 0.0), answer.numbers.get(name)) for answer in good])
            for name in ("accuracy", "rated_loss")
        }

    def _rated(self, number: int, numbers: Numbers) -> list[Command]:
        rated = self.ledger.rate(number, numbers)
        if not rated or number < self.ledger.rounds:
            return rated
        assert self.weights is not None
        return [*rated, *self.ledger.finish(self.weights)]

    def _first_trouble(self) -> str:
        return next((f"slot {slot}: {self.troubled[slot]}" for slot in sorted(self.troubled)), "")


_OPS = {"init": "making the first weights", "weights": "averaging", "mean": "averaging", "rated": "the evaluation"}


def _mean(pairs: list[tuple[float, float | None]]) -> float:
    """sum(n x) / sum(n) over the pairs that have an x; 0.0 without any."""
    known = [(n, x) for n, x in pairs if x is not None and n > 0]
    return math.fsum(n * x for n, x in known) / math.fsum(n for n, _ in known) if known else 0.0
