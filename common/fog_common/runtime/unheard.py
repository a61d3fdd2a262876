"""Messages to silent tasks. A node that was declared dead may return with its tasks unchanged, and they then get these messages.

Pure. A new instance of a task needs none of them: `Joined` tells the other tasks to repeat what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fog_common.runtime.machine import Peer, Send


class Unheard:
    """`task in unheard`: the task is silent and may return unchanged."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Peer, list[tuple[str, Send]]]] = {}  # task -> (its entry when it fell silent, (sender, send) in order)

    def __contains__(self, task: object) -> bool:
        return task in self._waiting

    def silent(self, was: Peer, now: Peer | None, sent: Iterable[tuple[str, Send]]) -> None:
        """`was` is no longer live; now: its entry in the new table. sent: unacknowledged messages to it. They are dropped if it was placed anew."""
        if now is not None and not now.live and _same_place(was, now):
            self._waiting[was.task] = (was, [])
            for sender, send in sent:
                self.note(sender, send)

    def note(self, sender: str, send: Send) -> None:
        """Add a message to a silent task. With `latest` it replaces an older one of its kind; the spool looks after messages with `keep`."""
        waiting = self._waiting[send.to][1]
        if send.latest:
            kind = type(send.message)
            waiting[:] = [(name, old) for name, old in waiting if not (name == sender and old.latest and type(old.message) is kind)]
        if send.keep is None and (sender, send) not in waiting:
            waiting.append((sender, send))

    def back(self, peer: Peer) -> list[tuple[str, Send]]:
        """The task is live again: messages for it, in order, if it is the instance that fell silent; [] for a new one."""
        was, waiting = self._waiting.pop(peer.task, (peer, []))
        return waiting if was.incarnation == peer.incarnation else []

    def forget_moved(self, table: Mapping[str, Peer]) -> None:
        """Forget tasks that the table places anew: they cannot return unchanged."""
        for task, (was, _) in list(self._waiting.items()):
            now = table.get(task)
            if now is None or not _same_place(was, now):
                del self._waiting[task]

    def of(self, sender: str) -> list[Send]:
        """Waiting messages that `sender` has sent: their blobs must stay."""
        return [send for _, waiting in self._waiting.values() for name, send in waiting if name == sender]


def _same_place(was: Peer, now: Peer) -> bool:
    return (now.node, now.since) == (was.node, was.since)
