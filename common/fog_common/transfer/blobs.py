"""Bytes by digest, as the endpoint and the host use them."""

from __future__ import annotations

from typing import Protocol


class Blobs(Protocol):
    """A table of immutable bytes. The endpoint reads the blobs that it sends and stores those that it has verified."""

    def get(self, digest: str) -> memoryview | None: ...

    def put(self, digest: str, content: bytes | bytearray | memoryview) -> None: ...

    def __contains__(self, digest: object) -> bool: ...


class MemoryBlobs(dict[str, memoryview]):
    """Blobs in a dict."""

    def put(self, digest: str, content: bytes | bytearray | memoryview) -> None:
        self[digest] = memoryview(content).toreadonly()
