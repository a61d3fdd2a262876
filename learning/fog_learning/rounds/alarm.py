"""A machine with several wake-up times and one alarm, set to the earliest of them."""

from __future__ import annotations

from fog_common.runtime.machine import Command, Event, Machine, WakeAt, Woke


class Alarm(Machine, kw_only=True):
    """A subclass gives its wake-up times in times(), and handles events in react()."""

    alarm: float | None = None
    """Job time of the last WakeAt; None without one."""

    def step(self, event: Event, now: float) -> list[Command]:
        if isinstance(event, Woke):
            self.alarm = None
        commands = self.react(event, now)
        times = [time for time in self.times() if time is not None]
        if times and min(times) != self.alarm:
            self.alarm = min(times)
            commands = [*commands, WakeAt(self.alarm)]
        return commands

    def react(self, event: Event, now: float) -> list[Command]:
        raise TypeError(f"{type(self).__name__} does not define react()")

    def times(self) -> tuple[float | None, ...]:
        return ()
