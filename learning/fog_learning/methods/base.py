"""The descriptor of a method, read by hosting, placement, simulator, status and metrics.

One folder per method. Nothing outside `methods/NAME/` imports `methods.NAME` or compares with its name: a question about a method is
a field of this descriptor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, Literal

from msgspec import Struct

from fog_common.runtime.machine import Machine, Peer, RoundRecord
from fog_learning.costs.demands import Demands
from fog_learning.costs.traffic import Count
from fog_learning.job.sections import JobFile
from fog_learning.models import ModelSpec
from fog_learning.ops.row import Op

AUTO: Final = "auto"
"""Value of a key of the `method` section that placement chooses."""

Section = Literal["data", "train", "stragglers", "evaluation", "topology"]
"""A section of the job file that only some methods read."""


class Headline(Struct, frozen=True):
    """A number of the rounds that people follow in status, watch, top, plot, the exporter and the demo."""

    name: str
    """Key in the numbers of a RoundRecord and of the result."""
    title: str
    """Title for a person, e.g. 'accuracy on held-out data'."""
    unit: str = ""
    """Base unit (s, J, B); '' for a ratio or a plain number."""
    better: Literal["more", "less"] = "more"
    most: float | None = None
    """The largest value that is possible; None: no limit."""
    metric: str = ""
    """A gauge of `fog_common.telemetry.metrics`, by job, that has the number too; '' = `fog_job_headline` alone has it."""


ACCURACY: Final = Headline("accuracy", "accuracy on held-out data", most=1.0, metric="fog_job_accuracy")
LOSS: Final = Headline("loss", "training loss", better="less", metric="fog_job_loss")


class Role(Struct, frozen=True):
    """One part of a method."""

    name: str
    machine: type[Machine]
    bound: Literal["slot", "free", "tree"]
    """slot: one task on every roster slot's node; free: `count` tasks, each where placement puts it; tree: one task per inner node of the
    job's tree."""
    count: int | Callable[[JobFile, Struct], int] = 1
    """free: number of tasks, from the job and its plan. A single task has the role's name as id, several have name-0, name-1 …"""
    talks_to: tuple[str, ...] = ()
    """Roles to which the role's tasks send."""
    stateful: bool = False
    """Saves of its tasks are copied to one other node, so that a task whose node is lost goes on elsewhere."""
    heritable: bool = False
    """slot: a node that leaves may hand its task with its Save to a peer of its site, if the job lets samples leave their nodes."""


class Segments(Struct, frozen=True):
    """The model is cut into segments, each computed by the tasks of one role."""

    key: str
    """Key of the `method` section that names the cut; `auto`: placement chooses."""
    cut: Callable[[Struct, tuple[str, ...]], tuple[int, ...]]
    """(plan, names of the model's blocks) -> the first block of each segment after the first. ConfigError for an impossible cut."""

    def is_open(self, job: JobFile) -> bool:
        """Whether the job leaves the cut to placement."""
        return job.method.get(self.key) == AUTO

    def flops(self, plan: Struct, spec: ModelSpec) -> tuple[float, ...]:
        """FLOPs of one example's forward pass through each segment; () for a model without a block spec."""
        if not spec.blocks:
            return ()
        bounds = (0, *self.cut(plan, spec.block_names), len(spec.blocks))
        each = [block.flops for block in spec.facts()]
        return tuple(float(sum(each[first:end])) for first, end in pairwise(bounds))


class ModelFacts(Struct, frozen=True):
    """Facts of a job's model that a node learns by building it."""

    name: str
    weighted: tuple[str, ...]
    """Blocks that have weights, in the model's order."""
    blocks: tuple[str, ...] = ()
    """All blocks in the order of the forward pass; () unless the method cuts the model."""

    def misnamed(self, key: str, names: Sequence[str]) -> list[str]:
        """A sentence if a key of the `method` section names blocks that the model does not have."""
        unknown = sorted(set(names) - set(self.weighted))
        return [f"method.{key} names {', '.join(unknown)}; model {self.name} has {', '.join(self.weighted)}"] if unknown else []


def no_check(job: JobFile, plan: Struct) -> None:
    return None


def no_problems(model: ModelFacts, plan: Struct) -> list[str]:
    return []


def train_rounds(job: JobFile, plan: Struct) -> int:
    return job.train.rounds


class Method(Struct, frozen=True):
    """A learning method: roles, messages, ops, and the answers to every question about it."""

    name: str
    title: str
    source: str
    """Paper and section."""
    plan: type[Struct]
    """Type of the job file's `method` section without `name` (frozen, forbid_unknown_fields)."""
    roles: tuple[Role, ...]
    messages: tuple[type[Struct], ...]
    """Types of all messages between its tasks (tagged structs)."""
    ops: tuple[Op, ...]
    """Rows of all ops that its machines run."""
    root: str
    """Role of the task whose Saves free the spools and whose Finish ends the job: a free role with one task, or a slot role."""
    build: Callable[[JobFile, Struct, Peer], Machine]
    """(job, plan, the task) -> the machine in its initial state, before Started."""
    sections: tuple[Section, ...] = ()
    """Sections of the job file that its machines or ops read; the reader refuses the others."""
    headline: tuple[Headline, ...] = ()
    """Numbers by which its rounds are judged, the most important first."""
    check: Callable[[JobFile, Struct], None] = no_check
    """Raises ConfigError for a job that this method cannot run. Pure, torch-free."""
    preflight: Callable[[ModelFacts, Struct], list[str]] = no_problems
    """(model, plan) -> sentences for a person about a model that this method cannot train. ConfigError counts as one. Pure."""
    demands: Callable[[JobFile, Struct, ModelSpec, int, int], tuple[Demands, ...]] | None = None
    """(job, plan, model, data tasks, test examples) -> ways to run the job, of which placement chooses. None: tasks are placed by tier alone."""
    traffic: Callable[[JobFile, Struct, ModelSpec, Sequence[RoundRecord], int | None], Count | None] | None = None
    """(job, plan, model, closed rounds, bytes of a stored value or None) -> bytes of these rounds by formula; None if a fact is missing."""
    segments: Segments | None = None
    """None: every task computes the whole model."""
    rounds: Callable[[JobFile, Struct], int] = train_rounds
    """(job, plan) -> number of rounds of the job."""
    lockstep: bool = False
    """All tasks must stand at the same label: a task that falls back takes the whole job back (rewind)."""

    def role(self, name: str) -> Role:
        return next(role for role in self.roles if role.name == name)

    def op(self, name: str) -> Op:
        """KeyError for an op that the method does not name."""
        for row in self.ops:
            if row.name == name:
                return row
        raise KeyError(f"method {self.name} names no op {name!r}")
