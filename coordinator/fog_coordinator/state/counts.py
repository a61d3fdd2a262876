"""Counters of many processes added up so that the sums only grow, whoever ends or begins anew. Pure.

A process counts from zero. What an ended one had counted is kept (`base`); the live one's last values stand on top of it. The journal
keeps both, with the name of the process: after a restart of the coordinator a live process adds only what it counted since.
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
"""Counters of one process that are taken: a peer must not fill our memory."""


class Totals(Struct):
    """One place where one process lives at a time: a node's agent, a job's worker on a node."""

    process: str = ""
    """Names the process that counts now; '' before the first."""
    base: dict[str, float] = {}
    last: dict[str, float] = {}

    def update(self, process: str, values: Mapping[str, float]) -> dict[str, float]:
        """Take over what the process has counted. By how much each sum grew."""
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
            if not before <= value < inf:  # it cannot fall, unless somebody errs: then the old value stands
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
    """What all workers of a job counted together."""

    def __init__(self, body: bytes | None = None) -> None:
        """body: of `row()`, from the journal."""
        kept = _decoder.decode(body) if body is not None else TallyRow()
        self.sums: dict[str, float] = kept.sums
        self._workers: dict[str, Totals] = kept.workers

    def update(self, node: str, worker: WorkerState) -> None:
        for name, by in self._workers.setdefault(node, Totals()).update(str(worker.incarnation), flat(worker)).items():
            self.sums[name] = self.sums.get(name, 0.0) + by

    def of(self, node: str, name: str) -> float | None:
        """What all workers of one node counted under this name; None if they never did."""
        totals = self._workers.get(node)
        return totals.sums().get(name) if totals is not None else None

    def nodes(self) -> list[str]:
        return sorted(self._workers)

    def row(self, job: str) -> Row:
        """All of it: whoever was shown these sums never sees lower ones."""
        return Row("counts", (job,), _encoder.encode(TallyRow(self.sums, self._workers)))


class TallyRow(Struct):
    """What the journal keeps of a tally."""

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
