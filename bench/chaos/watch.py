"""When rounds are closed, seen from outside: a round counts once the server's Save of it is on a disk.

The coordinator and the broker may be dead meanwhile; files are not.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from blake3 import blake3

LOOK_S: Final = 0.01


class Closing(NamedTuple):
    """at: monotonic seconds at which the Save was seen."""

    at: float
    round: int
    node: str


class Watch:
    """`with Watch(folders) as watch:` notes each new Save. folders: node -> folder of the server's Saves there."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.closings: list[Closing] = []
        self._folders = folders
        self._seen: set[tuple[str, int, int]] = set()
        self._contents: set[tuple[int, bytes]] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    @property
    def round(self) -> int:
        return max((closing.round for closing in self.closings), default=0)

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        now = time.monotonic()
        for node, folder in self._folders.items():
            try:
                entries = [(int(Path(entry.name).stem), entry.inode()) for entry in os.scandir(folder) if entry.name.endswith(".save")]
            except (OSError, ValueError):
                continue
            for label, inode in sorted(entries):
                if (node, label, inode) in self._seen:
                    continue
                self._seen.add((node, label, inode))
                with contextlib.suppress(FileNotFoundError):
                    content = (label, blake3((folder / f"{label}.save").read_bytes()).digest())
                    if content not in self._contents:  # else it is a copy that another node was given
                        self._contents.add(content)
                        self.closings.append(Closing(now, label, node))


class Figures(NamedTuple):
    """What one schedule cost."""

    recover_s: float
    """See figures()."""
    again: int
    """Rounds that were closed once more: the newest Save had no copy yet when its node was lost. Their updates come from the spools."""
    round_s: float
    """Median of the undisturbed rounds before the first fault."""


def figures(closings: list[Closing], fault_at: float, until: float) -> Figures | None:
    """recover_s: the longest time without a closed round that begins or lasts after the fault (the part before it does not count),
    minus an undisturbed round; never less than 0. again: rounds that were closed once more after their Save had been seen.

    until: monotonic seconds up to which gaps count (the end of the job). None if the job had no round before or none after the fault.
    """
    before = [closing for closing in closings if closing.at < fault_at]
    after = [closing for closing in closings if fault_at <= closing.at <= until]
    gaps = sorted(later.at - earlier.at for earlier, later in itertools.pairwise(before) if later.round > earlier.round)
    if not gaps or not after:
        return None
    usual = gaps[len(gaps) // 2]
    times = [fault_at, *(closing.at for closing in after)]
    longest = max(later - earlier for earlier, later in itertools.pairwise(times))
    newest, again = -1, 0
    for closing in closings:
        again += closing.round <= newest
        newest = max(newest, closing.round)
    return Figures(max(0.0, longest - usual), again, usual)
