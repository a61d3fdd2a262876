"""Sums of the counters of many processes, which never fall, even if a process ends or begins anew. Pure.

A process counts from zero. A sum is `base`, the counts of ended processes, plus the last values of the live one. The journal keeps
both with the name of the process: after a restart of the coordinator a live process adds only its counts since then.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

import msgspec
from msgspec import Struct

from fog_common.wire.messages import Planes, WorkerState
from fog_coordinator.state.effects import Row

MAX_NAMES: Final = 200
"""Largest number of counters of one process, so that no peer fills our memory."""


class Totals(Struct):
    """Counters of successive processes in one place: a node's agent, a job's worker on a node."""

    process: str = ""
    """Name of the process that counts now; '' before the first."""
    base: dict[str, float] = {}
    last: dict[str, float] = {}

    def update(self, process: str, values: Mapping[str, float]) -> dict[str, float]:
        """Take over the counters of a process; returns the growth of each sum."""
        if len(values) > MAX_NAMES:
            values = dict(list(values.items())[:MAX_NAMES])
        if process != self.process:
            self._end()
            self.process = process
        grown: dict[str, float] = {}
        for name, value in values.items():
            before = self.last.get(name, 0.0)
            if value == before and name in self.last:
                continue
            if not before <= value < inf:  # a counter that falls is wrong: the old value stays
                continue
            self.last[name] = value
            grown[name] = value - before
        return grown

    def _end(self) -> None:
        for name, value in self.last.items():
            self.base[name] = self.base.get(name, 0.0) + value
        self.last = {}

    def sums(self) -> dict[str, float]:
        if not self.base:
            return self.last
        return {name: self.base.get(name, 0.0) + self.last.get(name, 0.0) for name in (*self.last, *(self.base.keys() - self.last.keys()))}


class Tally:
    """Sums of the counters of all workers of a job."""

    def __init__(self, body: bytes | None = None) -> None:
        """body: of `row()`, from the journal."""
        kept = _decoder.decode(body) if body is not None else TallyRow()
        self.sums: dict[str, float] = kept.sums
        self._workers: dict[str, Totals] = kept.workers

    def update(self, node: str, worker: WorkerState) -> None:
        for name, by in self._workers.setdefault(node, Totals()).update(str(worker.incarnation), flat(worker)).items():
            self.sums[name] = self.sums.get(name, 0.0) + by

    def of(self, node: str, name: str) -> float | None:
        """Sum of one counter over all workers of a node; None without this node."""
        totals = self._workers.get(node)
        return totals.sums().get(name) if totals is not None else None

    def nodes(self) -> list[str]:
        return sorted(self._workers)

    def row(self, job: str) -> Row:
        """The journal's row of the tally; sums that were shown never fall after a restart."""
        return Row("counts", (job,), _encoder.encode(TallyRow(self.sums, self._workers)))


class TallyRow(Struct):
    """Row of a tally in the journal."""

    sums: dict[str, float] = {}
    workers: dict[str, Totals] = {}
    """node -> its workers, one after another."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(TallyRow)


def flat(worker: WorkerState) -> dict[str, float]:
    """A worker's counters and received bytes under one set of names."""
    return {**worker.counters, **{f"received_bytes/{plane}": value for plane, value in by_plane(worker.received).items() if value}}


def by_plane(planes: Planes) -> dict[str, float]:
    return {"up": float(planes.up), "down": float(planes.down), "d2d": float(planes.d2d), "cast": float(planes.cast)}
