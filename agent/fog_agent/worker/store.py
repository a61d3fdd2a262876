"""Saves and their blobs on this node's disk: one folder per job, content-addressed, temp name + fsync + rename.

    {state}/jobs/{job}/blobs/{digest}
    {state}/jobs/{job}/saves/{task}/{label}.save       (replicas of other nodes' tasks: saves/{task}/{label}.replica)

A Save is fsynced once: its blobs and its record are written, then fsynced together, then the record is renamed into place. A torn
file is never read, because a record counts only under its final name and if all its blobs are there with their size.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

from fog_common.errors import WireError
from fog_common.runtime import saves
from fog_common.runtime.saves import Record
from fog_common.runtime.shelf import Shelf, kept


class JobStore:
    """Saves of one job on one node. `write` runs on the disk thread, `read` on any thread, `load` before both."""

    def __init__(self, state_dir: str | Path, job: str) -> None:
        self.folder = Path(state_dir) / "jobs" / job
        self._blobs = self.folder / "blobs"
        self._saves = self.folder / "saves"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._saves.mkdir(parents=True, exist_ok=True)
        self._on_disk: dict[Path, set[str]] = {}  # record file -> digests of its blobs; used by the disk thread after load()

    def read(self, digest: str) -> memoryview | None:
        """The bytes of a durable blob, mapped; None without them."""
        try:
            with open(self._blobs / digest, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)) if size else memoryview(b"")
        except (FileNotFoundError, OSError):
            return None

    def load(self) -> Shelf:
        """All whole Saves on the disk; torn or foreign files are removed."""
        shelf = Shelf()
        records: list[tuple[int, bool, Path, Record]] = []
        for path in sorted(self._saves.glob("*/*")):
            record = self._record(path)
            if record is None:
                path.unlink(missing_ok=True)
            else:
                records.append((record.label, path.suffix == ".save", path, record))
        for _, own, path, record in sorted(records, key=lambda item: item[:2]):
            shelf.add(record, replica=not own)
            self._on_disk[path] = record.digests()
        self._collect()
        return shelf

    def _record(self, path: Path) -> Record | None:
        if path.suffix not in {".save", ".replica"}:
            return None
        try:
            record = saves.decode(path.read_bytes())
        except (WireError, OSError):
            return None
        for blob in record.blobs:
            try:
                if (self._blobs / blob.digest).stat().st_size != blob.size:
                    return None
            except OSError:
                return None
        return record

    def write(self, record: Record, replica: bool, content: Callable[[str], memoryview | None]) -> None:
        """Make the record and its blobs durable. content: bytes by digest. OSError (disk full, …) leaves the older Saves unchanged."""
        folder = self._saves / record.task
        folder.mkdir(exist_ok=True)
        final = folder / f"{record.label}{'.replica' if replica else '.save'}"
        written: list[tuple[int, Path, Path]] = []
        try:
            for blob in record.blobs:
                target = self._blobs / blob.digest
                if target.exists():
                    continue
                bytes_ = content(blob.digest)
                if bytes_ is None:
                    raise OSError(f"blob {blob.digest[:12]} of {record.task}'s save {record.label} is not in memory")
                written.append(_begin(target, bytes_))
            written.append(_begin(final, saves.encode(record)))
            for fd, temporary, target in written:
                os.fdatasync(fd)
                os.rename(temporary, target)
        finally:
            for fd, temporary, _ in written:
                os.close(fd)
                temporary.unlink(missing_ok=True)
        _sync_folder(folder)
        if len(written) > 1:
            _sync_folder(self._blobs)
        self._on_disk[final] = record.digests()
        there = [path for path in folder.iterdir() if path.suffix in {".save", ".replica"} and path.stem.isdigit()]
        stay = kept((int(path.stem) for path in there), record.label)
        for path in there:
            label = int(path.stem)
            if path == final or (label in stay and label != record.label):
                continue
            path.unlink(missing_ok=True)
            self._on_disk.pop(path, None)
        self._collect()

    def _collect(self) -> None:
        """Remove blobs that no Save names."""
        needed = {digest for digests in self._on_disk.values() for digest in digests}
        for path in self._blobs.iterdir():
            if path.name not in needed:
                path.unlink(missing_ok=True)


def _begin(target: Path, content: bytes | memoryview) -> tuple[int, Path, Path]:
    temporary = target.with_name(target.name + ".part")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    view = memoryview(content)
    try:
        while view.nbytes:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        temporary.unlink(missing_ok=True)
        raise
    return fd, temporary, target


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
