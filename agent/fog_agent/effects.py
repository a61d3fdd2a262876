"""What the agent's core wants done: values, performed in order by the daemon or the simulator."""

from __future__ import annotations

from msgspec import Struct

from fog_common.wire.messages import Control, DesiredJob, Presence, Probe


class SaveIncarnation(Struct, frozen=True, tag=True):
    """Durable before the next effect."""

    job: str
    incarnation: int


class StartWorker(Struct, frozen=True, tag=True):
    """Ends, whatever happens, as on_worker_exited(job, incarnation, …)."""

    job: str
    incarnation: int


class AssignWorker(Struct, frozen=True, tag=True):
    job: str
    desired: DesiredJob


class StopWorker(Struct, frozen=True, tag=True):
    """Ask it to end."""

    job: str


class KillWorker(Struct, frozen=True, tag=True):
    """It did not end in time, or takes more memory than allowed."""

    job: str


class Forget(Struct, frozen=True, tag=True):
    """Nobody wants this job any more: its Saves, blobs, log and incarnation may go."""

    job: str


class Speak(Struct, frozen=True, tag=True):
    """A control message to the coordinator."""

    message: Control


class ShowPresence(Struct, frozen=True, tag=True):
    """Publish retained on the node's presence topic."""

    presence: Presence


class ProbeLink(Struct, frozen=True, tag=True):
    """Publish to our own inbox: how long it takes tells the link's rate."""

    probe: Probe


class Say(Struct, frozen=True, tag=True):
    """One fact for the log."""

    text: str
    warning: bool = False


class Exit(Struct, frozen=True, tag=True):
    """All workers are gone; leave in order."""


Effect = SaveIncarnation | StartWorker | AssignWorker | StopWorker | KillWorker | Forget | Speak | ShowPresence | ProbeLink | Say | Exit
