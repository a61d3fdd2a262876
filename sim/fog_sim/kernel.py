"""Virtual time: a heap of (time, order, action). Deterministic: actions at the same time run in the order in which they were scheduled."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Timer:
    """One scheduled action; `cancel()` makes it do nothing."""

    __slots__ = ("_action",)

    def __init__(self, action: Action) -> None:
        self._action: Action | None = action

    def cancel(self) -> None:
        self._action = None

    def fire(self) -> bool:
        action, self._action = self._action, None
        if action is None:
            return False
        action()
        return True


class Kernel:
    """Clock and queue of the simulation; times are virtual seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        """Number of actions that ran, which the benchmark reports as events."""
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = 0

    def at(self, when: float, action: Action) -> Timer:
        """Run `action` at virtual time `when`, or now if that has passed."""
        timer = Timer(action)
        self._order += 1
        heapq.heappush(self._heap, (max(when, self.now), self._order, timer))
        return timer

    def after(self, seconds: float, action: Action) -> Timer:
        return self.at(self.now + seconds, action)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Run actions until none is scheduled up to `until`, or until `done()` is true after an action."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._heap)
            if timer.fire():
                self.events += 1
                if done():
                    return
        if self._heap or self.now < until:
            self.now = max(self.now, until)

    @property
    def pending(self) -> bool:
        return bool(self._heap)


class Wakeup:
    """One timer that moves, for sans-IO parts whose `next_timer()` may change after every call."""

    def __init__(self, kernel: Kernel, action: Action) -> None:
        self._kernel = kernel
        self._action = action
        self._timer: Timer | None = None
        self._when: float | None = None

    def set(self, when: float | None) -> None:
        if when == self._when and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._when = when
        self._timer = None if when is None else self._kernel.at(when, self._fire)

    def _fire(self) -> None:
        self._timer, self._when = None, None
        self._action()
