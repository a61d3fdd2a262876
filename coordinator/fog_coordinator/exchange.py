"""Letters with blobs: results of jobs come in, results for operators go out. One endpoint per job and per operator's session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from fog_common.errors import WireError
from fog_common.ids import CLOUD_SITE, COORDINATOR
from fog_common.runtime.effects import RESULT, Result, decode_result
from fog_common.transfer.blobs import MemoryBlobs
from fog_common.transfer.endpoint import Acked, Address, Arrived, BlobMeta, Content, Endpoint, Letter, Publish, Refused
from fog_common.wire import topics

TO_OPERATOR: Final = "@result"
"""Addressee of the letter that brings a result to fogctl."""
SESSION_S: Final = 600.0
"""An operator who has not fetched a result by then is gone."""


@dataclass(slots=True)
class Line:
    """An endpoint and what it holds."""

    endpoint: Endpoint
    blobs: MemoryBlobs
    until: float | None = None
    """Of a session; a job's line stays as long as the job is known."""


@dataclass(frozen=True, slots=True)
class Came:
    """A result has come, its blob is in memory. To be answered with accept() or refuse()."""

    line: Line
    letter: Letter
    result: Result

    @property
    def weights(self) -> memoryview | None:
        ref = self.result.refs.get("weights") or next(iter(self.result.refs.values()), None)
        return self.line.blobs.get(ref.digest) if ref is not None else None

    @property
    def digest(self) -> str:
        ref = self.result.refs.get("weights") or next(iter(self.result.refs.values()), None)
        return ref.digest if ref is not None else ""

    def accept(self) -> None:
        self.line.endpoint.accept(self.letter)
        for meta in self.letter.content.blobs:
            self.line.blobs.pop(meta.digest, None)

    def refuse(self, reason: str) -> None:
        self.line.endpoint.refuse(self.letter, reason)


class Exchange:
    def __init__(self, fleet: str, boots: int, publish: Callable[[str, bytes], None]) -> None:
        """boots: grows with every start of the coordinator: its incarnation as a sender."""
        self._fleet = fleet
        self._boots = boots
        self._publish = publish
        self._lines: dict[str, Line] = {}

    def on_frame(self, now: float, route: topics.Route, payload: bytes, known: bool) -> list[Came]:
        """known: the job (or nothing, for a session) may send us letters. WireError for a frame that is none of ours."""
        if route.kind not in self._lines:
            if not known:
                raise WireError(f"frame of an unknown job or session: {route.kind!r}", "unknown_job")
            self._open(route.kind)
        line = self._lines[route.kind]
        line.endpoint.on_frame(now, route, payload)
        return self._pump(line)

    def send(self, now: float, user: str, session: str, job: str, numbers: dict[str, float], digest: str, weights: bytes) -> None:
        """A job's result to a session of an operator; once, however often it is asked for."""
        kind = f"{topics.BULK}~{session}"
        if kind in self._lines:
            return
        line = self._open(kind, until=now + SESSION_S)
        line.blobs.put(digest, weights)
        body = msgspec.msgpack.encode({"job": job, "numbers": numbers})
        content = Content(sender=COORDINATOR, to=TO_OPERATOR, body=body, blobs=(BlobMeta(digest, len(weights)),))
        line.endpoint.send(now, Address(user, CLOUD_SITE, "cloud", kind), content, (session, job))
        self._pump(line)

    def connected(self, now: float) -> None:
        for line in self._lines.values():
            line.endpoint.connected(now)
        self.pump()

    def disconnected(self, now: float) -> None:
        for line in self._lines.values():
            line.endpoint.disconnected(now)

    def on_timer(self, now: float) -> list[Came]:
        came = []
        for kind, line in list(self._lines.items()):
            line.endpoint.on_timer(now)
            came += self._pump(line)
            if line.until is not None and now >= line.until:
                self._lines.pop(kind, None)
        return came

    def next_timer(self) -> float | None:
        times = [time for line in self._lines.values() for time in (line.endpoint.next_timer(), line.until) if time is not None]
        return min(times, default=None)

    def forget_all_but(self, jobs: set[str]) -> None:
        """Jobs that nobody remembers need no line."""
        kinds = {f"{topics.BULK}~{job}" for job in jobs}
        self._lines = {kind: line for kind, line in self._lines.items() if line.until is not None or kind in kinds}

    def pump(self) -> None:
        """Send what accept() and refuse() left to be said."""
        for line in list(self._lines.values()):
            self._pump(line)

    def _open(self, kind: str, until: float | None = None) -> Line:
        blobs = MemoryBlobs()
        me = Address(COORDINATOR, CLOUD_SITE, "cloud", kind)
        line = self._lines[kind] = Line(Endpoint(me, self._fleet, kind.split("~", 1)[1], self._boots, blobs), blobs, until)
        return line

    def _pump(self, line: Line) -> list[Came]:
        came = []
        while outputs := line.endpoint.take():
            for output in outputs:
                match output:
                    case Publish(topic, payload, _):
                        self._publish(topic, bytes(payload))
                    case Arrived(letter):
                        if (found := self._arrived(line, letter)) is not None:
                            came.append(found)
                    case Acked() | Refused():
                        if line.until is not None:  # fetched, or not wanted: the session's line has done its work
                            self._lines = {kind: other for kind, other in self._lines.items() if other is not line}
        return came

    def _arrived(self, line: Line, letter: Letter) -> Came | None:
        if letter.content.to != RESULT:
            line.endpoint.refuse(letter, "not_for_us")
            return None
        try:
            return Came(line, letter, decode_result(letter.content.body))
        except WireError as error:
            line.endpoint.refuse(letter, error.reason)
            return None
