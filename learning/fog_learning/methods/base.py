"""What a method tells the system about itself: one descriptor, read by hosting, placement, simulator, status and metrics.

One folder per method. Nothing outside `methods/NAME/` imports `methods.NAME` or compares with its name: a question about a method is
a field of this descriptor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from fog_common.runtime.machine import Machine, Peer
from fog_learning.job.sections import Job


class Headline(Struct, frozen=True):
    """A number of the rounds that people follow: status, watch, top, plot, the exporter and the demo show it."""

    name: str
    """Its key in the numbers of a RoundRecord, and of the result."""
    title: str
    """For a person: 'accuracy on held-out data'."""
    unit: str = ""
    """'' for a ratio or a plain number; else a base unit: s, J, B."""
    better: Literal["more", "less"] = "more"


class Role(Struct, frozen=True):
    """One part of a method."""

    name: str
    machine: type[Machine]
    bound: Literal["slot", "free", "tree"]
    """slot: one task on every roster slot's node; free: `count` tasks, each where placement puts it; tree: one task per inner node of the
    job's tree."""
    count: int | Callable[[Job, Struct], int] = 1
    """free: number of tasks, known from the job and its plan. Task ids: the role's name, or name-0, name-1 … where there are several."""
    talks_to: tuple[str, ...] = ()
    """Roles to which its tasks send."""
    stateful: bool = False
    """Its Saves are copied to one other node, so that it can be placed again where the node is lost."""
    heritable: bool = False
    """slot: a node that leaves may hand its task, Save and all, to a peer of its site, if the job lets samples leave their nodes."""


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
    """Role of the task whose Saves free the spools and whose Finish ends the job: a free role with one task, or a slot role."""
    build: Callable[[Job, Struct, Peer], Machine]
    """(job, plan, the task) -> the machine in its initial state, before Started."""
    check: Callable[[Job, Struct], None] = lambda job, plan: None
    """Raises ConfigError for what this method cannot do (pure, torch-free)."""
    lockstep: bool = False
    """True: all tasks must stand at the same label; one that falls back takes the job with it (Rewind)."""
    headline: tuple[Headline, ...] = ()
    """What its rounds are judged by, the first first."""

    def role(self, name: str) -> Role:
        return next(role for role in self.roles if role.name == name)
