"""How long the coordinator waits, and the words that workers and views share. Seconds everywhere."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

READY: Final = "ready"
REFUSED: Final = "refused"
NOTHING: Final = -1
"""Rewind to before the first Save: all tasks start anew."""


class Rules(Struct, frozen=True):
    """How long the coordinator waits for what. All in seconds."""

    heartbeat_s: float = 5.0
    """How often agents say how they are."""
    grace_s: float = 5.0
    """A node is offline after three heartbeats and this long without a word."""
    coalesce_s: float = 0.15
    """Changes within this time share one view."""
    resend_s: float = 1.0
    """The same Desired goes to a node at most this often."""
    sweep_s: float = 1.0
    """Silence and overdue moves are looked for this often."""
    move_after_s: float = 5.0
    """A task that can move does so when its node is gone for this long."""
    orphan_after_s: float = 60.0
    """... and this long, if there is no copy of its state, and none was ever made."""
    return_s: float = 10.0
    """A task with data counts as live until its node, or its worker, has been gone for this long: then rounds go on without it."""
    finish_s: float = 15.0
    """A task with data on a node that drains may finish its round, if that takes no longer (an agent waits drain_s, 20 s, after SIGTERM)."""
    close_s: float = 2.0
    """A finished job waits at most this long for the last figures of its workers."""
    jobs_per_node: int = 1
    """Workers that a node is given at a time; further jobs wait in the queue."""
    keep_jobs: int = 200
    """Ended jobs that are remembered."""

    @property
    def silent_s(self) -> float:
        return 3 * self.heartbeat_s + self.grace_s
