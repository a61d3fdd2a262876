"""The jobs that the coordinator remembers: one entry per job, with its history, log, counters and seats. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fog_common.errors import ConfigError
from fog_common.wire.api.states import ENDED, FAILED, PLACED
from fog_coordinator.state.counts import Tally
from fog_coordinator.state.effects import Row, Tables
from fog_coordinator.state.history import History, Log
from fog_coordinator.state.jobs import Job, Seat, decode_job
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import Method

Check = Callable[[Mapping[str, Any]], tuple[JobFile, Method]]
"""Job file as builtins -> (its types, its method). ConfigError if it is invalid."""


class Entry:
    """One job."""

    __slots__ = ("_check", "_read", "history", "job", "log", "seats", "tally")

    def __init__(self, job: Job, check: Check, counts: bytes | None = None) -> None:
        """counts: the tally's row of the journal."""
        self.job = job
        self.history = History(job.id)
        self.log = Log(job.id)
        self.tally = Tally(counts)
        """Counters of the job's workers."""
        self.seats: dict[str, Seat] = {seat.task: seat for seat in job.seats}
        """task -> seat, as of the last `index`."""
        self._check = check
        self._read: tuple[JobFile, Method] | None = None

    @property
    def file(self) -> JobFile:
        """The job file. ConfigError if this version of the program cannot read it: possible for ended jobs only."""
        return self._checked()[0]

    @property
    def method(self) -> Method:
        """The method of the job file. ConfigError as of `file`."""
        return self._checked()[1]

    def index(self) -> None:
        self.seats = {seat.task: seat for seat in self.job.seats}

    def _checked(self) -> tuple[JobFile, Method]:
        if self._read is None:
            self._read = self._check(self.job.spec)
        return self._read


class Book:
    """Entries by job id, in the order of submission."""

    def __init__(self, check: Check, tables: Tables | None = None) -> None:
        """tables: of the journal. Jobs that this version cannot run become FAILED, see `unreadable`."""
        self._check = check
        self._entries: dict[str, Entry] = {}
        self.unreadable: list[Job] = []
        """Jobs that failed because this version of the program cannot read their job file; the caller writes their rows."""
        self._load(tables or {})
        self._order = max((entry.job.order for entry in self), default=0)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    @property
    def names(self) -> set[str]:
        return set(self._entries)

    @property
    def jobs(self) -> list[Job]:
        return [entry.job for entry in self._entries.values()]

    @property
    def live(self) -> list[Entry]:
        """Entries whose job has not ended."""
        return [entry for entry in self._entries.values() if entry.job.state not in ENDED]

    @property
    def placed(self) -> list[Entry]:
        """Entries whose job has nodes of its own."""
        return [entry for entry in self._entries.values() if entry.job.state in PLACED]

    def add(self, job: Job) -> Entry:
        """Add a new job, last in the order of submission."""
        self._order += 1
        job.order = self._order
        entry = self._entries[job.id] = Entry(job, self._check)
        return entry

    def prune(self, keep: int) -> list[Row]:
        """Forget the oldest ended jobs beyond `keep`; returns the rows that remove them from the journal."""
        ended = sorted((job for job in self.jobs if job.state in ENDED), key=lambda job: job.order)
        rows = []
        for job in ended[: max(0, len(ended) - keep)]:
            del self._entries[job.id]
            rows += [Row(table, (job.id,), None) for table in ("jobs", "rounds", "log", "counts")]
        return rows

    def _load(self, tables: Tables) -> None:
        counts = {str(name): body for (name, *_), body in tables.get("counts", [])}
        for _, body in tables.get("jobs", []):
            job = decode_job(body)
            entry = self._entries[job.id] = Entry(job, self._check, counts.get(job.id))
            if job.state not in ENDED:
                try:
                    _ = entry.file
                except ConfigError as error:
                    job.state, job.why = FAILED, f"this version cannot run it: {error}"
                    self.unreadable.append(job)
        for (name, *_), body in tables.get("rounds", []):
            if name in self._entries:
                self._entries[str(name)].history.load(body)
        lines: dict[str, list[bytes]] = {}
        for (name, *_), body in tables.get("log", []):
            lines.setdefault(str(name), []).append(body)
        for name in sorted(lines.keys() & self._entries.keys()):
            self._entries[name].log.load(lines[name])
