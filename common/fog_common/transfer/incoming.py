"""Incoming transfers of one peer: memory of its streams of letters, its blobs on the way in, the states for its next Ack."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from fog_common.transfer.assembly import Assembly
from fog_common.transfer.frames import BUSY, DONE, KNOWN, REFUSED, UNKNOWN, BlobState, LetterState, Offer, Origin
from fog_common.transfer.letters import Letter
from fog_common.transfer.window import Ranges

MAX_LETTERS: Final = 1024
"""Largest number of letters of one peer that wait for their blobs or the host."""
MAX_ASSEMBLIES: Final = 256
MAX_STREAMS: Final = 256
FINISHED: Final = 1024
"""Numbers of complete blobs that are remembered per peer."""


class PendingLetter:
    """A letter that waits for blobs."""

    __slots__ = ("content", "letter", "missing", "offer", "touched")

    def __init__(self, letter: Letter, offer: Offer, now: float) -> None:
        self.letter, self.offer, self.touched = letter, offer, now
        self.content: dict[str, memoryview] = {}
        """Received bytes by digest, kept even if the host's table drops them meanwhile."""
        self.missing: dict[str, None] = {}


class LetterRefusal(Struct, frozen=True):
    view: int
    reason: str


class Memory:
    """State of the letters of one stream, from its base on. Its size is bounded by the letters that the sender keeps open."""

    __slots__ = ("accepted", "base", "parked", "refused", "waiting")

    def __init__(self) -> None:
        self.base = 0
        self.accepted = Ranges()
        self.refused: dict[int, LetterRefusal] = {}
        self.parked: dict[int, None] = {}
        self.waiting: dict[int, PendingLetter] = {}

    def __len__(self) -> int:
        return len(self.accepted) + len(self.refused) + len(self.parked) + len(self.waiting)

    def raise_base(self, base: int) -> list[int]:
        """Forget letters below `base`, which the sender does not keep. Returns those that wait for blobs."""
        if base <= self.base:
            return []
        self.base = base
        self.accepted.drop_below(base)
        for seq in [seq for seq in self.refused if seq < base]:
            del self.refused[seq]
        for seq in [seq for seq in self.parked if seq < base]:
            del self.parked[seq]
        return [seq for seq in self.waiting if seq < base]


class Source:
    """One peer as a sender."""

    __slots__ = (
        "acks",
        "assemblies",
        "busy",
        "by_digest",
        "count",
        "dirty",
        "echo",
        "finished",
        "flush",
        "news",
        "node",
        "origin",
        "plane",
        "streams",
        "told",
        "topic",
        "window",
    )

    def __init__(self, node: str, origin: Origin, topic: str, plane: str, acks: int = 0) -> None:
        self.node, self.origin, self.topic, self.plane = node, origin, topic, plane
        self.streams: dict[str, Memory] = {}
        self.assemblies: dict[int, Assembly] = {}
        self.by_digest: dict[str, Assembly] = {}
        self.finished: dict[int, None] = {}
        self.news: dict[tuple[str, int], None] = {}
        self.dirty: dict[int, None] = {}
        self.busy: set[tuple[str, int]] = set()
        self.count = 0
        """Frames since the last ack."""
        self.flush = False
        self.echo = 0
        self.acks = acks
        self.told = (1 << 16, 1 << 16)
        """The last two grants; the sender may use either."""
        self.window = 2

    @property
    def letters(self) -> int:
        """Number of letters that the host has not accepted or refused yet."""
        return sum(len(memory.waiting) + len(memory.parked) for memory in self.streams.values())

    def heard(self) -> None:
        """Count a frame; an Ack is due every half window."""
        self.count += 1
        if self.count >= max(1, min(self.window, *self.told) // 2):
            self.flush = True

    def finish(self, assembly: Assembly) -> None:
        """Remove a blob whose bytes are complete, or that no letter needs."""
        self.assemblies.pop(assembly.number, None)
        if self.by_digest.get(assembly.digest) is assembly:
            del self.by_digest[assembly.digest]

    def done(self, number: int) -> None:
        self.finished.pop(number, None)
        self.finished[number] = None
        self.dirty[number] = None
        if len(self.finished) > FINISHED:
            del self.finished[next(iter(self.finished))]

    def drop(self, stream: str, seq: int) -> None:
        """Drop a letter that waits for blobs, and the blobs that no other letter names."""
        waiting = self.streams[stream].waiting.pop(seq, None)
        for digest in waiting.missing if waiting is not None else ():
            assembly = self.by_digest.get(digest)
            if assembly is not None:
                assembly.letters.pop((stream, seq), None)
                if not assembly.letters:
                    self.finish(assembly)

    def letter_state(self, stream: str, seq: int) -> LetterState:
        memory = self.streams.get(stream)
        if memory is not None:
            if seq in memory.accepted:
                return LetterState(stream, seq, DONE)
            if seq in memory.refused:
                return LetterState(stream, seq, REFUSED, memory.refused[seq].view, memory.refused[seq].reason)
            if seq in memory.parked or seq in memory.waiting:
                return LetterState(stream, seq, KNOWN)
        return LetterState(stream, seq, BUSY if (stream, seq) in self.busy else UNKNOWN)

    def blob_state(self, number: int) -> BlobState:
        assembly = self.assemblies.get(number)
        if assembly is not None:
            return BlobState(number, KNOWN, assembly.prefix, assembly.bitmap())
        return BlobState(number, DONE if number in self.finished else UNKNOWN)

    def states(self) -> tuple[tuple[LetterState, ...], tuple[BlobState, ...]]:
        """States for an Ack: of changed letters, and of changed and all unfinished blobs, so that the sender learns of every lost chunk."""
        letters = tuple(self.letter_state(*name) for name in self.news)
        blobs = tuple(self.blob_state(number) for number in {**self.dirty, **dict.fromkeys(self.assemblies)})
        self.news.clear()
        self.dirty.clear()
        self.busy.clear()
        self.count, self.flush = 0, False
        return letters, blobs
