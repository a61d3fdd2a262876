"""Everything that happens to a process, in one line: many threads and signal handlers put, one thread takes."""

from __future__ import annotations

import queue
import signal
from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Struct

Item = TypeVar("Item")


class StopAsked(Struct, frozen=True):
    """SIGTERM, SIGINT."""


class Inbox(Generic[Item]):
    """put() may be called from any thread and from a signal handler: the queue's put is reentrant and takes no lock of Python."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.put: Callable[[Item], None] = self._queue.put

    def next(self, timeout_s: float) -> Item | None:
        """The oldest item; None after timeout_s."""
        try:
            return self._queue.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None


def stop_on_signals(put: Callable[[StopAsked], None]) -> None:
    """SIGTERM and SIGINT become a StopAsked, from now on. Main thread only."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: put(StopAsked()))
