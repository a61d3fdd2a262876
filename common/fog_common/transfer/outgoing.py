"""Outgoing transfers: parcels (blobs cut into chunks), flows (a parcel to one peer), lines (all flows and letters to one peer)."""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Final, Protocol

from fog_common.transfer.frames import CHUNK_HEAD_BYTES, BlobPart, Chunk, encode_chunk
from fog_common.transfer.letters import Address, Content
from fog_common.transfer.window import bits

HELD: Final = 256
"""Names of blobs remembered per peer as held there."""
LetterId = tuple[str, int]
PeerKey = tuple[str, str]  # node, kind


class Stream:
    """Numbers of letters; the receiver forgets letters below `base`. probes: number of the last probe; the receiver echoes the highest."""

    __slots__ = ("last", "open", "probes")

    def __init__(self) -> None:
        self.last = self.probes = 0
        self.open: dict[int, None] = {}

    def number(self) -> int:
        self.last += 1
        self.open[self.last] = None
        return self.last

    @property
    def base(self) -> int:
        return next(iter(self.open), self.last + 1)


class Parcel:
    """A blob in transit, shared by all flows that carry it. Its bytes stay until the last letter that names it is done."""

    __slots__ = ("_crcs", "_frame", "_index", "chunk", "content", "count", "digest", "full", "number", "size", "users")

    def __init__(self, digest: str, content: memoryview, number: int, chunk_bytes: int) -> None:
        self.digest, self.content, self.size, self.users = digest, content, len(content), 0
        self.cut(number, chunk_bytes)

    def cut(self, number: int, chunk_bytes: int) -> None:
        """Cut into chunks, each in a frame of at most `chunk_bytes`; a new size needs a new number, because its chunks differ."""
        self.number = number
        self.chunk = chunk_bytes - CHUNK_HEAD_BYTES
        self.count = -(-self.size // self.chunk)
        self.full = (1 << self.count) - 1
        self._index, self._frame = -1, b""
        self._crcs: dict[int, int] = {}

    def part(self) -> BlobPart:
        return BlobPart(self.digest, self.size, self.number, self.chunk)

    def frame(self, index: int, window: int, incarnation: int, origin: int) -> bytes:
        """The frame of a chunk. The last one is kept, because several receivers of a blob are often served in turn."""
        if index != self._index:
            at = index * self.chunk
            head = Chunk(window, incarnation, origin, self.number, index, self.count)
            content = self.content[at : at + self.chunk]
            crc = self._crcs.get(index)
            if crc is None:
                crc = self._crcs[index] = zlib.crc32(content)
            self._index, self._frame = index, encode_chunk(head, content, crc)
        return self._frame


class Passing(Protocol):
    """The pass of a cast that serves a flow (`casting.Pass`)."""

    next: int
    """Index of the next chunk that goes to all."""

    @property
    def cast(self) -> object: ...

    @property
    def passed(self) -> bool: ...

    def leave(self, flow: Flow) -> None: ...

    def missed(self, flow: Flow) -> None: ...

    def learned(self, flow: Flow, edge: int) -> None: ...


class CastLetter(Protocol):
    """The cast to which a letter to one peer belongs (`casting.Casting`)."""

    id: LetterId
    offer: bool
    parcels: tuple[Parcel, ...]
    long: bool
    inline: bool

    def lack(self, peer: PeerKey) -> None: ...


class Flow:
    """A parcel on its way to one peer: chunks received, chunks on the way, chunks to send again."""

    __slots__ = ("heard", "hint", "line", "lost", "next", "outstanding", "parcel", "passing", "queued", "received", "resend", "users")

    def __init__(self, line: PeerLine, parcel: Parcel) -> None:
        self.line, self.parcel, self.users = line, parcel, 0
        self.outstanding: dict[int, int] = {}  # chunk -> serial, in the order of sending
        self.passing: Passing | None = None
        self.queued = False
        self.heard = -math.inf
        self.restart(hint=False)

    def restart(self, hint: bool) -> None:
        """Begin again with the first chunk. hint: push no chunk before the peer has reported those that it has."""
        self.line.on_the_way -= len(self.outstanding)
        self.outstanding.clear()
        self.received = 0
        self.resend: dict[int, None] = {}
        self.next = 0
        self.hint = hint
        self.lost = 0
        """Mask of chunks to cast again or send alone, once the reports of all peers are gathered."""

    def nothing_there(self) -> None:
        """The peer has nothing of a parcel that is being cast."""
        assert self.passing is not None
        self.hint = False
        self.learn(0, fresh=True)
        if self.passing.passed:
            self.drop_lost(self.line.serial)
            self.resend.clear()
            self.miss(self.parcel.full)
        else:
            self.passing.learned(self, self.passing.next)

    @property
    def done(self) -> bool:
        return self.received == self.parcel.full

    @property
    def bytes_left(self) -> int:
        return max(0, self.parcel.size - self.received.bit_count() * self.parcel.chunk)

    def following(self) -> int | None:
        """Index of the chunk to send now, or None."""
        if self.hint:
            return None
        while self.resend:
            index = next(iter(self.resend))
            del self.resend[index]
            if not self.received >> index & 1:
                self.line.repaired += 1
                return index
        while self.next < self.parcel.count:
            index = self.next
            self.next += 1
            if not self.received >> index & 1:
                return index
        return None

    def sent(self, index: int) -> None:
        if self.outstanding.pop(index, None) is None:
            self.line.on_the_way += 1
        self.line.serial += 1
        self.outstanding[index] = self.line.serial

    def learn(self, mask: int, fresh: bool) -> int:
        """Note the chunks that the peer has. Returns the newest serial that this acknowledges, or 0. fresh: no newer ack came before."""
        if not fresh:
            mask |= self.received
        came, gone = mask & ~self.received, self.received & ~mask
        self.received = mask
        newest = 0
        for index in bits(came):
            serial = self.outstanding.pop(index, None)
            if serial is not None:
                self.line.on_the_way -= 1
                newest = max(newest, serial)
            self.resend.pop(index, None)
        self.lost &= ~mask
        if gone:
            self.miss(gone)
        return newest

    def miss(self, mask: int) -> None:
        """Send chunks again that the peer does not have and that are not on the way."""
        if self.passing is not None:
            self.lost |= mask
            self.passing.missed(self)
            return
        for index in bits(mask):
            if index < self.next:
                self.resend[index] = None

    def drop_lost(self, edge: int) -> None:
        """Send unacknowledged chunks up to serial `edge` again, because they are lost."""
        lost = 0
        for index, serial in self.outstanding.items():
            if serial > edge:
                break
            lost |= 1 << index
        for index in bits(lost):
            del self.outstanding[index]
        self.line.on_the_way -= lost.bit_count()
        if lost:
            self.miss(lost)


class Sending:
    """One letter to one peer."""

    __slots__ = (
        "cast",
        "content",
        "due",
        "flows",
        "id",
        "inline",
        "key",
        "known",
        "line",
        "long",
        "offered_view",
        "parcels",
        "refused_view",
        "since",
        "stream",
        "wait",
    )

    def __init__(
        self, line: PeerLine, stream: Stream, id_: LetterId, key: Hashable, content: Content, parcels: tuple[Parcel, ...], since: float
    ) -> None:
        self.line, self.stream, self.id, self.key, self.content, self.parcels, self.since = line, stream, id_, key, content, parcels, since
        self.long = False
        """The last parcel is the body, which is too long for a frame."""
        self.cast: CastLetter | None = None
        self.inline = False
        self.flows: list[Flow] = []
        self.known = False
        """The peer has the letter's frame."""
        self.offered_view = 0
        self.refused_view: int | None = None
        self.due = math.inf
        self.wait = 0.0


class PeerLine:
    """Letters and flows to one peer, and its window."""

    __slots__ = (
        "deadline",
        "flows",
        "grant",
        "held",
        "incarnation",
        "last_ack",
        "letters",
        "numbers",
        "offers",
        "on_the_way",
        "peer",
        "plane",
        "probe",
        "probe_marks",
        "probe_serial",
        "probing",
        "repaired",
        "ring",
        "serial",
        "stream",
        "to",
        "topic",
        "unanswered",
    )

    def __init__(self, to: Address, topic: str, plane: str, stream: Stream) -> None:
        self.to, self.topic, self.plane, self.stream = to, topic, plane, stream
        self.peer: PeerKey = (to.node, to.kind)
        self.incarnation: int | None = None
        self.letters: dict[LetterId, Sending] = {}
        self.offers: dict[LetterId, Sending] = {}
        self.unanswered: dict[LetterId, int] = {}  # letter -> serial of its offer, in the order of sending
        self.flows: dict[str, Flow] = {}
        self.numbers: dict[int, Flow] = {}
        self.ring: deque[Flow] = deque()
        self.held: dict[str, None] = {}
        self.on_the_way = 0
        self.serial = 0
        self.grant = 1 << 16
        self.probe = self.probe_serial = self.last_ack = 0
        self.probe_marks: dict[int, int] = {}
        """Number of a parcel in a pass -> first chunk that had not been cast when the probe was sent."""
        self.probing = False
        """The peer was probed and has not answered yet."""
        self.deadline = math.inf
        self.repaired = 0

    @property
    def in_flight(self) -> int:
        """Frames that the peer has not acknowledged."""
        return self.on_the_way + len(self.unanswered)

    def flow(self, parcel: Parcel) -> Flow:
        """The parcel's flow, new if need be. A blob that the peer probably holds is asked for, not pushed."""
        flow = self.flows.get(parcel.digest)
        if flow is None:
            flow = self.flows[parcel.digest] = self.numbers[parcel.number] = Flow(self, parcel)
            flow.hint = parcel.digest in self.held
        return flow

    def drop_flow(self, flow: Flow) -> None:
        if flow.passing is not None:
            flow.passing.leave(flow)
        flow.restart(hint=True)
        self.flows.pop(flow.parcel.digest, None)
        self.numbers.pop(flow.parcel.number, None)

    def hold(self, digest: str) -> None:
        self.held.pop(digest, None)
        self.held[digest] = None
        if len(self.held) > HELD:
            del self.held[next(iter(self.held))]

    def wake(self, flow: Flow) -> None:
        if not flow.queued:
            flow.queued = True
            self.ring.append(flow)

    def next_chunk(self) -> tuple[Flow, int] | None:
        """The next chunk to send, from the flows in turn; None if there is none."""
        while self.ring:
            flow = self.ring.popleft()
            index = flow.following()
            if index is None:
                flow.queued = False
                continue
            self.ring.append(flow)
            return flow, index
        return None

    def quiet(self, now: float, stall_s: float, stall_max_s: float) -> Iterator[Sending]:
        """Letters whose peer is silent for too long; each then waits twice as long."""
        self.deadline = math.inf
        for sending in self.letters.values():
            if sending.due <= now:
                heard = max((flow.heard for flow in sending.flows), default=-math.inf)
                if heard + stall_s > now:
                    sending.due, sending.wait = heard + stall_s, stall_s
                else:
                    sending.wait = min(stall_max_s, max(stall_s, 2 * sending.wait))
                    sending.due = now + sending.wait
                    yield sending
            self.deadline = min(self.deadline, sending.due)
