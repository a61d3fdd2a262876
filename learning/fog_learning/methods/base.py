"""What a method tells the system about itself. One file per method; the table of all is fog_learning.methods.METHODS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from fog_common.runtime.machine import Machine, Peer
from fog_learning.job.sections import Job


class Role(Struct, frozen=True):
    """One part of a method."""

    name: str
    machine: type[Machine]
    where: Literal["data", "cloud", "layer"]
    """data: one task on every roster slot's node; cloud: one task on the best cloud node (by default);
    layer: one task per inner node of the job's tree."""
    stateful: bool = False
    """Its Saves are copied to one other node, so that it can be placed again where the node is lost."""
    heritable: bool = False
    """where = data: a node that leaves may hand its task, Save and all, to a peer of its site, if the job lets samples leave their nodes."""


class Method(Struct, frozen=True):
    name: str
    title: str
    source: str
    """Paper, section."""
    plan: type[Struct]
    """Type of the job file's `method` section without `name` (frozen, forbid_unknown_fields)."""
    roles: tuple[Role, ...]
    messages: tuple[type[Struct], ...]
    """All that its tasks say to each other (tagged structs)."""
    root: str
    """Role of the task whose Saves free the spools and whose Finish ends the job."""
    build: Callable[[Job, Struct, Peer], Machine]
    """(job, plan, the task) -> the machine in its initial state, before Started."""
    check: Callable[[Job, Struct], None] = lambda job, plan: None
    """Raises ConfigError for what this method cannot do (pure, torch-free)."""
    lockstep: bool = False
    """True: all tasks must stand at the same label; one that falls back takes the job with it (Rewind)."""

    def role(self, name: str) -> Role:
        return next(role for role in self.roles if role.name == name)
