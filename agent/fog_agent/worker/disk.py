"""The thread that writes Saves one after another, in the order of the core."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from msgspec import Struct

from fog_agent.worker.store import JobStore
from fog_common.runtime.effects import Persist

Content = Callable[[str], memoryview | None]
"""digest -> bytes of a blob that the worker holds in memory."""


class Saved(Struct, frozen=True):
    """The Save is durable after `seconds` of writing."""

    persist: Persist
    seconds: float


class SaveRefused(Struct, frozen=True):
    """The disk refused the Save; the older Saves are unchanged. why: text of the OSError."""

    why: str


class DiskThread:
    """put() and close() from any thread; every put ends as one Saved or SaveRefused."""

    def __init__(self, store: JobStore, content: Content, on_end: Callable[[Saved | SaveRefused], None]) -> None:
        self._store, self._content, self._on_end = store, content, on_end
        self._waiting: queue.SimpleQueue[Persist | None] = queue.SimpleQueue()

    def start(self) -> None:
        threading.Thread(target=self._run, name="disk", daemon=True).start()

    def put(self, persist: Persist) -> None:
        self._waiting.put(persist)

    def close(self) -> None:
        """End the thread after the Saves that wait."""
        self._waiting.put(None)

    def _run(self) -> None:
        while (persist := self._waiting.get()) is not None:
            began = time.perf_counter()
            try:
                self._store.write(persist.record, persist.replica, self._content)
            except OSError as error:
                self._on_end(SaveRefused(str(error)))
            else:
                self._on_end(Saved(persist, time.perf_counter() - began))
