"""A blob on its way in: one buffer, filled in any order and hashed meanwhile. It grows with the received bytes, not with the announced size."""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from fog_common.errors import WireError
from fog_common.transfer.frames import BlobPart, is_hash
from fog_common.transfer.window import beyond_bytes

FIRST_BYTES: Final = 8 << 20
"""Bytes allocated with the first chunk, or the size of the blob if that is less."""
AHEAD_BYTES: Final = 32 << 20
"""A chunk that begins behind this plus three times the received bytes is dropped as if lost. No window reaches so far; a slow member of a cast does."""


class Assembly:
    """The buffer is empty before the first chunk, and never exceeds AHEAD_BYTES plus four times the received bytes."""

    __slots__ = (
        "arrived",
        "beyond",
        "buffer",
        "chunk",
        "count",
        "digest",
        "hash",
        "highest",
        "letters",
        "number",
        "prefix",
        "size",
        "touched",
        "view",
        "wrong",
    )

    def __init__(self, part: BlobPart, now: float) -> None:
        self.digest, self.size, self.number, self.chunk, self.count = part.digest, part.size, part.number, part.chunk, part.count
        self.letters: dict[tuple[str, int], None] = {}
        """(stream, number) of the letters that wait for the blob."""
        self.touched = now
        self.wrong = 0
        """Times that the complete bytes did not match the name."""
        self.reset()

    def reset(self) -> None:
        self.buffer = bytearray()
        self.view = memoryview(self.buffer)
        self.arrived = 0
        """Received bytes."""
        self.prefix = 0
        """Received chunks without a gap from the first."""
        self.beyond: set[int] = set()
        self.highest = -1
        self.hash = blake3() if is_hash(self.digest) else None

    def matches(self, part: BlobPart) -> bool:
        return (self.number, self.size, self.chunk) == (part.number, part.size, part.chunk)

    def length(self, index: int) -> int:
        """Bytes of a chunk."""
        return self.chunk if index < self.count - 1 else self.size - self.chunk * (self.count - 1)

    def has(self, index: int) -> bool:
        return index < self.prefix or index in self.beyond

    def ahead(self, index: int) -> bool:
        """Whether the chunk would allocate far more bytes than have arrived."""
        return index * self.chunk > AHEAD_BYTES + 3 * self.arrived

    def _grow(self, to: int) -> None:
        if to <= len(self.buffer):
            return
        self.view.release()
        wanted = min(self.size, max(to, FIRST_BYTES, 2 * len(self.buffer)))
        try:
            self.buffer.extend(bytes(wanted - len(self.buffer)))
        except MemoryError:
            raise WireError(f"no memory for a blob of {self.size} B", "no_memory") from None
        finally:
            self.view = memoryview(self.buffer)

    def add(self, index: int, content: memoryview) -> bool:
        """Add a new, checked chunk. True if it shows a new gap before it. WireError without memory for it."""
        at = index * self.chunk
        self._grow(at + len(content))
        self.view[at : at + len(content)] = content
        self.arrived += len(content)
        gap = index > self.highest + 1
        self.highest = max(self.highest, index)
        if index != self.prefix:
            self.beyond.add(index)
            return gap
        first = self.prefix
        self.prefix += 1
        while self.prefix in self.beyond:
            self.beyond.remove(self.prefix)
            self.prefix += 1
        if self.hash is not None:
            self.hash.update(self.view[first * self.chunk : min(self.size, self.prefix * self.chunk)])
        return gap

    @property
    def complete(self) -> bool:
        return self.prefix == self.count

    @property
    def right(self) -> bool:
        """Whether the bytes of a complete blob match its name."""
        return self.hash is None or self.hash.hexdigest() == self.digest

    def content(self) -> memoryview:
        return self.view.toreadonly()

    def bitmap(self) -> bytes:
        return beyond_bytes(self.prefix, self.beyond)
