"""The simulated disk of a node, which survives its processes and a power loss."""

from __future__ import annotations

from collections.abc import Callable

from fog_common.runtime.saves import Record
from fog_common.runtime.shelf import Shelf, kept


class SimDisk:
    """Content of one node's disk by job. full: the disk refuses Saves."""

    def __init__(self) -> None:
        self.incarnations: dict[str, int] = {}
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.records: dict[str, list[tuple[Record, bool]]] = {}
        self.full = False

    def view(self, job: str) -> JobDisk:
        return JobDisk(self.blobs.setdefault(job, {}), self.records.setdefault(job, []))


class JobDisk:
    """One job's blobs and Saves."""

    def __init__(self, blobs: dict[str, bytes], records: list[tuple[Record, bool]]) -> None:
        self.blobs = blobs
        self.records = records

    def read(self, digest: str) -> memoryview | None:
        content = self.blobs.get(digest)
        return None if content is None else memoryview(content)

    def load(self) -> Shelf:
        shelf = Shelf()
        for record, replica in self.records:
            shelf.add(record, replica)
        return shelf

    def write(self, record: Record, replica: bool, content: Callable[[str], memoryview | None]) -> None:
        for blob in record.blobs:
            if blob.digest not in self.blobs:
                held = content(blob.digest)
                assert held is not None, f"blob {blob.digest} of {record.task} is gone before its Save"
                self.blobs[blob.digest] = bytes(held)
        others = [(old, flag) for old, flag in self.records if old.task != record.task]
        mine = {old.label: (old, flag) for old, flag in self.records if old.task == record.task} | {record.label: (record, replica)}
        self.records[:] = [*others, *(mine[label] for label in kept(mine, record.label))]
        needed = {digest for old, _ in self.records for digest in old.digests()}
        for digest in [digest for digest in self.blobs if digest not in needed]:
            del self.blobs[digest]
