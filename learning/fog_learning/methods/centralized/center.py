"""The center of centralized training collects the samples and trains on them (protocol and ops: fog_learning.methods.centralized.method)."""

from __future__ import annotations

from typing import Literal

from msgspec import field

from fog_common.runtime.machine import (
    Cast,
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
    Started,
    Waiting,
)
from fog_learning.methods.centralized.messages import AskSamples, NoSamples, Plan, Samples
from fog_learning.rounds.ledger import Ledger

WEIGHTS, OPT = Handle("weights"), Handle("opt")


class Center(Machine):
    plan: Plan
    ledger: Ledger
    phase: Literal["starting", "collecting", "training"] = "starting"
    weights: Ref | None = None
    opt: Ref | None = None
    sources: dict[str, int] = field(default_factory=dict)
    """Live sources: task -> slot."""
    samples: dict[int, Ref] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    """slot -> number of its examples."""
    since: float = 0.0

    def step(self, event: Event, now: float) -> list[Command]:
        if self.ledger.over:
            return []
        match event:
            case Started(roster):
                self._meet(roster)
                return [Run("init", {}, ("init",), {"layers": ""})]
            case Rewound(_, roster):
                self._meet(roster)
                missing: list[Command] = [Send(task, AskSamples(), latest=True) for task, slot in self.sources.items() if slot not in self.samples]
                return [*missing, *self._train_if_ready(now)]
            case Joined(peer) if peer.role == "source":
                self.sources[peer.task] = peer.slot
                return [] if peer.slot in self.samples or self.phase == "starting" else [Send(peer.task, AskSamples(), latest=True)]
            case Left(peer, False) if peer.role == "source":
                self.sources.pop(peer.task, None)
                return self._train_if_ready(now)
            case Delivered(_, Samples(slot, samples, examples)) if slot not in self.samples:
                self.samples[slot], self.counts[slot] = samples, examples
                return self._train_if_ready(now)
            case Delivered(_, NoSamples(slot, why)) if slot not in self.samples:
                return self.ledger.fail(f"slot {slot} does not share its samples: {why}")
            case Ran(("init",), refs):
                self.weights, self.phase, self.since = refs["weights"], "collecting", now
                return [Cast("source", AskSamples(), latest=True)]
            case Ran(("trained", number), refs, numbers) if number == self.ledger.round:
                return self._trained(refs, numbers, now)
            case Ran(("rated", number), _, numbers):
                return self._rated(int(number), numbers)
            case Failed((what, *_), why):
                return self.ledger.fail(f"{what} failed in round {self.ledger.round}: {why}")
        return []

    def waiting(self, now: float) -> Waiting | None:
        if self.phase != "collecting":
            return None
        who = tuple(task for task, slot in self.sources.items() if slot not in self.samples)
        return Waiting("samples", len(self.samples), max(1, len(self.samples) + len(who)), who, self.since)

    def progress(self) -> int:
        return self.ledger.round

    def figures(self) -> Numbers:
        return self.ledger.numbers

    def _meet(self, roster: tuple[Peer, ...]) -> None:
        self.sources = {peer.task: peer.slot for peer in roster if peer.role == "source"}

    def _train_if_ready(self, now: float) -> list[Command]:
        if self.phase != "collecting" or not self.samples or any(slot not in self.samples for slot in self.sources.values()):
            return []
        self.phase = "training"
        return [Save(0), self._train()]

    def _train(self) -> Run:
        assert self.weights is not None
        number = self.ledger.open()
        refs: dict[str, Ref] = {"weights": self.weights, **{f"samples{slot}": self.samples[slot] for slot in sorted(self.samples)}}
        if self.opt is not None:
            refs["opt"] = self.opt
        return Run("train_union", refs, ("trained", number), {"round": number, "steps": self.plan.round_steps}, {"weights": WEIGHTS, "opt": OPT})

    def _trained(self, refs: dict[str, Ref], numbers: Numbers, now: float) -> list[Command]:
        self.weights, self.opt = refs["weights"], refs["opt"]
        number, last = self.ledger.round, self.ledger.last
        record = RoundRecord(
            number, now, len(self.samples), int(numbers["examples"]), {"loss": numbers["loss"], "samples": float(sum(self.counts.values()))}
        )
        measured = Measure("loss", numbers["loss"])
        rated = self.ledger.rates_here(number)
        closed = self.ledger.close(record, rate=rated)
        rating: list[Command] = [Run("evaluate", {"weights": self.weights}, ("rated", number), {"round": number})] if rated else []
        if not last:
            following: list[Command] = [self._train()]
        else:
            following = [] if rated else self.ledger.finish(self.weights)
        return [measured, *closed, Save(number), *rating, *following]

    def _rated(self, number: int, numbers: Numbers) -> list[Command]:
        rated = self.ledger.rate(number, {"accuracy": numbers["accuracy"], "rated_loss": numbers["loss"]})
        if not rated or number < self.ledger.rounds:
            return rated
        assert self.weights is not None
        return [*rated, *self.ledger.finish(self.weights)]
