"""The coordinator's pages: /metrics, /healthz, /readyz. Requests wait for the owner of the core, who answers in its turn."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from fog_common.metrics import CONTENT_TYPE, Samples, render
from fog_common.pages import Page, Pages

CACHE_S: Final = 1.0
"""Several readers within this time get the same text."""
ANSWER_S: Final = 10.0
"""The owner of the core must answer within this time, or the coordinator is not healthy."""


class Look(Struct, frozen=True):
    """What the owner of the core answers."""

    samples: Samples
    problems: tuple[str, ...]
    """Why the coordinator cannot do its work now; () = it is ready."""


class LookAsked:
    """An item of the coordinator's inbox. One answer, from the owner's thread."""

    def __init__(self, samples: bool) -> None:
        """samples: whether they are wanted, beside the question whether all is well."""
        self.samples = samples
        self._reply: queue.SimpleQueue[Look] = queue.SimpleQueue()

    def answer(self, look: Look) -> None:
        self._reply.put(look)

    def wait(self) -> Look | None:
        try:
            return self._reply.get(timeout=ANSWER_S)
        except queue.Empty:
            return None


class Scrapes:
    """The three pages. ask: puts into the inbox."""

    def __init__(self, ask: Callable[[LookAsked], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._lock = threading.Lock()
        self._page: Page | None = None
        self._until = 0.0

    def serve(self, host: str, port: int) -> Pages:
        """ConfigError if the port cannot be had."""
        return Pages(host, port, {"/metrics": self.metrics, "/healthz": self.healthz, "/readyz": self.readyz}, "metrics")

    def metrics(self) -> Page:
        with self._lock:  # a second reader takes what the first one made
            if self._page is None or self._clock() >= self._until:
                look = self._look(samples=True)
                if look is None:
                    return _STUCK
                self._page = Page(200, render(look.samples), CONTENT_TYPE)
                self._until = self._clock() + CACHE_S
            return self._page

    def healthz(self) -> Page:
        """Is the process alive and its loop running?"""
        return _STUCK if self._look(samples=False) is None else Page(200, b"ok\n")

    def readyz(self) -> Page:
        """Can it do its work: broker and journal?"""
        look = self._look(samples=False)
        if look is None:
            return _STUCK
        return Page(503, ("\n".join(look.problems) + "\n").encode()) if look.problems else Page(200, b"ready\n")

    def _look(self, samples: bool) -> Look | None:
        asked = LookAsked(samples)
        self._ask(asked)
        return asked.wait()


_STUCK: Final = Page(503, f"the coordinator has not answered for {ANSWER_S:.0f} s\n".encode())
