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
from fog_common.transfer.endpoint import Acked, Address, Arrived, BlobMeta, Content, Endpoint, Letter, LetterRefused, PublishFrame
from fog_common.wire import topics

TO_OPERATOR: Final = "@result"
"""Addressee of the letter that brings a result to fogctl."""
SESSION_S: Final = 600.0
"""Seconds after which a session that has not fetched its result is forgotten."""


@dataclass(slots=True)
class Mailbox:
    """An endpoint and what it holds."""

    endpoint: Endpoint
    blobs: MemoryBlobs
    until: float | None = None
    """Of a session; a job's mailbox stays as long as the job is known."""


@dataclass(frozen=True, slots=True)
class Came:
    """A result, its blob in memory; waits for accept() or refuse()."""

    mailbox: Mailbox
    letter: Letter
    result: Result

    @property
    def weights(self) -> memoryview | None:
        ref = self.result.refs.get("weights") or next(iter(self.result.refs.values()), None)
        return self.mailbox.blobs.get(ref.digest) if ref is not None else None

    @property
    def digest(self) -> str:
        ref = self.result.refs.get("weights") or next(iter(self.result.refs.values()), None)
        return ref.digest if ref is not None else ""

    def accept(self) -> None:
        self.mailbox.endpoint.accept(self.letter)
        for meta in self.letter.content.blobs:
            self.mailbox.blobs.pop(meta.digest, None)

    def refuse(self, reason: str) -> None:
        self.mailbox.endpoint.refuse(self.letter, reason)


class Letters:
    """All mailboxes. publish: takes every frame that leaves, as (topic, payload)."""

    def __init__(self, fleet: str, boots: int, publish: Callable[[str, bytes], None]) -> None:
        """boots: grows with every start of the coordinator: its incarnation as a sender."""
        self._fleet = fleet
        self._boots = boots
        self._publish = publish
        self._mailboxes: dict[str, Mailbox] = {}

    def on_frame(self, now: float, route: topics.Route, payload: bytes, known: bool) -> list[Came]:
        """known: the frame's job exists and its sender is a node. WireError for a frame of an unknown job or session."""
        if route.kind not in self._mailboxes:
            if not known:
                raise WireError(f"frame of an unknown job or session: {route.kind!r}", "unknown_job")
            self._open(route.kind)
        mailbox = self._mailboxes[route.kind]
        mailbox.endpoint.on_frame(now, route, payload)
        return self._pump(mailbox)

    def send(self, now: float, user: str, session: str, job: str, numbers: dict[str, float], digest: str, weights: bytes) -> None:
        """A job's result to a session of an operator; once, however often it is asked for."""
        kind = f"{topics.BULK}~{session}"
        if kind in self._mailboxes:
            return
        mailbox = self._open(kind, until=now + SESSION_S)
        mailbox.blobs.put(digest, weights)
        body = msgspec.msgpack.encode({"job": job, "numbers": numbers})
        content = Content(sender=COORDINATOR, to=TO_OPERATOR, body=body, blobs=(BlobMeta(digest, len(weights)),))
        mailbox.endpoint.send(now, Address(user, CLOUD_SITE, "cloud", kind), content, (session, job))
        self._pump(mailbox)

    def connected(self, now: float) -> None:
        for mailbox in self._mailboxes.values():
            mailbox.endpoint.connected(now)
        self.pump()

    def disconnected(self, now: float) -> None:
        for mailbox in self._mailboxes.values():
            mailbox.endpoint.disconnected(now)

    def on_timer(self, now: float) -> list[Came]:
        came = []
        for kind, mailbox in list(self._mailboxes.items()):
            mailbox.endpoint.on_timer(now)
            came += self._pump(mailbox)
            if mailbox.until is not None and now >= mailbox.until:
                self._mailboxes.pop(kind, None)
        return came

    def next_timer(self) -> float | None:
        times = [time for mailbox in self._mailboxes.values() for time in (mailbox.endpoint.next_timer(), mailbox.until) if time is not None]
        return min(times, default=None)

    def forget_all_but(self, jobs: set[str]) -> None:
        """Drop the mailboxes of other jobs; sessions stay."""
        kinds = {f"{topics.BULK}~{job}" for job in jobs}
        self._mailboxes = {kind: mailbox for kind, mailbox in self._mailboxes.items() if mailbox.until is not None or kind in kinds}

    def pump(self) -> None:
        """Send the answers that accept() and refuse() left in the mailboxes."""
        for mailbox in list(self._mailboxes.values()):
            self._pump(mailbox)

    def _open(self, kind: str, until: float | None = None) -> Mailbox:
        blobs = MemoryBlobs()
        me = Address(COORDINATOR, CLOUD_SITE, "cloud", kind)
        mailbox = self._mailboxes[kind] = Mailbox(Endpoint(me, self._fleet, kind.split("~", 1)[1], self._boots, blobs), blobs, until)
        return mailbox

    def _pump(self, mailbox: Mailbox) -> list[Came]:
        came = []
        while outputs := mailbox.endpoint.take():
            for output in outputs:
                match output:
                    case PublishFrame(topic, payload, _):
                        self._publish(topic, bytes(payload))
                    case Arrived(letter):
                        if (result := self._arrived(mailbox, letter)) is not None:
                            came.append(result)
                    case Acked() | LetterRefused():
                        if mailbox.until is not None:  # fetched, or not wanted: the session's mailbox has done its work
                            self._mailboxes = {kind: other for kind, other in self._mailboxes.items() if other is not mailbox}
        return came

    def _arrived(self, mailbox: Mailbox, letter: Letter) -> Came | None:
        if letter.content.to != RESULT:
            mailbox.endpoint.refuse(letter, "not_for_coordinator")
            return None
        try:
            return Came(mailbox, letter, decode_result(letter.content.body))
        except WireError as error:
            mailbox.endpoint.refuse(letter, error.reason)
            return None
