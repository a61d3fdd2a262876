"""What refs stand for in one process: values by handle, bytes by digest, and which of them are still needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from blake3 import blake3

from fog_common.errors import OpError
from fog_common.runtime.machine import Blob, Handle, Ref
from fog_common.transfer.blobs import Blobs


class Codec(Protocol):
    """Values to bytes and back; chosen by the op backend."""

    def encode(self, value: Any) -> bytes | bytearray: ...

    def decode(self, content: bytes | bytearray | memoryview) -> Any: ...


class Disk(Protocol):
    """Blobs that a Save made durable."""

    def read(self, digest: str) -> memoryview | None: ...


class NoDisk:
    def read(self, digest: str) -> memoryview | None:
        return None


class BlobTable(Blobs):
    """Bytes in memory, with the disk behind it: what is durable may be dropped from memory and read again."""

    def __init__(self, disk: Disk | None = None) -> None:
        self._memory: dict[str, memoryview] = {}
        self._disk: Disk = disk or NoDisk()
        self.size_bytes = 0
        """Of what is in memory."""

    def get(self, digest: str) -> memoryview | None:
        held = self._memory.get(digest)
        return held if held is not None else self._disk.read(digest)

    def put(self, digest: str, content: bytes | bytearray | memoryview) -> None:
        if digest not in self._memory:
            self._memory[digest] = memoryview(content).toreadonly()
            self.size_bytes += len(content)

    def hold(self, blobs: Iterable[Blob]) -> bool:
        """Take them into memory (mapped, not read) until the next keep_only, so that they stay when their files go; False if one is gone."""
        for blob in blobs:
            content = self.get(blob.digest)
            if content is None:
                return False
            self.put(blob.digest, content)
        return True

    def __contains__(self, digest: object) -> bool:
        return digest in self._memory or (isinstance(digest, str) and self._disk.read(digest) is not None)

    def keep_only(self, digests: set[str]) -> None:
        for digest in [digest for digest in list(self._memory) if digest not in digests]:
            self.size_bytes -= len(self._memory.pop(digest))

    def __len__(self) -> int:
        return len(self._memory)


class Refs:
    """The table of one host. Handles are scoped by task. Op threads store values, the host's thread does all the rest."""

    def __init__(self, codec: Codec, blobs: BlobTable, one_time_prefix: str) -> None:
        self.blobs = blobs
        self._codec = codec
        self._values: dict[tuple[str, str], Any] = {}
        self._encoded: dict[tuple[str, str], Blob] = {}
        self._prefix = one_time_prefix
        self._one_time = 0
        self._invented = 0
        self._swept = (0, 0)  # entries and bytes that the last sweep left

    @property
    def grown(self) -> bool:
        """Enough has come since the last sweep to make the next one worth its walk over all tasks."""
        entries, size = self._swept
        return len(self._values) + len(self.blobs) > 2 * entries + 8 or self.blobs.size_bytes > 1.5 * size + (8 << 20)

    def invent(self) -> Handle:
        self._invented += 1
        return Handle(f"h{self._invented}")

    def store(self, task: str, handle: Handle, value: Any) -> None:
        """An op's output. A handle that is stored again (updated in place) loses the bytes it was encoded to."""
        self._encoded.pop((task, handle.name), None)
        self._values[task, handle.name] = value

    def value(self, task: str, ref: Ref) -> Any:
        """What an op gets for a ref: None for a handle that does not exist yet. OpError for bytes that are gone."""
        if isinstance(ref, Handle):
            return self._values.get((task, ref.name))
        content = self.blobs.get(ref.digest)
        if content is None:
            raise OpError(f"blob {ref.digest[:12]} ({ref.size} B) is not here")
        return self._codec.decode(content)

    def blob(self, task: str, ref: Ref, once: bool = False) -> Blob:
        """The ref as immutable bytes, encoded (and hashed, unless `once`) at most one time."""
        if isinstance(ref, Blob):
            return ref
        key = (task, ref.name)
        known = self._encoded.get(key)
        if known is not None and (once or not known.digest.startswith("~")):
            return known
        if key not in self._values:
            raise OpError(f"handle {ref.name!r} of {task} has no value yet; wait for the op that makes it")
        content = self._codec.encode(self._values[key])
        if once:
            self._one_time += 1
            digest = f"~{self._prefix}-{self._one_time}"
        else:
            digest = str(blake3(content).hexdigest())
        blob = Blob(digest, len(content))
        self.blobs.put(digest, content)
        self._encoded[key] = blob
        return blob

    def forget_task(self, task: str) -> None:
        for key in [key for key in list(self._values) if key[0] == task]:
            self._values.pop(key, None)
            self._encoded.pop(key, None)

    def sweep(self, handles: set[tuple[str, str]], digests: set[str]) -> None:
        """Drop every value and every blob in memory that is not named."""
        for key in [key for key in list(self._values) if key not in handles]:  # a copy: op threads store meanwhile
            self._values.pop(key, None)
            self._encoded.pop(key, None)
        live = digests | {self._encoded[key].digest for key in handles if key in self._encoded}
        self.blobs.keep_only(live)
        self._swept = (len(self._values) + len(self.blobs), self.blobs.size_bytes)

    def __len__(self) -> int:
        return len(self._values)


def digests_of(refs: Iterable[Ref]) -> set[str]:
    return {ref.digest for ref in refs if isinstance(ref, Blob)}
