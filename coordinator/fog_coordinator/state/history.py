"""A job's closed rounds and the last events of its log, each with rows of its own in the journal. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec
from msgspec import Struct

from fog_common.runtime.machine import RoundRecord
from fog_coordinator.state.effects import Row

LOG_LINES: Final = 500
MAX_ROUND: Final = 1_000_000_000
"""Highest round number that is accepted from a peer."""


class ClosedRound(Struct, frozen=True):
    """One row of the history."""

    record: RoundRecord
    at: float
    """Coordinator time at which the record came."""
    bytes: int
    """Payload bytes of the job on all planes by then."""
    joules: float | None = None
    """Joules of the job by then; None while unknown."""


class LogLine(Struct, frozen=True):
    """One event of a job's log."""

    number: int
    at: float
    text: str


_encoder = msgspec.msgpack.Encoder()
_round_decoder = msgspec.msgpack.Decoder(ClosedRound)
_line_decoder = msgspec.msgpack.Decoder(LogLine)


class History:
    """Closed rounds by number. A round that is closed again (after a fall-back) replaces the older record."""

    def __init__(self, job: str) -> None:
        self._job = job
        self.rounds: dict[int, ClosedRound] = {}
        self.newest = 0
        self.seen = 0
        """Round up to which the root need not repeat its records; lower than `newest` after the root fell back."""

    def load(self, body: bytes) -> None:
        item = _round_decoder.decode(body)
        self.rounds[item.record.round] = item
        self.newest = self.seen = max(self.newest, item.record.round)

    def add(self, now: float, records: tuple[RoundRecord, ...], sent: int, joules: float | None = None) -> list[Row]:
        """Add records; returns the journal's rows of the new ones. sent, joules: of the job by now."""
        rows = []
        for record in records:
            if not 0 <= record.round <= MAX_ROUND:
                continue
            self.seen = max(self.seen, record.round)
            old = self.rounds.get(record.round)
            if old is not None and old.record == record:
                continue
            item = self.rounds[record.round] = ClosedRound(record, now, sent, joules)
            self.newest = max(self.newest, record.round)
            rows.append(Row("rounds", (self._job, record.round), _encoder.encode(item)))
        return rows

    def after(self, number: int) -> list[ClosedRound]:
        return [self.rounds[key] for key in sorted(self.rounds) if key > number]


class Log:
    """The last LOG_LINES events of a job."""

    def __init__(self, job: str) -> None:
        self._job = job
        self.lines: deque[LogLine] = deque(maxlen=LOG_LINES)
        self._next = 0

    def load(self, bodies: list[bytes]) -> None:
        for line in sorted((_line_decoder.decode(body) for body in bodies), key=lambda line: line.number):
            self.lines.append(line)
            self._next = line.number + 1

    def add(self, now: float, text: str) -> Row:
        line = LogLine(self._next, now, text)
        self._next += 1
        self.lines.append(line)
        return Row("log", (self._job, line.number % LOG_LINES), _encoder.encode(line))
