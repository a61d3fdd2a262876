"""A task is a pure state machine: events come in, commands go out.

    class Server(Machine):                      # the fields are the whole state
        def step(self, event: Event, now: float) -> list[Command]: ...

A machine sees refs and numbers, never tensors, sockets, clocks, threads or logs. `now` is seconds of job time, which is
stored in `Save` and continues from there. Randomness is a function of (seed, slot, step). The same machines run live
and simulated. Contract of the host (fog_common.runtime.host):

- events of one task come one at a time; commands are performed in the order they are returned;
- the ops of one task run in the order of their `Run` commands, each ends as `Ran` or `Failed` with its tag;
- `Save(label)` is a barrier: the state after this step *and every command behind the Save in the same list* become
  durable; messages sent after it leave only then. After a crash the task continues there: `Rewound(label)` is delivered
  after the commands behind the Save were performed again. Nothing else is replayed;
- a sent message reaches a live receiver at least once, in any order; receivers deduplicate by (task, round or step);
- `Send(keep=label)` stays in the sender's spool, over crashes, and is sent again to every new placement of its receiver,
  until the *root* task's Save(label) or a later one is announced;
- refs live while they are reachable from the state, the last two Saves, kept and unacknowledged sends, waiting Runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

# -- refs ----------------------------------------------------------------------------------


class Blob(Struct, frozen=True, tag="blob", array_like=True):
    """Immutable bytes. digest: BLAKE3 in 64 hex digits, or `~...` for bytes that are sent once and only crc-checked."""

    digest: str
    size: int
    """Bytes."""


class Handle(Struct, frozen=True, tag="handle", array_like=True):
    """A value in this process only. An op that consumes it may update it in place; a Save or Send turns it into a Blob."""

    name: str


Ref = Blob | Handle


class Slots(Struct, frozen=True, array_like=True):
    """A set of roster slots (data owners) as a sorted tuple. Updates carry it so that no data is counted twice."""

    members: tuple[int, ...] = ()

    @classmethod
    def of(cls, *slots: int) -> Slots:
        return cls(tuple(sorted(set(slots))))

    def __or__(self, other: Slots) -> Slots:
        return Slots(tuple(sorted({*self.members, *other.members})))

    def __and__(self, other: Slots) -> Slots:
        mine = set(self.members)
        return Slots(tuple(slot for slot in other.members if slot in mine))

    def __bool__(self) -> bool:
        return bool(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[int]:
        return iter(self.members)

    def __contains__(self, slot: object) -> bool:
        return slot in self.members


# -- the tasks of a job --------------------------------------------------------------------


class Peer(Struct, frozen=True):
    """One task of the job as the placement table knows it."""

    task: str
    role: str
    slot: int
    """Number in the job's roster for a task that owns data; -1 for others."""
    node: str
    site: str
    tier: str
    incarnation: int = 0
    """Incarnation of the worker that runs the task; 0 = placed, but the worker is not ready. Messages of another one are refused."""
    since: int = 0
    """View in which this instance of the task was placed."""
    parent: str = ""
    """Task id of the aggregator above this task; '' for the root."""
    layer: int = 0
    """Layer of an inner task of the tree, counted from the data: 1 aggregates tasks with data; 0 for all other tasks."""
    bytes_s: float = 0.0
    """Bytes per second of the node's link to the broker, each way, measured when this instance went live; 0 = unknown."""
    rtt_s: float = 0.0
    """Round trip to the broker in seconds, measured at the same time; 0 = unknown."""
    byte_j: float = 0.0
    """Energy per byte at the node's interface in joules, from its energy model; 0 = unknown."""

    @property
    def live(self) -> bool:
        return self.incarnation > 0


Tag = tuple[str | int, ...]
Numbers = dict[str, float]

# -- events --------------------------------------------------------------------------------


class Started(Struct, frozen=True, tag="Started"):
    """The first event of a new task. roster: all live tasks of the job, including this one."""

    roster: tuple[Peer, ...] = ()


class Delivered(Struct, frozen=True, tag="Delivered"):
    """A message whose blobs are all local."""

    sender: str
    message: Any


class Ran(Struct, frozen=True, tag="Ran"):
    """An op ended: the `tag` of its Run, its outputs by name, its measured numbers."""

    tag: Tag
    refs: dict[str, Ref] = {}
    numbers: Numbers = {}


class Failed(Struct, frozen=True, tag="Failed"):
    """An op failed. tag: that of its Run; why: the reason, for a person."""

    tag: Tag
    why: str


class Woke(Struct, frozen=True, tag="Woke"):
    """The time of the last `WakeAt` has come."""


class Joined(Struct, frozen=True, tag="Joined"):
    """A task went live, or is live again as a new instance (on another node or worker). view: that of the new table."""

    peer: Peer
    view: int = 0


class Left(Struct, frozen=True, tag="Left"):
    """A task instance is gone. in_order: a new instance is live already and its `Joined` follows. view: that of the new table."""

    peer: Peer
    in_order: bool = False
    view: int = 0


class Rewound(Struct, frozen=True, tag="Rewound"):
    """The state is that of `Save(label)`, after a crash, a move or a rewind of the job. roster: as in Started."""

    label: int
    roster: tuple[Peer, ...] = ()


Event = Started | Delivered | Ran | Failed | Woke | Joined | Left | Rewound

# -- commands ------------------------------------------------------------------------------


class Send(Struct, frozen=True, tag="Send"):
    """A message to one task. keep: see the module text. latest: a newer message of its type to that task makes it obsolete."""

    to: str
    message: Any
    keep: int | None = None
    latest: bool = False
    once: bool = False
    """Send the message's refs as one-time bytes: crc only, no hash, never stored (activations, gradients)."""


class Cast(Struct, frozen=True, tag="Cast"):
    """A message to all live tasks of a role but the sender, published once. latest: as in Send."""

    role: str
    message: Any
    latest: bool = False


class Run(Struct, frozen=True, tag="Run"):
    """A named tensor computation. into: handles for outputs, otherwise new ones; an input's handle is updated in place."""

    op: str
    refs: dict[str, Ref]
    tag: Tag
    numbers: dict[str, float | int | str] = {}
    into: dict[str, Handle] = {}


class Cancel(Struct, frozen=True, tag="Cancel"):
    """Forget a Run that has not begun; the event of one that has begun is not delivered."""

    tag: Tag


class WakeAt(Struct, frozen=True, tag="WakeAt"):
    """Deliver `Woke` at job time `when`, in seconds; replaces the last WakeAt."""

    when: float


class Save(Struct, frozen=True, tag="Save"):
    """Make the state durable; see the module text. label: the round or step that all tasks of the job agree on."""

    label: int


class Close(Struct, frozen=True, tag="Close"):
    """Root task only: a round is closed. Rounds close in order; a round closed again after a rewind replaces the older record.

    The host reports the round to the coordinator once the root's Save of it is safe (ADR 8).
    """

    record: RoundRecord


class Measure(Struct, frozen=True, tag="Measure"):
    """A number for the metrics, by its field's standard name (loss, accuracy, late_updates …)."""

    name: str
    value: float


class Finish(Struct, frozen=True, tag="Finish"):
    """The task's work is done; from the root task: the job is done. refs: the result (`weights`); why: the reason of a failure, or ''."""

    refs: dict[str, Ref] = {}
    numbers: Numbers = {}
    why: str = ""


Command = Send | Cast | Run | Cancel | WakeAt | Save | Close | Measure | Finish

# -- for a person --------------------------------------------------------------------------


class Waiting(Struct, frozen=True):
    """Reason for which a task waits, printed by `fogctl job status`. since, until: seconds of job time; until is None without a deadline."""

    what: str
    have: int = 0
    need: int = 0
    who: tuple[str, ...] = ()
    since: float = 0.0
    until: float | None = None


class RoundRecord(Struct, frozen=True):
    """One closed round in the job's history. closed_at: seconds of job time."""

    round: int
    closed_at: float
    updates: int = 0
    examples: int = 0
    numbers: Numbers = {}
    """Measurements of the round: loss, accuracy and others of the method."""


class Machine(Struct, kw_only=True):
    """Base of all machines: a mutable struct whose fields are the whole state."""

    def step(self, event: Event, now: float) -> list[Command]:
        """Take an event and return commands. now: seconds of job time."""
        raise TypeError(f"{type(self).__name__} does not define step()")

    def waiting(self, now: float) -> Waiting | None:
        """The reason for which this task waits now, or None. Pure."""
        return None

    def note(self) -> str:
        """A remark for a person, e.g. a choice that the task made and its reason; '' = none. Pure."""
        return ""

    def stop(self, why: str, roster: tuple[Peer, ...], now: float) -> list[Command]:
        """Root task only: commands that lead to a Finish, because the job must end (a budget is used up) with the model of this state.

        The state is that of its newest Save; until the Finish all events but Woke still come. By default the result is the state's
        `weights`, the newest whole model; a method that keeps its model in parts, or elsewhere, overrides this. roster: as in Rewound.
        """
        weights: Ref | None = getattr(self, "weights", None)
        if weights is None:
            return [Finish(why=f"{why}; there was no model yet")]
        return [Finish({"weights": weights}, self.figures())]

    def figures(self) -> Numbers:
        """Root task only: numbers of the newest closed round; {} before the first. Pure."""
        return {}

    def progress(self) -> int:
        """Current round or step. Pure."""
        return 0


# -- walking refs --------------------------------------------------------------------------

T = TypeVar("T")


_ATOMS = frozenset({int, float, str, bytes, bool, type(None), Slots, Peer, RoundRecord, Waiting})
"""Types that hold no refs: most parts of a machine's state."""


def refs_in(value: Any) -> Iterator[Ref]:
    """Every Blob and Handle reachable from a struct, mapping or sequence."""
    open_ = [value]
    while open_:
        part = open_.pop()
        kind = type(part)
        if kind in _ATOMS:
            continue
        if kind is Blob or kind is Handle:
            yield part
        elif kind is list or kind is tuple:
            open_.extend(item for item in part if type(item) not in _ATOMS)
        elif kind is dict:
            open_.extend(item for item in part.values() if type(item) not in _ATOMS)
        elif isinstance(part, Struct):
            open_.extend(getattr(part, name) for name in part.__struct_fields__)


def map_refs(value: T, change: Callable[[Ref], Ref]) -> T:
    """A copy of `value` with every ref replaced by change(ref). Parts without refs are shared, not copied."""
    result: Any = value
    if type(value) in _ATOMS:
        return value
    if isinstance(value, Blob | Handle):
        result = change(value)
    elif isinstance(value, Struct):
        changed = {}
        for name in value.__struct_fields__:
            old = getattr(value, name)
            new = map_refs(old, change)
            if new is not old:
                changed[name] = new
        result = msgspec.structs.replace(value, **changed) if changed else value
    elif isinstance(value, dict):
        items = {key: map_refs(item, change) for key, item in value.items()}
        result = items if any(items[key] is not value[key] for key in items) else value
    elif isinstance(value, list | tuple):
        parts = [map_refs(item, change) for item in value]
        result = type(value)(parts) if any(new is not old for new, old in zip(parts, value, strict=True)) else value
    return result  # type: ignore[no-any-return]
