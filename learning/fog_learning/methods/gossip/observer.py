"""The observer of gossip keeps the history, asks a peer for its model now and then to rate it, and hands out the result."""

from __future__ import annotations

import math
import random

from msgspec import field

from fog_common.runtime.machine import (
    Command,
    Delivered,
    Event,
    Failed,
    Finish,
    Joined,
    Left,
    Machine,
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
from fog_learning.methods.gossip.messages import AskModel, Halted, Report, Told
from fog_learning.rounds.ledger import Ledger


class Observer(Machine):
    ledger: Ledger
    seed: int
    peers: dict[str, int] = field(default_factory=dict)
    """Live peer -> the newest round up to which all its reports have come."""
    told: dict[str, int] = field(default_factory=dict)
    """The same for all peers so far, including those that left."""
    ahead: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """(first, last) of rounds whose reports came before earlier ones: after an outage reports come in any order."""
    reports: dict[int, dict[str, Report]] = field(default_factory=dict)
    asked: dict[int, str] = field(default_factory=dict)
    """round -> the peer whose model is rated; '' if there was no peer to ask."""
    result: Ref | None = None
    since: float = 0.0

    @property
    def round(self) -> int:
        """Rounds that all live peers have finished."""
        return self.ledger.round

    def stop(self, why: str, roster: tuple[Peer, ...], now: float) -> list[Command]:
        """Make the newest closed round the last, and ask a peer for its model as at the end."""
        self._know(roster)
        if not self.round or not self.peers:
            return [Finish(why=f"{why}; there was no model yet")]
        self.ledger.rounds, self.asked = self.round, {}
        return [*self.ledger.reopen(self.round, now), *self._ask(self.round)]

    def step(self, event: Event, now: float) -> list[Command]:
        if self.ledger.over:
            return []
        match event:
            case Started(roster):
                self._know(roster)
                self.since = now
            case Rewound(_, roster):
                self._know(roster)
                asked = [command for number in list(self.asked) for command in self._ask(number)]
                # ops for rounds before the Save are lost, so these rounds stay without their numbers
                lost = [
                    command
                    for number in list(self.ledger.unrated)
                    if number < self.round and number not in self.asked
                    for command in self._measured(number, None)
                ]
                return [*asked, *lost, *self._look(now)]
            case Joined(peer) if peer.role == "peer":
                self.peers = dict(sorted([*self.peers.items(), (peer.task, self._newest(peer.task))]))
                return self._ask_again()
            case Left(peer) if peer.role == "peer":
                self.peers = {name: round_ for name, round_ in self.peers.items() if name != peer.task}
                return [*self._ask_again(), *self._look(now)]
            case Delivered(sender, Report() as report) if sender in self.peers:
                self._note(sender, report)
                if report.round > self.round:
                    self.reports.setdefault(report.round, {}).setdefault(sender, report)
                return self._look(now)
            case Delivered(sender, Told(number, weights)) if self.asked.get(number) == sender:
                del self.asked[number]
                if number >= self.ledger.rounds:
                    self.result = weights
                if self.ledger.evaluation.where == "central":
                    return [Run("evaluate", {"weights": weights}, ("rated", number), {"round": number})]
                return self._rated(number, {})
            case Delivered(sender, Halted(why)) if sender in self.peers:  # otherwise its neighbours wait for ever
                return self.ledger.fail(f"{sender} cannot go on: {why}")
            case Ran(("spread", number), _, numbers):
                return self._measured(int(number), numbers["error"])
            case Ran(("rated", number), _, numbers):
                return self._rated(int(number), {"accuracy": numbers["accuracy"], "rated_loss": numbers["loss"]})
            case Failed((what, *_), why):
                return self.ledger.fail(f"{'the evaluation' if what == 'rated' else 'measuring the disagreement'} failed: {why}")
        return []

    def waiting(self, now: float) -> Waiting | None:
        if not self.peers:
            return Waiting("peers", 0, 1, (), self.since)
        behind = tuple(name for name, number in self.peers.items() if number <= self.round)
        return Waiting(f"round {self.round + 1} of all peers", len(self.peers) - len(behind), len(self.peers), behind, self.since)

    def progress(self) -> int:
        return self.round

    def figures(self) -> Numbers:
        return self.ledger.numbers

    def _know(self, roster: tuple[Peer, ...]) -> None:
        self.peers = {peer.task: self._newest(peer.task) for peer in sorted(roster, key=lambda peer: peer.task) if peer.role == "peer"}

    def _newest(self, name: str) -> int:
        return max(self.round, self.told.get(name, 0))

    def _note(self, name: str, report: Report) -> None:
        spans = sorted([*self.ahead.get(name, ()), (report.first or report.round, report.round)])
        newest = self._newest(name)
        for first, last in spans:
            newest = max(newest, last) if first <= newest + 1 else newest
        self.told[name] = self.peers[name] = newest
        self.ahead[name] = [span for span in spans if span[1] > newest]

    def _look(self, now: float) -> list[Command]:
        """Close the rounds that all live peers have finished."""
        commands: list[Command] = []
        while not self.ledger.last and self.peers and min(self.peers.values()) > self.round:
            self.ledger.open()
            self.since = now
            reports = [report for _, report in sorted(self.reports.pop(self.round, {}).items()) if report.examples]
            n = sum(report.examples for report in reports)
            numbers = {"loss": math.fsum(report.examples * report.numbers["loss"] for report in reports) / n} if n else {}
            self.ledger.close(RoundRecord(self.round, now, len(reports), n, numbers), rate=True)
            sketches = [report for report in reports if report.sketch is not None]
            commands.append(Save(self.round))
            if len(sketches) > 1:
                refs = {f"sketch{i}": report.sketch for i, report in enumerate(sketches) if report.sketch is not None}
                masses: dict[str, float | int | str] = {f"m{i}": report.mass for i, report in enumerate(sketches)}
                masses["exact"] = int(all(report.exact for report in sketches))
                commands.append(Run("spread", refs, ("spread", self.round), masses))
            else:
                commands += self._measured(self.round, None)
        return commands

    def _measured(self, number: int, error: float | None) -> list[Command]:
        if not self.ledger.waits_for(number):
            return []
        measured: list[Command] = [] if error is None else self.ledger.note(number, {"consensus_error": error})
        if number >= self.ledger.rounds or self.ledger.rates_here(number):
            return [*measured, *self._ask(number)]
        return [*measured, *self._rated(number, {})]

    def _ask(self, number: int) -> list[Command]:
        """Ask a random peer for its model."""
        if not self.peers:
            self.asked[number] = ""
            return []
        self.asked[number] = random.Random(f"ask/{self.seed}/{number}/{len(self.peers)}").choice(list(self.peers))
        return [Send(self.asked[number], AskModel(number))]

    def _ask_again(self) -> list[Command]:
        lost = [number for number, name in self.asked.items() if name not in self.peers]
        return [command for number in lost for command in self._ask(number)]

    def _rated(self, number: int, numbers: Numbers) -> list[Command]:
        rated = self.ledger.rate(number, numbers)
        if not rated or not self.ledger.last or self.ledger.unrated or self.result is None:
            return rated
        return [*rated, *self.ledger.finish(self.result)]
