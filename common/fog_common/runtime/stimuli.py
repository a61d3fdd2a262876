"""The last stimuli of a host, for debugging. Pure, bounded, cheap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

KEPT: Final = 200
"""Number of stimuli that are remembered."""


class Stimuli:
    def __init__(self) -> None:
        self._log: deque[tuple[float, str, str, Any]] = deque(maxlen=KEPT)

    def note(self, now: float, kind: str, task: str, detail: Any = "") -> None:
        """Remember a stimulus. task: '' if it concerns all tasks. detail: turned into text only by story()."""
        self._log.append((now, kind, task, detail))

    def story(self, task: str = "") -> Iterator[str]:
        """Lines `time kind task detail`, oldest first, of the stimuli that concern the task; '': of all."""
        for now, kind, name, detail in self._log:
            if not task or name in ("", task):
                yield f"{now:.3f} {kind} {name} {detail}".rstrip()

    def __len__(self) -> int:
        return len(self._log)
