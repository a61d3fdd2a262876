"""Control messages: what daemons, coordinator and fogctl say to each other. msgpack of tagged structs.

Unknown fields are ignored; unknown tags and malformed payloads raise WireError: counted and dropped by the receiver.
What tasks say to each other travels in frames (fog_common.transfer.frames); the tables of both are the contract.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from fog_common.errors import TooLarge, WireError
from fog_common.facts import NodeFacts
from fog_common.runtime.machine import Peer, RoundRecord, Waiting

MAX_CONTROL_BYTES: Final = 1_000_000
"""Of a payload; a longer message travels in parts (fog_common.wire.parts)."""


# -- nodes ---------------------------------------------------------------------------------


class Profile(NodeFacts, frozen=True):
    """The facts of a node as its agent announces them, and what people and the record of refusals read besides."""

    disk_free_bytes: int = 0
    arch: str = ""
    python: str = ""
    version: str = ""
    energy_source: str = ""


class Presence(Struct, frozen=True, tag="Presence"):
    """Retained; also the will (online=False). The nonce names the connection, so that a stale will is ignored."""

    node: str
    nonce: str
    online: bool
    site: str = ""
    """Where it can be asked who it is, should the coordinator not know; '' = unknown."""


class Announce(Struct, frozen=True, tag="Announce"):
    """Agent -> coordinator on every connect and when asked: who I am and which workers I run."""

    node: str
    nonce: str
    profile: Profile


class Planes(Struct, frozen=True):
    """Payload bytes by plane since the process began."""

    up: int = 0
    down: int = 0
    d2d: int = 0
    cast: int = 0
    ctl: int = 0

    @property
    def payload(self) -> int:
        """Bytes of what tasks say to each other: all planes without control."""
        return self.up + self.down + self.d2d + self.cast

    @property
    def total(self) -> int:
        """Bytes of all planes, control included."""
        return self.payload + self.ctl

    def __add__(self, other: Planes) -> Planes:
        return Planes(self.up + other.up, self.down + other.down, self.d2d + other.d2d, self.cast + other.cast, self.ctl + other.ctl)


class TaskState(Struct, frozen=True):
    """One task as its host sees it."""

    task: str
    since: int
    """View in which the instance that reports was placed."""
    labels: tuple[int, ...] = ()
    """Durable Saves here, oldest first."""
    round: int = 0
    waiting: Waiting | None = None
    now: float = 0.0
    """Job time of this state."""
    history: tuple[RoundRecord, ...] = ()
    """Closed rounds newer than the coordinator has confirmed (root only)."""
    finished: bool = False
    why: str = ""
    """Not '' if the task failed."""
    note: str = ""
    """How it works, for a person: Machine.note()."""
    busy: bool = False
    """Something of it is being computed, saved or sent."""


class ReplicaState(Struct, frozen=True):
    """Saves of a task of another node that are kept here."""

    task: str
    labels: tuple[int, ...] = ()


class ClassSet(Struct, frozen=True):
    """Meaning of the labels of a worker's data. Nodes of one job must agree, or one output would stand for two things."""

    outputs: int
    """Of the model, on this node."""
    labels: int
    """Labels are 0 to labels - 1."""
    digest: str = ""
    """Of the names in their order; '' = labels are plain numbers."""
    names: tuple[str, ...] = ()
    """The first few, for a person."""


class BlockReport(Struct, frozen=True):
    """Shapes and costs of a block of a user's own module, per example, as torch measures them."""

    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    """() where no cut behind it is possible."""
    parameters: int
    flops: int
    """Of a forward pass."""


class WorkerState(Struct, frozen=True):
    """One worker process as its daemon sees it. phase: queued, starting, ready (preflight passed), refused (problems), exited."""

    job: str
    incarnation: int
    phase: str
    view: int = 0
    """Placement that the worker has applied."""
    problems: tuple[str, ...] = ()
    tasks: tuple[TaskState, ...] = ()
    replicas: tuple[ReplicaState, ...] = ()
    sent: Planes = Planes()
    received: Planes = Planes()
    ideal_bytes: int = 0
    """Payload of the tensors sent, each counted once per Send or Cast, without headers and repairs."""
    counters: dict[str, float] = {}
    """Measured sums since the worker began: op_seconds, rejected_*, repaired_chunks, cpu_seconds …"""
    gauges: dict[str, float] = {}
    """Last values: rss_bytes, loss, accuracy, spool_bytes, queue …"""
    waited_s: float | None = None
    """For how long it has waited for what `problems` say: since it ended, is queued, cannot save. None: it does not wait."""
    retry_s: float | None = None
    """In how many seconds that is tried again; None: something else must happen first."""
    classes: ClassSet | None = None
    """None: it has no data (or has not looked yet)."""
    blocks: tuple[BlockReport, ...] = ()
    """Of a user's own module, from a worker that owns no data: placement needs them."""
    weights: str = ""
    """Digest of the file that the job begins with (`model.weights`); '' = drawn from the seed, or not looked yet."""
    age_s: float = 0.0
    """Seconds since the worker said all this."""


class Heartbeat(Struct, frozen=True, tag="Heartbeat"):
    """Agent -> coordinator, periodically and at once on a change. desired: number of the last Desired that was applied."""

    node: str
    nonce: str
    desired: int = 0
    workers: tuple[WorkerState, ...] = ()
    draining: bool = False
    uptime_s: float = 0.0
    gauges: dict[str, float] = {}
    counters: dict[str, float] = {}
    energy_j: dict[str, float] = {}
    """Joules since the agent began, by source (measured, fitted, modelled). Absent if unknown."""
    site: str = ""
    """As in Presence."""


class Goodbye(Struct, frozen=True, tag="Goodbye"):
    """Agent -> coordinator on SIGTERM or drain: move my tasks, then I go."""

    node: str
    nonce: str


# -- jobs ----------------------------------------------------------------------------------


class Placement(Struct, frozen=True):
    """The table of a job's tasks under one view. root: task id whose Saves free the spools."""

    job: str
    view: int
    root: str
    tasks: tuple[Peer, ...]
    rewind: int | None = None
    """All tasks go back to this label (see Rewound); with the view in which that was decided."""
    rewind_view: int = 0
    buddies: dict[str, str] = {}
    """task -> node that keeps a copy of its Saves."""
    fetch: dict[str, str] = {}
    """task -> node to ask for the task's newest Save, when the task was moved there."""
    places: dict[str, tuple[str, str]] = {}
    """node -> (site, tier) of nodes named in buddies, fetch and ingress that have no task in the table."""
    stop: str = ""
    """Not '': the root is to end now with the model as it is (Machine.stop); the reason."""
    ingress: dict[str, tuple[str, ...]] = {}
    """Peer that has no task in the table -> roles whose tasks it may ask. A peer is named by its user at the broker; tasks answer to that name."""


class DesiredJob(Struct, frozen=True):
    """The part of a job that one node is to run. spec: the job file as builtins (fog_learning.job.sections decodes it)."""

    job: str
    spec: dict[str, Any]
    placement: Placement
    floor: int = 0
    """The next worker's incarnation is at least this."""
    history_seen: int = 0
    """Rounds of the history that the coordinator has durably."""
    age_s: float = 0.0
    """Job time already used, for a task that starts without a Save."""


class Desired(Struct, frozen=True, tag="Desired"):
    """Coordinator -> agent: all that should run there; what is not named stops. Level-triggered: repeated until confirmed."""

    number: int
    nonce: str
    """Of the coordinator's process; numbers compare only within one."""
    jobs: tuple[DesiredJob, ...] = ()
    release: bool = False
    """The drain is done: the agent may go."""


class Probe(Struct, frozen=True, tag="Probe"):
    """Agent -> itself, over the broker: how long so many bytes take."""

    number: int
    filler: bytes


class Identify(Struct, frozen=True, tag="Identify"):
    """Coordinator -> agent: announce yourself again (I do not know you)."""


# -- people --------------------------------------------------------------------------------


class Request(Struct, frozen=True, tag="Request"):
    """fogctl -> coordinator. verb and arguments: see fog_common.wire.api.verbs; the coordinator checks them."""

    id: str
    verb: str
    arguments: dict[str, Any] = {}


class Reply(Struct, frozen=True, tag="Reply"):
    """Coordinator -> fogctl. Either body or (exit_code, error)."""

    id: str
    body: Any = None
    """At the sender the struct that the question names (Question.body), after decoding its builtins; None with an error."""
    exit_code: int = 0
    error: str = ""


# -- what no broker takes whole ----------------------------------------------------------------


class MessagePart(Struct, frozen=True, tag="Part"):
    """A piece of the encoding of a longer message; all pieces travel on the topic of the message, in order."""

    id: str
    """Of the message; unique per sender."""
    index: int
    """0 to count - 1."""
    count: int
    """Parts of the message, at least 2."""
    data: bytes


Control = Presence | Announce | Heartbeat | Goodbye | Desired | Identify | Probe | Request | Reply | MessagePart

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
M = TypeVar("M")


def encode(message: Control) -> bytes:
    return _encoder.encode(message)


def decode(payload: bytes | bytearray | memoryview, limit_bytes: int = MAX_CONTROL_BYTES) -> Control:
    """The message in `payload`; WireError (malformed, unknown_tag) or TooLarge for anything else."""
    if len(payload) > limit_bytes:
        raise TooLarge(len(payload), limit_bytes, "control message")
    try:
        return _decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise WireError(
            f"control message: {error}", "unknown_tag" if "tag" in str(error).lower() or "Invalid value" in str(error) else "malformed"
        ) from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"control message: {error}") from None
