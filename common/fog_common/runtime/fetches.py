"""Fetches of a host: for each task placed here, a request to the node that had it before for its newest Save."""

from __future__ import annotations

from collections.abc import Container

from msgspec import Struct

from fog_common.runtime.effects import Fetch
from fog_common.runtime.machine import Peer
from fog_common.runtime.mail import Key, Mail
from fog_common.runtime.table import Table
from fog_common.transfer.endpoint import Letter


class Fetches:
    def __init__(self, mail: Mail) -> None:
        self._mail = mail
        self._asked: dict[str, _Asked] = {}  # by task
        self._done: set[tuple[str, int]] = set()  # (task, since) that need not be asked for again

    def source(self, table: Table, peer: Peer) -> str:
        """The node to ask before the task begins here; '' if none."""
        return "" if (peer.task, peer.since) in self._done else table.source(peer.task)

    def ask(self, now: float, table: Table, task: str, source: str) -> None:
        """Ask `source` for the task's newest Save, again with every table: the endpoint may have dropped the earlier letter."""
        before = self._asked.get(task)
        if before is not None and before.key is not None:
            self._mail.cancel(before.key)
        again = before is not None and before.source == source
        tried = before.tried if before is not None else ()
        address = table.address_of(source)
        key = self._mail.to_host(now, address, Fetch(task, table.limit)) if address is not None else None
        self._asked[task] = _Asked(source, before.view if again and before else table.view, key, (*tried, source))

    def is_answer(self, letter: Letter, task: str) -> bool:
        """Whether the letter answers our Fetch; its view may be older than the newest table."""
        asked = self._asked.get(task)
        return asked is not None and letter.node == asked.source and letter.view >= asked.view

    def tried(self, task: str) -> Container[str]:
        """Nodes asked so far for the task's Save."""
        return self._asked[task].tried

    def end(self, task: str) -> bool:
        """The Save is here, or does not exist. False if the task has no open Fetch."""
        return self._asked.pop(task, None) is not None

    def done(self, peer: Peer) -> None:
        """This instance of the task begins with the Saves that are here; later tables do not ask again."""
        self._done.add((peer.task, peer.since))

    def forget_others(self, table: Table) -> None:
        """Drop the Fetches of tasks that are not placed here any more."""
        self._asked = {task: asked for task, asked in self._asked.items() if table.mine(task)}


class _Asked(Struct, frozen=True):
    """A Fetch that is not answered yet."""

    source: str
    view: int
    """View in which this source was asked first."""
    key: Key | None
    tried: tuple[str, ...]
    """Sources asked so far, including this one."""
