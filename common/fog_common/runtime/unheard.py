"""What tasks that fell silent did not hear: a node that was thought to be gone may be back as it was, and then nothing may be missing.

Pure. A new instance of a task begins anew: it needs none of this, and `Joined` tells the others to repeat what they must.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fog_common.runtime.machine import Peer, Send


class Unheard:
    """task in self: it is silent, and may be back."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Peer, list[tuple[str, Send]]]] = {}  # task -> (as it was, (sender, send) in order)

    def __contains__(self, task: object) -> bool:
        return task in self._waiting

    def silent(self, was: Peer, now: Peer | None, sent: Iterable[tuple[str, Send]]) -> None:
        """`was` is live no more; now: its entry in the new table. sent: what was sent to it and not acknowledged. Placed elsewhere: nothing waits."""
        if now is not None and not now.live and _same_place(was, now):
            self._waiting[was.task] = (was, [])
            for sender, send in sent:
                self.note(sender, send)

    def note(self, sender: str, send: Send) -> None:
        """To a silent task. A newer message with `latest` takes the place of an older one; kept ones have their own way."""
        waiting = self._waiting[send.to][1]
        if send.latest:
            kind = type(send.message)
            waiting[:] = [(name, old) for name, old in waiting if not (name == sender and old.latest and type(old.message) is kind)]
        if send.keep is None and (sender, send) not in waiting:
            waiting.append((sender, send))

    def back(self, peer: Peer) -> list[tuple[str, Send]]:
        """The task is live: what it did not hear, if it is the instance that fell silent."""
        was, waiting = self._waiting.pop(peer.task, (peer, []))
        return waiting if was.incarnation == peer.incarnation else []

    def forget_moved(self, table: Mapping[str, Peer]) -> None:
        """Those that are placed elsewhere now will not be back as they were."""
        for task, (was, _) in list(self._waiting.items()):
            now = table.get(task)
            if now is None or not _same_place(was, now):
                del self._waiting[task]

    def of(self, sender: str) -> list[Send]:
        """What this task has sent that still waits: its blobs must stay."""
        return [send for _, waiting in self._waiting.values() for name, send in waiting if name == sender]


def _same_place(was: Peer, now: Peer) -> bool:
    return (now.node, now.since) == (was.node, was.since)
