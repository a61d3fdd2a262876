"""Effects of the agent's core, performed in order by the daemon or the simulator."""

from __future__ import annotations

from msgspec import Struct

from fog_common.wire.messages import Control, DesiredJob, Presence, Probe


class SaveIncarnation(Struct, frozen=True, tag=True):
    """Make a job's incarnation durable before the next effect."""

    job: str
    incarnation: int


class StartWorker(Struct, frozen=True, tag=True):
    """Start a worker; its end, or the failed start, comes as on_worker_exited(job, incarnation, …)."""

    job: str
    incarnation: int


class AssignWorker(Struct, frozen=True, tag=True):
    """Give a worker the job as the coordinator wants it on this node."""

    job: str
    desired: DesiredJob


class StopWorker(Struct, frozen=True, tag=True):
    """Ask a worker to end."""

    job: str


class KillWorker(Struct, frozen=True, tag=True):
    """Kill a worker that did not end in time, or takes more memory than allowed."""

    job: str


class Forget(Struct, frozen=True, tag=True):
    """Remove the Saves, blobs, log and incarnation of a job that the coordinator does not name any more."""

    job: str


class Speak(Struct, frozen=True, tag=True):
    """A control message to the coordinator."""

    message: Control


class ShowPresence(Struct, frozen=True, tag=True):
    """Publish the presence, retained, on the node's topic."""

    presence: Presence


class ProbeLink(Struct, frozen=True, tag=True):
    """Publish a probe to this node's own inbox, to measure the link's rate."""

    probe: Probe


class Say(Struct, frozen=True, tag=True):
    """One fact for the log."""

    text: str
    warning: bool = False


class Exit(Struct, frozen=True, tag=True):
    """End the daemon in order; all workers are gone."""


Effect = SaveIncarnation | StartWorker | AssignWorker | StopWorker | KillWorker | Forget | Speak | ShowPresence | ProbeLink | Say | Exit
