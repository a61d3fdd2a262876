"""Counters of many processes added up so that the sums only grow, whoever ends or begins anew. Pure.

A process counts from zero. What an ended one had counted is kept (`base`); the live one's last values stand on top of it. `base`
is small, changes only when a process ends, and is what the journal keeps: after a restart of the coordinator the live processes
report again what they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

from msgspec import Struct

from fog_common.wire.messages import Planes, WorkerState

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

    def __init__(self, past: Mapping[str, float] | None = None) -> None:
        """past: as `past()` gave it to the journal."""
        self.sums: dict[str, float] = dict(past or {})
        self._loaded = dict(past or {})
        self._workers: dict[str, Totals] = {}

    def update(self, node: str, worker: WorkerState) -> None:
        for name, by in self._workers.setdefault(node, Totals()).update(str(worker.incarnation), flat(worker)).items():
            self.sums[name] = self.sums.get(name, 0.0) + by

    def past(self, over: bool) -> dict[str, float]:
        """For the journal: what ended workers counted; over: no worker of the job will report again, so all of it."""
        if over:
            return dict(self.sums)
        past = dict(self._loaded)
        for totals in self._workers.values():
            for name, value in totals.base.items():
                past[name] = past.get(name, 0.0) + value
        return past


def flat(worker: WorkerState) -> dict[str, float]:
    """A worker's counters and received bytes under one set of names."""
    return {**worker.counters, **{f"received_bytes/{plane}": value for plane, value in by_plane(worker.received).items() if value}}


def by_plane(planes: Planes) -> dict[str, float]:
    return {"up": float(planes.up), "down": float(planes.down), "d2d": float(planes.d2d), "cast": float(planes.cast)}
