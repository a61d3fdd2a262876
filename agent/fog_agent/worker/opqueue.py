"""Ops between the worker's owner, which adds and withdraws them, and the thread that runs them."""

from __future__ import annotations

import threading
from collections import deque

from fog_common.runtime.effects import Compute


class OpQueue:
    """Ops in order; one that has not begun can be withdrawn. Any thread may call any method."""

    def __init__(self) -> None:
        self._waiting: deque[Compute] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, compute: Compute) -> None:
        with self._changed:
            self._waiting.append(compute)
            self._changed.notify()

    def get(self) -> Compute | None:
        """The next op to run; blocks until there is one. None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return None if self._closed else self._waiting.popleft()

    def withdraw(self, serial: int) -> Compute | None:
        """The op with this serial, which now never runs; None if it has begun."""
        with self._changed:
            unbegun = next((compute for compute in self._waiting if compute.serial == serial), None)
            if unbegun is not None:
                self._waiting.remove(unbegun)
            return unbegun

    def close(self) -> None:
        """End the queue and drop the waiting ops."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)
