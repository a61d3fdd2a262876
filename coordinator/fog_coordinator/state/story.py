"""The last stimuli of the core with their times, for tests and bug reports. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

from msgspec import Struct

from fog_coordinator.state.history import LogLine

STIMULI: Final = 1000
"""Number of stimuli that are remembered."""


class Stimulus(Struct, frozen=True):
    """One event of the core. node, job: '' if the event concerns none."""

    at: float
    what: str
    node: str = ""
    job: str = ""
    text: str = ""

    def line(self) -> str:
        return f"{self.at:12.3f}  " + " ".join(part for part in (self.what, self.node, self.job, self.text) if part)


class Story:
    """The last STIMULI stimuli, without heartbeats that bring no news of a worker."""

    def __init__(self) -> None:
        self._stimuli: deque[Stimulus] = deque(maxlen=STIMULI)

    def add(self, at: float, what: str, node: str = "", job: str = "", text: str = "") -> None:
        self._stimuli.append(Stimulus(at, what, node, job, text))

    def of(self, job: str, nodes: Collection[str], events: Iterable[LogLine]) -> list[str]:
        """Stimuli of the job, of the given nodes and of neither, and the events of the job's log between them, in order of time."""
        lines = [(each.at, each.line()) for each in self._stimuli if each.job == job or (not each.job and (each.node in nodes or not each.node))]
        oldest = self._stimuli[0].at if self._stimuli else float("-inf")
        lines += [(event.at, f"{event.at:12.3f}    -> {event.text}") for event in events if event.at >= oldest]
        return [line for _, line in sorted(lines, key=lambda pair: pair[0])]
