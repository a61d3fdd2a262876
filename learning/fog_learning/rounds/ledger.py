"""Ledger of a job's rounds: open, close, rate, finish, fail. A plain value that a root holds.

A round with a rating to come stays here until the rating has come; rounds leave in order (`Close`), so the ledger does not grow
with the number of rounds.
"""

from __future__ import annotations

from msgspec import Struct, field
from msgspec.structs import replace

from fog_common.runtime.machine import Close, Command, Finish, Measure, Numbers, Ref, RoundRecord
from fog_learning.job.sections import Evaluation


class Ledger(Struct):
    rounds: int
    """Number of rounds of the job."""
    evaluation: Evaluation
    round: int = 0
    """The open round, or the last closed one."""
    unrated: dict[int, RoundRecord] = field(default_factory=dict)
    """Closed rounds that wait for their rating."""
    rated: dict[int, RoundRecord] = field(default_factory=dict)
    """Closed rounds that wait for the rating of an older one."""
    newest: RoundRecord | None = None
    """The closed, rated round with the highest number."""
    over: bool = False
    """The job has finished or failed, and the root ignores all further events."""

    def open(self) -> int:
        """Begin the next round; returns its number, from 1."""
        self.round += 1
        return self.round

    @property
    def shown(self) -> int:
        """The round for a person; the last one, if the open round only rates the result."""
        return min(self.round, self.rounds)

    @property
    def last(self) -> bool:
        """Whether the open round is the job's last, or only rates the result."""
        return self.round >= self.rounds

    @property
    def numbers(self) -> Numbers:
        """Numbers of the newest closed round; {} before the first."""
        return {} if self.newest is None else dict(self.newest.numbers)

    def rates(self, number: int) -> bool:
        """Whether the job evaluates the weights of that round, at any place."""
        return number >= 1 and self.evaluation.where != "none" and (number % self.evaluation.every == 0 or number >= self.rounds)

    def rates_here(self, number: int) -> bool:
        """Whether the root evaluates the weights of that round."""
        return self.evaluation.where == "central" and self.rates(number)

    def close(self, record: RoundRecord, rate: bool = False) -> list[Command]:
        """Close a round. rate: its rating follows by `rate`."""
        if rate:
            self.unrated[record.round] = record
            return []
        return self._enter(record)

    def rate(self, number: int, numbers: Numbers = {}) -> list[Command]:  # noqa: B006 - never changed
        """Add the rating of a closed round, and measure it; [] for a round that does not wait for one."""
        record = self.unrated.pop(number, None)
        if record is None:
            return []
        measured: list[Command] = [Measure(name, numbers[name]) for name in sorted(numbers)]
        return [*self._enter(replace(record, numbers={**record.numbers, **numbers})), *measured]

    def note(self, number: int, numbers: Numbers) -> list[Command]:
        """Add numbers of a closed round before its rating, and measure them."""
        record = self.unrated[number]
        self.unrated[number] = replace(record, numbers={**record.numbers, **numbers})
        return [Measure(name, numbers[name]) for name in sorted(numbers)]

    def reopen(self, number: int, now: float) -> list[Command]:
        """Wait for a rating of this closed round, the newest, once more, and for no other ratings."""
        leaving: list[Command] = [Close(self.rated[each]) for each in sorted(self.rated) if each != number]
        self.unrated, self.rated = {number: self.record(number) or RoundRecord(number, now)}, {}
        return leaving

    def waits_for(self, number: int) -> bool:
        """Whether that round waits for its rating."""
        return number in self.unrated

    def record(self, number: int) -> RoundRecord | None:
        """A closed round that has not left yet, or the newest."""
        newest = self.newest if self.newest is not None and self.newest.round == number else None
        return self.unrated.get(number) or self.rated.get(number) or newest

    def finish(self, weights: Ref) -> list[Command]:
        """Finish the job with these weights and the numbers of the newest round."""
        self.over = True
        return [Finish({"weights": weights}, self.numbers)]

    def fail(self, why: str) -> list[Command]:
        """Fail the job. why: the reason, for a person."""
        self.over = True
        return [Finish(why=why)]

    def _enter(self, record: RoundRecord) -> list[Command]:
        """Add a complete record; returns Close for all rounds before the oldest that waits for its rating."""
        if self.newest is None or record.round >= self.newest.round:
            self.newest = record
        self.rated[record.round] = record
        bound = min(self.unrated, default=record.round + self.rounds + 1)
        leaving = sorted(number for number in self.rated if number < bound)
        return [Close(self.rated.pop(number)) for number in leaving]
