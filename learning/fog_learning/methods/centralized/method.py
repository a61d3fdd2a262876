"""Centralized training (CC): the samples go up once, one node trains on them. The baseline that the other methods are measured by.

Needs consent: `privacy: {share_samples: true}` in the job file; the op `samples` asks the node as well. Every step takes each slot's
batch of that step, as fedavg with local_steps: 1 and fcddt do, so all three see the same rows at the same step.

| op         | runs on | inputs                          | numbers in         | outputs       | numbers out    |
|------------|---------|---------------------------------|--------------------|---------------|----------------|
| samples    | source  |                                 | slot               | samples       | examples       |
| init       | center  |                                 | layers ('')        | weights       |                |
| train_union| center  | weights, opt?, samples{slot} ...| round, steps       | weights, opt  | loss, examples |
| evaluate   | center  | weights                         | round              |               | accuracy, loss |

A round is `round_steps` steps; its end is saved (the samples with it, once) and evaluated. A source that joins later is asked then, and
its samples count from the next round on; those of one that leaves stay.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from fog_common.errors import ConfigError
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
from fog_learning.job.sections import Count, Job, Stragglers
from fog_learning.methods.base import Method, Role
from fog_learning.rounds.ledger import Ledger

WEIGHTS, OPT = Handle("weights"), Handle("opt")


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    round_steps: Count = 20
    """Steps in a round, each on the union of the slots' batches."""


class AskSamples(Struct, frozen=True, tag="Ask"):
    """Center -> sources: send me your samples."""


class Samples(Struct, frozen=True, tag="Samples"):
    slot: int
    samples: Ref
    examples: int


class NoSamples(Struct, frozen=True, tag="Trouble"):
    """Source -> center: I cannot, or will not, and why."""

    slot: int
    why: str


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
    """Examples of each."""
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


class SampleSource(Machine):
    slot: int
    asked: str = ""
    """Who waits for the samples."""
    since: float = 0.0

    def step(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started() | Rewound():
                self.since = now
            case Delivered(sender, AskSamples()) if not self.asked:
                self.asked = sender
                return [Run("samples", {}, ("samples",), {"slot": self.slot})]
            case Ran(("samples",), refs, numbers) if self.asked:
                sender, self.asked, self.since = self.asked, "", now
                return [Send(sender, Samples(self.slot, refs["samples"], int(numbers["examples"])))]
            case Failed(("samples",), why) if self.asked:
                sender, self.asked, self.since = self.asked, "", now
                return [Send(sender, NoSamples(self.slot, why))]
        return []

    def waiting(self, now: float) -> Waiting | None:
        return None if self.asked else Waiting("question", since=self.since)


def build(job: Job, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    if peer.role == "center":
        return Center(plan=plan, ledger=Ledger(job.train.rounds, job.evaluation))
    return SampleSource(slot=peer.slot)


def check(job: Job, plan: Struct) -> None:
    if not job.privacy.share_samples:
        raise ConfigError("privacy.share_samples: centralized sends the nodes' samples away; that needs `privacy: {share_samples: true}`")
    if job.evaluation.where == "federated":
        raise ConfigError("evaluation.where: centralized evaluates where it trains; say central or none, got federated")
    if job.stragglers != Stragglers():
        raise ConfigError("stragglers: centralized waits for the samples once and for nobody after that; remove the section")


CENTRALIZED = Method(
    name="centralized",
    title="Centralized training on all samples (baseline)",
    source="decomposed deep training (FCDDT), section 5: CC",
    plan=Plan,
    roles=(Role("source", SampleSource, bound="slot"), Role("center", Center, bound="free", stateful=True)),
    messages=(AskSamples, Samples, NoSamples),
    root="center",
    build=build,
    check=check,
)
