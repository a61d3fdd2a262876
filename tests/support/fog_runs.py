"""Schedules of `fog` whose weights carry how much of each slot they hold, so that every count can be checked."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.facts import NodeLink
from fog_common.runtime.machine import (
    Command,
    Event,
    Finish,
    Measure,
    Peer,
    Run,
    Save,
)
from fog_learning.backend.plain_ops import OPS, SLOTS, examples, gain, shares
from fog_learning.job.sections import JobFile, Stragglers, Train
from support.schedules import Faults, Schedule, Seat
from support.trees import star


def job(rounds: int = 3, stragglers: Stragglers = Stragglers(), **method: Any) -> JobFile:
    return JobFile("test", {"name": "fog", **method}, {"name": "mlp"}, train=Train(rounds=rounds), stragglers=stragglers)


class Watch:
    """Checks the weights of every round that the root saves: each slot counted once, in proportion, trained from the round before."""

    def __init__(self, tolerance: float = 1e-9) -> None:
        self.tolerance = tolerance
        self.errors: list[float] = []
        self.rounds: dict[int, list[float]] = {0: [0.0] * (1 + SLOTS)}
        self.included: dict[int, list[int]] = {}
        self.means: dict[str, list[Any]] = {}

    def __call__(self, schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Measure) and command.name == "consensus_error":
                self.errors.append(command.value)
            if isinstance(command, Run) and command.op in ("mean", "join", "spread"):
                life = f"{seat.peer.task}/{seat.peer.incarnation}/{seat.machine.head.line}/{command.op}"  # type: ignore[union-attr]
                assert command.tag not in self.means.setdefault(life, []), "one round was averaged twice"
                self.means[life].append(command.tag)
            if isinstance(command, Save) and seat.peer.task == "root" and command.label:
                self.check(command.label, schedule.contents[schedule._blob(seat, seat.machine.weights).digest], seat.machine)  # type: ignore[union-attr]

    def check(self, number: int, weights: list[float], root: Any) -> None:
        slots = [slot for slot in range(SLOTS) if abs(weights[1 + slot]) > 1e-4]
        self.rounds[number], self.included[number] = weights, slots
        if self.tolerance:
            assert weights[1:] == pytest.approx(shares(slots), abs=self.tolerance)
            before = self.rounds[number - 1][0]
            trained = sum(examples(slot) * (0.5 * before + gain(slot)) for slot in slots) / sum(examples(slot) for slot in slots)
            assert weights[0] == pytest.approx(trained, abs=self.tolerance)
            record = root.ledger.record(number)
            assert record is not None
            assert record.numbers["slots"] == len(slots)
            assert record.examples == sum(examples(slot) for slot in slots)


def run(peers: tuple[Peer, ...], spec: JobFile, seed: int = 0, faults: Faults = Faults(), tolerance: float = 1e-9) -> tuple[Schedule, Finish, Watch]:
    watch = Watch(tolerance)
    schedule = Schedule(spec, 0, OPS, seed, faults, watch, peers)
    return schedule, schedule.run(), watch


def weights_of(schedule: Schedule, finish: Finish) -> list[float]:
    assert not finish.why, finish.why
    ref = finish.refs["weights"]
    value: list[float] = schedule.contents[ref.digest]  # type: ignore[union-attr]
    return value


def linked(bytes_s: float, byte_j: float, rtt_s: float = 0.02, members: int = 4) -> tuple[Peer, ...]:
    """One cluster; the last member's link is as given, the others' are ten times as good."""
    server, *trainers = star(members)
    links = [(10 * bytes_s, byte_j / 10, rtt_s / 10)] * (members - 1) + [(bytes_s, byte_j, rtt_s)]
    facts = [NodeLink(bandwidth_bytes_s=rate, byte_j=joules, rtt_s=trip) for rate, joules, trip in links]
    return server, *(replace(peer, link=link) for peer, link in zip(trainers, facts, strict=True))
