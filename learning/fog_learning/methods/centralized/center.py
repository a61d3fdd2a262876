"""The center of centralized training: collects the samples, trains on them (protocol and ops: fog_learning.methods.centralized.method)."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import field

from fog_common.runtime.machine import (
    Cast,
    Command,
    Delivered,
    Event,
    Failed,
    Finish,
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
from fog_learning.job.sections import Evaluation
from fog_learning.methods.centralized.messages import AskSamples, NoSamples, Plan, Samples

WEIGHTS, OPT = Handle("weights"), Handle("opt")


class Center(Machine):
    plan: Plan
    evaluation: Evaluation
    rounds: int
    phase: Literal["starting", "collecting", "training", "done"] = "starting"
    round: int = 0
    weights: Ref | None = None
    opt: Ref | None = None
    sources: dict[str, int] = field(default_factory=dict)
    """Live sources: task -> slot."""
    samples: dict[int, Ref] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    """Examples of each."""
    unrated: RoundRecord | None = None
    history: list[RoundRecord] = field(default_factory=list)
    since: float = 0.0

    def step(self, event: Event, now: float) -> list[Command]:
        if self.phase == "done":
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
                return self._fail(f"slot {slot} does not share its samples: {why}")
            case Ran(("init",), refs):
                self.weights, self.phase, self.since = refs["weights"], "collecting", now
                return [Cast("source", AskSamples(), latest=True)]
            case Ran(("trained", number), refs, numbers) if number == self.round:
                return self._trained(refs, numbers, now)
            case Ran(("rated", number), _, numbers):
                return self._rated(int(number), numbers)
            case Failed((what, *_), why):
                return self._fail(f"{what} failed in round {self.round}: {why}")
        return []

    def waiting(self, now: float) -> Waiting | None:
        if self.phase != "collecting":
            return None
        who = tuple(task for task, slot in self.sources.items() if slot not in self.samples)
        return Waiting("samples", len(self.samples), max(1, len(self.samples) + len(who)), who, self.since)

    def progress(self) -> tuple[int, tuple[RoundRecord, ...]]:
        return self.round, tuple(self.history)

    def _meet(self, roster: tuple[Peer, ...]) -> None:
        self.sources = {peer.task: peer.slot for peer in roster if peer.role == "source"}

    def _train_if_ready(self, now: float) -> list[Command]:
        if self.phase != "collecting" or not self.samples or any(slot not in self.samples for slot in self.sources.values()):
            return []
        self.phase = "training"
        return [Save(0), self._train()]

    def _train(self) -> Run:
        assert self.weights is not None
        self.round += 1
        refs: dict[str, Ref] = {"weights": self.weights, **{f"samples{slot}": self.samples[slot] for slot in sorted(self.samples)}}
        if self.opt is not None:
            refs["opt"] = self.opt
        return Run(
            "train_union", refs, ("trained", self.round), {"round": self.round, "steps": self.plan.round_steps}, {"weights": WEIGHTS, "opt": OPT}
        )

    def _trained(self, refs: dict[str, Ref], numbers: Numbers, now: float) -> list[Command]:
        self.weights, self.opt = refs["weights"], refs["opt"]
        number, last = self.round, self.round >= self.rounds
        record = RoundRecord(
            number, now, len(self.samples), int(numbers["examples"]), {"loss": numbers["loss"], "samples": float(sum(self.counts.values()))}
        )
        measured = Measure("loss", numbers["loss"])
        rated = self.evaluation.where == "central" and (number % self.evaluation.every == 0 or last)
        if rated:
            self.unrated = record
            rating: list[Command] = [Run("evaluate", {"weights": self.weights}, ("rated", number), {"round": number})]
        else:
            self.history.append(record)
            rating = []
        if not last:
            following: list[Command] = [self._train()]
        else:
            following = [] if rated else self._finish()
        return [measured, Save(number), *rating, *following]

    def _rated(self, number: int, numbers: Numbers) -> list[Command]:
        if self.unrated is None or self.unrated.round != number:
            return []
        rated = {"accuracy": numbers["accuracy"], "rated_loss": numbers["loss"]}
        self.history.append(msgspec.structs.replace(self.unrated, numbers={**self.unrated.numbers, **rated}))
        self.unrated = None
        return [*(Measure(name, value) for name, value in rated.items()), *(self._finish() if number >= self.rounds else [])]

    def _finish(self) -> list[Command]:
        assert self.weights is not None
        self.phase = "done"
        return [Finish({"weights": self.weights}, dict(self.history[-1].numbers))]

    def _fail(self, why: str) -> list[Command]:
        self.phase = "done"
        return [Finish(why=why)]
