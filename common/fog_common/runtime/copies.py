"""Copies of a host's Saves on their way to the buddies: the nodes that keep them."""

from __future__ import annotations

from fog_common.runtime.effects import Replica
from fog_common.runtime.mail import Key, Mail
from fog_common.runtime.refs import BlobTable
from fog_common.runtime.saves import Record
from fog_common.runtime.table import Table


class Copies:
    """One copy per task is on its way at a time, and newer Saves do not replace it; of those only the newest follows."""

    def __init__(self, mail: Mail, blobs: BlobTable) -> None:
        self._mail = mail
        self._blobs = blobs
        self._waiting: dict[str, Record] = {}  # by task
        self._leaving: dict[Key, tuple[str, int]] = {}  # letter -> (task, label)

    def wait(self, record: Record) -> None:
        """Remember a Save whose copy may not have arrived; the next table, or the end of a Fetch, offers it again."""
        self._waiting[record.task] = record

    def waiting(self, task: str) -> Record | None:
        return self._waiting.get(task)

    def unconfirmed(self, task: str) -> bool:
        """Whether a copy of the task waits or is on its way."""
        return task in self._waiting or self._is_leaving(task)

    def offer(self, now: float, table: Table, record: Record, anew: bool = False) -> bool:
        """Send the newest durable Save of a task to its buddy; False if the table names none.

        anew: the table changed, so that a copy on its way may be lost with its receiver.
        """
        self._waiting.pop(record.task, None)
        if not table.buddy(record.task):
            return False
        if anew:
            self._cancel(record.task)
        self._waiting[record.task] = record
        self._send(now, table, record.task)
        return True

    def acked(self, key: Key) -> tuple[str, int] | None:
        """(task, label) if the acknowledged letter was a copy."""
        return self._leaving.pop(key, None)

    def send_waiting(self, now: float, table: Table) -> None:
        """Send the copies that waited for a letter to arrive."""
        for task in list(self._waiting):
            self._send(now, table, task)

    def drop(self, task: str) -> None:
        """Forget a task that left this node; its new host fetches the newest Save."""
        self._waiting.pop(task, None)
        self._cancel(task)

    def _send(self, now: float, table: Table, task: str) -> None:
        record, buddy = self._waiting[task], table.buddy(task)
        address = table.address_of(buddy)
        if address is None or self._is_leaving(task) or self._mail.carries(buddy, record.digests()):
            return  # without an address the copy waits for the next table
        del self._waiting[task]
        if self._blobs.hold(record.blobs):  # otherwise the disk holds a newer Save already
            self._leaving[self._mail.to_host(now, address, Replica(record), record.blobs)] = task, record.label

    def _is_leaving(self, task: str) -> bool:
        return any(name == task for name, _ in self._leaving.values())

    def _cancel(self, task: str) -> None:
        for key in [key for key, (name, _) in self._leaving.items() if name == task]:
            self._mail.cancel(key)
            del self._leaving[key]
