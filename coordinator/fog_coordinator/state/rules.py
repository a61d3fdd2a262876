"""Waiting times of the coordinator in seconds, and phases of workers."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

READY: Final = "ready"
REFUSED: Final = "refused"
NOTHING: Final = -1
"""Label of a rewind to before the first Save: all tasks begin anew."""


class Rules(Struct, frozen=True):
    """Waiting times and limits of the coordinator. Times are seconds."""

    heartbeat_s: float = 5.0
    """Time between two heartbeats of an agent."""
    grace_s: float = 5.0
    """A node is offline after three heartbeats plus this time of silence."""
    coalesce_s: float = 0.15
    """Changes within this time share one view."""
    resend_s: float = 1.0
    """Shortest time between two identical Desired messages to a node."""
    sweep_s: float = 1.0
    """Time between two sweeps for silence and overdue moves."""
    move_after_s: float = 5.0
    """Absence of its node after which a movable task moves."""
    orphan_after_s: float = 60.0
    """Absence of its node after which a task begins anew elsewhere, if no copy of its state was ever made."""
    return_s: float = 10.0
    """Absence of its node or worker up to which a task with data counts as live; then rounds go on without it."""
    finish_s: float = 15.0
    """Longest time for a task with data on a draining node to finish its round (an agent waits drain_s, 20 s, after SIGTERM)."""
    close_s: float = 2.0
    """Longest wait of a finished job for the last figures of its workers."""
    jobs_per_node: int = 1
    """Workers of a node at a time; further jobs wait in the queue."""
    keep_jobs: int = 200
    """Number of ended jobs that are remembered."""

    @property
    def silent_s(self) -> float:
        """Silence after which a node is offline."""
        return 3 * self.heartbeat_s + self.grace_s
