"""Saves on the disk: the store, the simulator's disk and the shelf keep the same labels, whatever is written in whatever order."""

from __future__ import annotations

import random
from pathlib import Path

import blake3
import pytest

from fog_agent.worker.store import JobStore
from fog_common.runtime.machine import Blob
from fog_common.runtime.saves import Record
from fog_common.runtime.shelf import Shelf, kept
from fog_sim.disk import JobDisk
from support.few import few

TASKS = ("server", "trainer-0", "trainer-1")


def content(name: str) -> bytes:
    return f"the weights of {name}".encode() * 7


def record(task: str, label: int, names: tuple[str, ...]) -> tuple[Record, dict[str, memoryview]]:
    held = {blake3.blake3(content(name)).hexdigest(): memoryview(content(name)) for name in names}
    blobs = tuple(Blob(digest, len(view)) for digest, view in sorted(held.items()))
    return Record(task, task.split("-", maxsplit=1)[0], label, float(label), b"machine", b"rest", b"kept", blobs), held


def shape(shelf: Shelf) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], set[str]]:
    """What a host sees of a shelf: (labels, replicas, digests)."""
    return {task: shelf.labels(task) for task in TASKS}, dict(shelf.replicas()), shelf.digests()


def test_the_last_two_labels_stay_and_what_is_above_the_written_one_goes():
    assert kept([], 5) == (5,)
    assert kept([3, 4], 5) == (4, 5)
    assert kept([8, 9], 5) == (5,)
    assert kept([4, 8, 9], 5) == (4, 5)
    assert kept([9, 10], 10) == (9, 10)


def test_an_older_label_replaces_the_newer_ones_and_is_on_the_disk(tmp_path: Path):
    store = JobStore(tmp_path, "digits")
    for label in (9, 10, 4):
        store.write(*_write("server", label))
    assert JobStore(tmp_path, "digits").load().labels("server") == (4,)


def _write(task: str, label: int, replica: bool = False):
    made, held = record(task, label, (f"{task}-{label}",))
    return made, replica, held.get


@pytest.mark.parametrize("seed", few(range(10), 2))
def test_store_simulated_disk_and_shelf_agree_also_after_a_restart(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    shelf, store, disk = Shelf(), JobStore(tmp_path, "digits"), JobDisk({}, [])
    for _ in range(40):
        task, label, replica = rng.choice(TASKS), rng.randrange(14), rng.random() < 0.4
        made, held = record(task, label, tuple(rng.sample(["a", "b", "c", "d", "e"], rng.randrange(4))))
        for keeper in (store, disk):
            keeper.write(made, replica, held.get)
        shelf.add(made, replica)
        if rng.random() < 0.2:
            store = JobStore(tmp_path, "digits")
            assert shape(store.load()) == shape(shelf)
        assert shape(disk.load()) == shape(shelf)
        assert label in shelf.labels(task), "what was just written is there"
        assert set(disk.blobs) == shelf.digests()
    loaded = JobStore(tmp_path, "digits").load()
    assert shape(loaded) == shape(shelf)
    assert {path.name for path in (tmp_path / "jobs" / "digits" / "blobs").iterdir()} == shelf.digests()
    assert all(loaded.newest(task) == shelf.newest(task) for task in TASKS)
