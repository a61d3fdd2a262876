"""Bytes by name, as the endpoint and the host need them."""

from __future__ import annotations

from typing import Protocol


class Blobs(Protocol):
    """A table of immutable bytes. The endpoint reads what it sends and stores what it has received and verified."""

    def get(self, digest: str) -> memoryview | None: ...

    def put(self, digest: str, content: bytes | bytearray | memoryview) -> None: ...

    def __contains__(self, digest: object) -> bool: ...


class MemoryBlobs(dict[str, memoryview]):
    """The plain implementation."""

    def put(self, digest: str, content: bytes | bytearray | memoryview) -> None:
        self[digest] = memoryview(content).toreadonly()
