"""Saves on this node's disk: those of its own tasks, and replicas of tasks of other nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from fog_common.runtime.saves import Record

KEPT: Final = 2
"""Labels kept per task: other tasks may be one label behind."""


def kept(labels: Iterable[int], written: int) -> tuple[int, ...]:
    """Labels of a task that stay after `written`, oldest first. Labels above it are from before a rewind."""
    return tuple(sorted({label for label in labels if label <= written} | {written}))[-KEPT:]


class Shelf:
    """The last two labels of every task. The store fills it at start, oldest first; the host keeps it up to date."""

    def __init__(self) -> None:
        self._records: dict[str, dict[int, Record]] = {}
        self._replica: set[str] = set()

    def add(self, record: Record, replica: bool) -> None:
        labels = self._records.setdefault(record.task, {})
        labels[record.label] = record
        self._records[record.task] = {label: labels[label] for label in kept(labels, record.label)}
        if replica:
            self._replica.add(record.task)
        else:
            self._replica.discard(record.task)

    def newest(self, task: str, at_most: int | None = None) -> Record | None:
        labels = [label for label in self._records.get(task, {}) if at_most is None or label <= at_most]
        return self._records[task][max(labels)] if labels else None

    def cut(self, task: str, above: int) -> None:
        """Forget labels above `above`, to which the job has gone back."""
        for label in [label for label in self._records.get(task, {}) if label > above]:
            del self._records[task][label]

    def labels(self, task: str) -> tuple[int, ...]:
        return tuple(sorted(self._records.get(task, {})))

    def replicas(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for task in sorted(self._replica):
            yield task, self.labels(task)

    def digests(self) -> set[str]:
        return {digest for labels in self._records.values() for record in labels.values() for digest in record.digests()}

    def own(self) -> set[str]:
        return set(self._records) - self._replica
