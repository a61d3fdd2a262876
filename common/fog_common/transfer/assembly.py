"""A blob on its way in: one buffer, filled in any order, hashed while it fills. It grows with what has arrived, not with what was announced."""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from fog_common.errors import WireError
from fog_common.transfer.frames import BlobPart, is_hash
from fog_common.transfer.window import beyond_bytes

FIRST_BYTES: Final = 8 << 20
"""Allocated with the first chunk, or the whole blob if that is less."""
AHEAD_BYTES: Final = 32 << 20
"""A chunk this far, and three times what is here, ahead of what is here is dropped as if lost: more than any window; a cast's laggard is repaired later."""


class Assembly:
    """Nothing is allocated before the first chunk has come; later never more than AHEAD_BYTES and four times what has."""

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
        """(stream, number) of the letters that wait for it."""
        self.touched = now
        self.wrong = 0
        """How often its bytes did not match its name."""
        self.reset()

    def reset(self) -> None:
        self.buffer = bytearray()
        self.view = memoryview(self.buffer)
        self.arrived = 0
        """Bytes."""
        self.prefix = 0
        """Chunks without a gap from the first."""
        self.beyond: set[int] = set()
        self.highest = -1
        self.hash = blake3() if is_hash(self.digest) else None

    def matches(self, part: BlobPart) -> bool:
        return (self.number, self.size, self.chunk) == (part.number, part.size, part.chunk)

    def length(self, index: int) -> int:
        """Bytes of that chunk."""
        return self.chunk if index < self.count - 1 else self.size - self.chunk * (self.count - 1)

    def has(self, index: int) -> bool:
        return index < self.prefix or index in self.beyond

    def ahead(self, index: int) -> bool:
        """Would the chunk make us allocate far more than has arrived?"""
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
        """Put a checked chunk that is not here yet. True if chunks before it, not known to be missing so far, are missing."""
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
        """Of a complete one: do the bytes match the name?"""
        return self.hash is None or self.hash.hexdigest() == self.digest

    def content(self) -> memoryview:
        return self.view.toreadonly()

    def bitmap(self) -> bytes:
        return beyond_bytes(self.prefix, self.beyond)
