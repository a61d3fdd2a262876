"""The states of jobs and nodes, as they are shown and as they are kept."""

from __future__ import annotations

from typing import Final

WAITING: Final = "waiting_nodes"
QUEUED: Final = "queued"
PREPARING: Final = "preparing"
RUNNING: Final = "running"
FINISHED: Final = "finished"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
PLACED: Final = (PREPARING, RUNNING)
"""States in which a job has nodes of its own."""
ENDED: Final = (FINISHED, FAILED, CANCELLED)
JOB_STATES: Final = (WAITING, QUEUED, *PLACED, *ENDED)

ONLINE: Final = "online"
OFFLINE: Final = "offline"
UNKNOWN: Final = "unknown"
"""Not heard of since the coordinator's start."""
NODE_STATES: Final = (ONLINE, OFFLINE, UNKNOWN)
