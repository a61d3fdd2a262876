"""Copies of a host's Saves on their way to the buddies of their tasks."""

from __future__ import annotations

from fog_common.runtime.effects import Replica
from fog_common.runtime.mail import Key, Mail
from fog_common.runtime.refs import BlobTable
from fog_common.runtime.saves import Record
from fog_common.runtime.table import Table


class Copies:
    """A copy that is on its way arrives, however fast the Saves follow each other; of those that wait behind it only the newest is sent."""

    def __init__(self, mail: Mail, blobs: BlobTable) -> None:
        self._mail = mail
        self._blobs = blobs
        self._waiting: dict[str, Record] = {}  # by task
        self._leaving: dict[Key, tuple[str, int]] = {}  # letter -> (task, label)

    def wait(self, record: Record) -> None:
        """It is not known whether its copy arrived: a table, or the end of a Fetch, will offer it anew."""
        self._waiting[record.task] = record

    def waiting(self, task: str) -> Record | None:
        return self._waiting.get(task)

    def unconfirmed(self, task: str) -> bool:
        """A copy waits or is on its way."""
        return task in self._waiting or self._is_leaving(task)

    def offer(self, now: float, table: Table, record: Record, anew: bool = False) -> bool:
        """The newest durable Save of a task. False if nobody is to keep copies of it. anew: the table changed, what was on its way may
        have been lost with its receiver."""
        self._waiting.pop(record.task, None)
        if not table.buddy(record.task):
            return False
        if anew:
            self._cancel(record.task)
        self._waiting[record.task] = record
        self._send(now, table, record.task)
        return True

    def acked(self, key: Key) -> tuple[str, int] | None:
        """A letter of this host has arrived: (task, label) if it was a copy."""
        return self._leaving.pop(key, None)

    def send_waiting(self, now: float, table: Table) -> None:
        """A letter has arrived: those that waited for it leave."""
        for task in list(self._waiting):
            self._send(now, table, task)

    def drop(self, task: str) -> None:
        """The task is no longer ours: who has it now asks for the newest."""
        self._waiting.pop(task, None)
        self._cancel(task)

    def _send(self, now: float, table: Table, task: str) -> None:
        record, buddy = self._waiting[task], table.buddy(task)
        address = table.address_of(buddy)
        if address is None or self._is_leaving(task) or self._mail.carries(buddy, record.digests()):
            return  # no address: the next table says where it is
        del self._waiting[task]
        if self._blobs.hold(record.blobs):  # else a newer Save is on the disk already
            self._leaving[self._mail.to_host(now, address, Replica(record), record.blobs)] = task, record.label

    def _is_leaving(self, task: str) -> bool:
        return any(name == task for name, _ in self._leaving.values())

    def _cancel(self, task: str) -> None:
        for key in [key for key, (name, _) in self._leaving.items() if name == task]:
            self._mail.cancel(key)
            del self._leaving[key]
