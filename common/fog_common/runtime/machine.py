"""What a task is: a pure state machine. Events come in, commands go out; nothing else.

    class Server(Machine):                      # the fields are the state; nothing else is
        def step(self, event: Event, now: float) -> list[Command]: ...

A machine sees refs and numbers, never tensors, sockets, clocks, threads or logs. `now` is seconds of job time; it is
stored in `Save` and continued from there. Randomness is a function of (seed, slot, step). The same machines run live
and simulated. Contract of the host (fog_common.runtime.host):

- events of one task come one at a time; commands are performed in the order they are returned;
- the ops of one task run in the order of their `Run` commands, each ends as `Ran` or `Failed` with its tag;
- `Save(label)` is a barrier: the state as it is after this step *and every command behind it in the same list* become
  durable; what is sent after it leaves only then. After a crash the task continues there: `Rewound(label)` is delivered
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

from fog_common.facts import NodeLink

# -- refs ----------------------------------------------------------------------------------


class Blob(Struct, frozen=True, tag="blob", array_like=True):
    """Immutable bytes, named by BLAKE3 (64 hex digits), or by `~...` where the bytes are sent once and only crc-checked."""

    digest: str
    size: int


class Handle(Struct, frozen=True, tag="handle", array_like=True):
    """A value in this process only. The op that consumes it may update it in place. Becomes a Blob when saved or sent."""

    name: str


Ref = Blob | Handle


class Slots(Struct, frozen=True, array_like=True):
    """A set of roster slots (data owners), as a sorted tuple: so that nothing is counted twice."""

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


# -- who takes part ------------------------------------------------------------------------


class Peer(Struct, frozen=True):
    """One task of the job as the placement table knows it."""

    task: str
    role: str
    slot: int
    """Number in the job's roster for tasks that own data; -1 for others."""
    node: str
    site: str
    tier: str
    incarnation: int = 0
    """Of the worker that runs it; 0 = placed, but that worker is not ready yet. Messages of another one are refused."""
    since: int = 0
    """View in which this instance of the task was placed."""
    parent: str = ""
    """Task id of the one that aggregates for this one; '' for the root."""
    layer: int = 0
    """Of an inner node of the tree, from the data up: 1 heads nodes with data. 0: it is none."""
    link: NodeLink = NodeLink()
    """Of its node, as measured when this instance went live."""

    @property
    def live(self) -> bool:
        return self.incarnation > 0


Tag = tuple[str | int, ...]
Numbers = dict[str, float]

# -- events: what happened -----------------------------------------------------------------


class Started(Struct, frozen=True, tag="Started"):
    """The first event of a task's life, once. `roster`: the live tasks of the job now, this one included."""

    roster: tuple[Peer, ...] = ()


class Delivered(Struct, frozen=True, tag="Delivered"):
    """A message whose blobs are all local."""

    sender: str
    """A task, or an ingress peer (Placement.ingress)."""
    message: Any


class Ran(Struct, frozen=True, tag="Ran"):
    tag: Tag
    refs: dict[str, Ref] = {}
    numbers: Numbers = {}


class Failed(Struct, frozen=True, tag="Failed"):
    """An op (its `tag`) failed, with the reason for a person."""

    tag: Tag
    why: str


class Woke(Struct, frozen=True, tag="Woke"):
    """The time of the last `WakeAt` has come."""


class Joined(Struct, frozen=True, tag="Joined"):
    """A task went live, or is live again as a new instance (node or worker changed)."""

    peer: Peer
    view: int = 0


class Left(Struct, frozen=True, tag="Left"):
    """A task instance is gone. in_order: a new one is live already, its `Joined` follows."""

    peer: Peer
    in_order: bool = False
    view: int = 0


class Rewound(Struct, frozen=True, tag="Rewound"):
    """The state is that of `Save(label)`: after a crash, a move, or because the job fell back. `roster` as in Started."""

    label: int
    roster: tuple[Peer, ...] = ()


Event = Started | Delivered | Ran | Failed | Woke | Joined | Left | Rewound

# -- commands: what to do ------------------------------------------------------------------


class Send(Struct, frozen=True, tag="Send"):
    """A message to one task, or to an ingress peer that the table names. keep: see the module text. latest: a newer one of its type to that task makes it obsolete."""

    to: str
    message: Any
    keep: int | None = None
    latest: bool = False
    once: bool = False
    """Refs of this message are sent as one-time bytes: crc only, no hash, never stored (activations, gradients)."""


class Cast(Struct, frozen=True, tag="Cast"):
    """A message to all live tasks of a role but the sender, published once. latest as in Send."""

    role: str
    message: Any
    latest: bool = False


class Run(Struct, frozen=True, tag="Run"):
    """A named tensor computation. into: names for outputs (else the host invents one); may name an input, updated in place."""

    op: str
    refs: dict[str, Ref]
    tag: Tag
    numbers: dict[str, float | int | str] = {}
    into: dict[str, Handle] = {}


class Cancel(Struct, frozen=True, tag="Cancel"):
    """Forget a Run that has not begun; one that runs ends without its event."""

    tag: Tag


class WakeAt(Struct, frozen=True, tag="WakeAt"):
    """Deliver `Woke` at job time `when`; replaces the last one."""

    when: float


class Save(Struct, frozen=True, tag="Save"):
    label: int


class Close(Struct, frozen=True, tag="Close"):
    """Root task only: a round is closed. Rounds come in order; one that comes again, after a fall-back, replaces the older record.

    The coordinator hears of it once the root's Save of that round is safe (ADR 8).
    """

    record: RoundRecord


class Measure(Struct, frozen=True, tag="Measure"):
    """A number for the metrics, by its field's standard name (loss, accuracy, late_updates …)."""

    name: str
    value: float


class Finish(Struct, frozen=True, tag="Finish"):
    """The task's work is done. Of the root task: the job is done. refs: the result (`weights`); why: not '' if it failed."""

    refs: dict[str, Ref] = {}
    numbers: Numbers = {}
    why: str = ""


Command = Send | Cast | Run | Cancel | WakeAt | Save | Close | Measure | Finish

# -- what a person sees --------------------------------------------------------------------


class Waiting(Struct, frozen=True):
    """What a task waits for: printed by `fogctl job status`. Times are job time; until is None when nothing bounds it."""

    what: str
    have: int = 0
    need: int = 0
    who: tuple[str, ...] = ()
    since: float = 0.0
    until: float | None = None


class RoundRecord(Struct, frozen=True):
    """One closed round in the job's history."""

    round: int
    closed_at: float
    updates: int = 0
    examples: int = 0
    numbers: Numbers = {}
    """loss, accuracy, and whatever else the method measures in a round."""


class Machine(Struct, kw_only=True):
    """Base of all machines: a mutable struct whose fields are the whole state."""

    def step(self, event: Event, now: float) -> list[Command]:
        raise TypeError(f"{type(self).__name__} does not define step()")

    def waiting(self, now: float) -> Waiting | None:
        """What this task waits for now, or None. Pure."""
        return None

    def note(self) -> str:
        """What a person may want to know of how this task works, e.g. a choice that it made and why; '' = nothing. Pure."""
        return ""

    def stop(self, why: str, roster: tuple[Peer, ...], now: float) -> list[Command]:
        """Root task only: the job is to end (a budget is used up) with the model of this state, that of its newest Save.

        Commands that lead to a Finish; until then events come as ever, but Woke. By default the state's `weights`, the newest whole
        model; a method that keeps its model in parts, or elsewhere, says itself how to get it. roster: as in Rewound.
        """
        weights: Ref | None = getattr(self, "weights", None)
        if weights is None:
            return [Finish(why=f"{why}; there was no model yet")]
        return [Finish({"weights": weights}, self.figures())]

    def figures(self) -> Numbers:
        """Root task only: the numbers of the newest closed round; {} before the first. Pure."""
        return {}

    def progress(self) -> int:
        """Current round or step. Pure."""
        return 0


# -- walking refs --------------------------------------------------------------------------

T = TypeVar("T")


_ATOMS = frozenset({int, float, str, bytes, bool, type(None), Slots, Peer, NodeLink, RoundRecord, Waiting})
"""Types that hold no refs: most of what a machine's state is made of."""


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
