"""Rewind: all tasks of a job go back to one label together. For methods whose tasks advance in lockstep (ADR 9). Pure.

A table names the label (`rewind`) and the view in which that was decided (`rewind_view`). Every open task of this host goes back once
for each such view, to its newest Save at or below the label, or to its beginning if it has none; `Rewound` says so to its machine. A
task that is opened under that same view begins at the label too.
"""

from __future__ import annotations

from collections.abc import Mapping

from fog_common.runtime.task import Task
from fog_common.wire.messages import Placement


def limit(placement: Placement) -> int | None:
    """The newest label at which a task may begin under this table; None: any."""
    return placement.rewind if placement.rewind_view == placement.view else None


def falls_back(old: Placement, new: Placement) -> bool:
    """Whether the job went back between two tables of this host."""
    return old.view > 0 and new.rewind_view > old.rewind_view


def due(tasks: Mapping[str, Task], placement: Placement) -> list[str]:
    """Open tasks that have not gone back yet as the table says, by name."""
    return sorted(name for name, task in tasks.items() if placement.rewind is not None and task.rewound_view < placement.rewind_view)
