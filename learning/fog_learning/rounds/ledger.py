"""The rounds of a job as its root counts them: open, close, rate, finish, fail. A plain value that a root holds.

A round that is to be rated stays here until its rating is there; rounds leave in order (`Close`), so the ledger does not grow with
the number of rounds.
"""

from __future__ import annotations

from msgspec import Struct, field
from msgspec.structs import replace

from fog_common.runtime.machine import Close, Command, Finish, Measure, Numbers, Ref, RoundRecord
from fog_learning.job.sections import Evaluation


class Ledger(Struct):
    rounds: int
    """Of the job."""
    evaluation: Evaluation
    round: int = 0
    """The open round, or the last closed one."""
    unrated: dict[int, RoundRecord] = field(default_factory=dict)
    """Closed rounds whose rating is not there yet."""
    rated: dict[int, RoundRecord] = field(default_factory=dict)
    """Closed rounds that wait for the rating of an older one."""
    newest: RoundRecord | None = None
    """The closed, rated round with the highest number."""
    over: bool = False
    """The job has finished or failed: the root does nothing any more."""

    def open(self) -> int:
        """Begin the next round; returns its number, from 1."""
        self.round += 1
        return self.round

    @property
    def shown(self) -> int:
        """The round for a person: of a round that only rates the result, the last one."""
        return min(self.round, self.rounds)

    @property
    def last(self) -> bool:
        """The open round is the job's last, or only rates it."""
        return self.round >= self.rounds

    @property
    def numbers(self) -> Numbers:
        """Of the newest closed round; {} before the first."""
        return {} if self.newest is None else dict(self.newest.numbers)

    def rates(self, number: int) -> bool:
        """Whether the job evaluates the weights of that round, wherever it does."""
        return number >= 1 and self.evaluation.where != "none" and (number % self.evaluation.every == 0 or number >= self.rounds)

    def rates_here(self, number: int) -> bool:
        """Whether the root evaluates them."""
        return self.evaluation.where == "central" and self.rates(number)

    def close(self, record: RoundRecord, rate: bool = False) -> list[Command]:
        """The round is closed. rate: its rating comes later, by `rate`."""
        if rate:
            self.unrated[record.round] = record
            return []
        return self._enter(record)

    def rate(self, number: int, numbers: Numbers = {}) -> list[Command]:  # noqa: B006 - never changed
        """The rating of a closed round is there: measure it, enter the round. [] if none is waited for."""
        record = self.unrated.pop(number, None)
        if record is None:
            return []
        measured: list[Command] = [Measure(name, numbers[name]) for name in sorted(numbers)]
        return [*self._enter(replace(record, numbers={**record.numbers, **numbers})), *measured]

    def note(self, number: int, numbers: Numbers) -> list[Command]:
        """Measure numbers of a closed round before its rating is there."""
        record = self.unrated[number]
        self.unrated[number] = replace(record, numbers={**record.numbers, **numbers})
        return [Measure(name, numbers[name]) for name in sorted(numbers)]

    def reopen(self, number: int, now: float) -> list[Command]:
        """Wait for a rating of this closed round, the newest, once more; ratings of others are waited for no longer."""
        leaving: list[Command] = [Close(self.rated[each]) for each in sorted(self.rated) if each != number]
        self.unrated, self.rated = {number: self.record(number) or RoundRecord(number, now)}, {}
        return leaving

    def waits_for(self, number: int) -> bool:
        """Whether a rating of that round is waited for."""
        return number in self.unrated

    def record(self, number: int) -> RoundRecord | None:
        """A closed round that has not left yet, or the newest."""
        newest = self.newest if self.newest is not None and self.newest.round == number else None
        return self.unrated.get(number) or self.rated.get(number) or newest

    def finish(self, weights: Ref) -> list[Command]:
        """The job is done, with these weights and the numbers of the newest round."""
        self.over = True
        return [Finish({"weights": weights}, self.numbers)]

    def fail(self, why: str) -> list[Command]:
        """The job cannot go on; why: for a person."""
        self.over = True
        return [Finish(why=why)]

    def _enter(self, record: RoundRecord) -> list[Command]:
        """The records that can leave now: up to the oldest round whose rating is not there."""
        if self.newest is None or record.round >= self.newest.round:
            self.newest = record
        self.rated[record.round] = record
        bound = min(self.unrated, default=record.round + self.rounds + 1)
        leaving = sorted(number for number in self.rated if number < bound)
        return [Close(self.rated.pop(number)) for number in leaving]
