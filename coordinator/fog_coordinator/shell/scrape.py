"""The coordinator's pages: /metrics, /healthz, /readyz. Requests wait for the owner of the core, who answers in its turn."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from fog_common.telemetry.exposition import CONTENT_TYPE, Exposition
from fog_common.telemetry.metrics import Samples
from fog_common.telemetry.pages import Page, Pages

log = logging.getLogger(__name__)

ANSWER_S: Final = 10.0
"""The owner of the core must answer within this time, or the coordinator is not healthy."""


class Look(Struct, frozen=True):
    """The answer of the thread that owns the core."""

    samples: Samples
    problems: tuple[str, ...]
    """Why the coordinator cannot do its work now; () = it is ready."""
    failed: str = ""
    """Not '': why there are no samples."""


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
        self._ask = ask
        self._exposition = Exposition(self._samples, clock=clock)

    def serve(self, host: str, port: int) -> Pages:
        """ConfigError if the port cannot be had."""
        return Pages(host, port, {"/metrics": self.metrics, "/healthz": self.healthz, "/readyz": self.readyz}, "metrics")

    def metrics(self) -> Page:
        try:
            return Page(200, self._exposition.text(), CONTENT_TYPE)
        except _NoAnswer as problem:
            return problem.page
        except (KeyError, ValueError) as error:
            log.exception("the metrics cannot be written")
            return Page(500, f"the metrics cannot be written: {error}\n".encode())

    def healthz(self) -> Page:
        """Is the process alive and its loop running?"""
        return _STUCK if self._look(samples=False) is None else Page(200, b"ok\n")

    def readyz(self) -> Page:
        """Can it do its work: broker and journal?"""
        look = self._look(samples=False)
        if look is None:
            return _STUCK
        return Page(503, ("\n".join(look.problems) + "\n").encode()) if look.problems else Page(200, b"ready\n")

    def _samples(self) -> Samples:
        look = self._look(samples=True)
        if look is None:
            raise _NoAnswer(_STUCK)
        if look.failed:
            raise _NoAnswer(Page(500, f"{look.failed}\n".encode()))
        return look.samples

    def _look(self, samples: bool) -> Look | None:
        asked = LookAsked(samples)
        self._ask(asked)
        return asked.wait()


class _NoAnswer(Exception):
    """No samples: what the reader gets instead."""

    def __init__(self, page: Page) -> None:
        super().__init__(page.status)
        self.page = page


_STUCK: Final = Page(503, f"the coordinator has not answered for {ANSWER_S:.0f} s\n".encode())
