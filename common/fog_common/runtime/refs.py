"""Values and bytes behind the refs of one process: values by handle, bytes by digest; a sweep drops those that no task needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from blake3 import blake3

from fog_common.errors import OpError
from fog_common.runtime.machine import Blob, Handle, Ref
from fog_common.transfer.blobs import Blobs


class Codec(Protocol):
    """Encodes values as bytes and decodes them; chosen by the op backend."""

    def encode(self, value: Any) -> bytes | bytearray: ...

    def decode(self, content: bytes | bytearray | memoryview) -> Any: ...


class Disk(Protocol):
    """Blobs that a Save made durable."""

    def read(self, digest: str) -> memoryview | None: ...


class NoDisk:
    def read(self, digest: str) -> memoryview | None:
        return None


class BlobTable(Blobs):
    """Bytes by digest, in memory and on the disk; durable bytes may leave the memory and are read again."""

    def __init__(self, disk: Disk | None = None) -> None:
        self._memory: dict[str, memoryview] = {}
        self._disk: Disk = disk or NoDisk()
        self.size_bytes = 0
        """Bytes in memory."""

    def get(self, digest: str) -> memoryview | None:
        held = self._memory.get(digest)
        return held if held is not None else self._disk.read(digest)

    def put(self, digest: str, content: bytes | bytearray | memoryview) -> None:
        if digest not in self._memory:
            self._memory[digest] = memoryview(content).toreadonly()
            self.size_bytes += len(content)

    def hold(self, blobs: Iterable[Blob]) -> bool:
        """Map blobs into memory until the next keep_only, so that they outlive their files; False if one is missing."""
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
    """The refs of one host. A handle belongs to one task. Op threads call `store`, the host's thread everything else."""

    def __init__(self, codec: Codec, blobs: BlobTable, one_time_prefix: str) -> None:
        self.blobs = blobs
        self._codec = codec
        self._values: dict[tuple[str, str], Any] = {}
        self._encoded: dict[tuple[str, str], Blob] = {}
        self._prefix = one_time_prefix
        self._one_time = 0
        self._invented = 0
        self._swept = (0, 0)  # entries and bytes left by the last sweep

    @property
    def grown(self) -> bool:
        """Whether enough entries or bytes arrived since the last sweep to be worth a walk over all tasks."""
        entries, size = self._swept
        return len(self._values) + len(self.blobs) > 2 * entries + 8 or self.blobs.size_bytes > 1.5 * size + (8 << 20)

    def invent(self) -> Handle:
        self._invented += 1
        return Handle(f"h{self._invented}")

    def store(self, task: str, handle: Handle, value: Any) -> None:
        """Keep an op's output. A handle that is stored again (updated in place) loses its encoded bytes."""
        self._encoded.pop((task, handle.name), None)
        self._values[task, handle.name] = value

    def value(self, task: str, ref: Ref) -> Any:
        """Value of a ref for an op; None for a handle without a value yet. OpError if the blob's bytes are missing."""
        if isinstance(ref, Handle):
            return self._values.get((task, ref.name))
        content = self.blobs.get(ref.digest)
        if content is None:
            raise OpError(f"blob {ref.digest[:12]} ({ref.size} B) is not here")
        return self._codec.decode(content)

    def blob(self, task: str, ref: Ref, once: bool = False) -> Blob:
        """The ref as immutable bytes, encoded at most once. once: named by a number instead of a hash. OpError for a handle without a value."""
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
        """Drop all values but those of `handles`, (task, name), and all blobs in memory but those of `digests` and `handles`."""
        for key in [key for key in list(self._values) if key not in handles]:  # a copy: op threads store meanwhile
            self._values.pop(key, None)
            self._encoded.pop(key, None)
        live = digests | {self._encoded[key].digest for key in handles if key in self._encoded}
        self.blobs.keep_only(live)
        self._swept = (len(self._values) + len(self.blobs), self.blobs.size_bytes)

    def __len__(self) -> int:
        return len(self._values)
