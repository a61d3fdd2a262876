"""A job as the coordinator knows it, and its row in the journal. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from fog_common.runtime.machine import Peer
from fog_common.wire.api.states import PLACED, WAITING
from fog_common.wire.messages import BlockReport, ClassSet, Placement, Planes, WorkerState
from fog_coordinator.placement.planner import Plan
from fog_coordinator.placement.steady import Steady
from fog_coordinator.state.effects import Row


class Seat(Struct):
    """One task and its place: a row of the placement table, and the state of its moves."""

    task: str
    role: str
    slot: int
    node: str
    site: str
    tier: str
    stateful: bool = False
    parent: str = ""
    home: tuple[str, str] = ("", "")
    """(site, tier) to which the head of a cluster belongs; ('', '') for other tasks."""
    layer: int = 0
    """Layer of the head of a cluster; 1 is the lowest, 0 for other tasks."""
    index: int = 0
    """Number of a free task in its role."""
    heir: bool = False
    """A peer of its site takes this task with data over if its node leaves, or is gone for good."""
    incarnation: int = 0
    """Incarnation of the worker that runs the task; 0 = not live."""
    since: int = 0
    """View in which the last instance went live."""
    last: tuple[str, int] = ("", 0)
    """(node, incarnation) of the last live instance; if the same one comes back, the instance is not new."""
    wanted: str = ""
    """A better node, to which the task moves in order; '' for none."""
    successor: str = ""
    """The node that is prepared to take the task in an orderly move; '' for none."""
    fetch: str = ""
    """The node with the task's newest Save, after the task was moved away from its Saves."""
    fetched: bool = False
    """The task runs at its new place, so that the next view drops `fetch`."""
    away_since: float | None = None
    """Time since which its node is gone."""
    link: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """(B/s, round trip in s, J/B) of its node when this instance went live; 0 = unknown. Later figures would raise the view each time."""
    live_at: float = 0.0
    """Time at which its last instance went live."""
    gone_since: float | None = None
    """Time since which no worker is known to run a live task with data. It stays live for a while, because its update may still come."""
    leaves_in: int | None = None
    """Round of a live task with data when its node began to drain."""

    @property
    def movable(self) -> bool:
        """Whether the task has no data that binds it to its node."""
        return self.slot < 0

    @property
    def bound(self) -> Literal["slot", "free", "tree"]:
        """Binding of the task's role (see fog_learning.methods.base.Role)."""
        return "slot" if self.slot >= 0 else "tree" if self.home[0] else "free"

    @property
    def ran(self) -> bool:
        return self.last[1] > 0

    def peer(self) -> Peer:
        return Peer(
            task=self.task,
            role=self.role,
            slot=self.slot,
            node=self.node,
            site=self.site,
            tier=self.tier,
            incarnation=self.incarnation,
            since=self.since,
            parent=self.parent,
            layer=self.layer,
            bytes_s=self.link[0],
            rtt_s=self.link[1],
            byte_j=self.link[2],
        )


class Refuser(Struct, frozen=True):
    """A node whose worker refused the job, and the facts of the node that must change before it is asked again."""

    incarnation: int
    """Incarnation of that worker."""
    nonce: str
    """Nonce of the agent's connection then."""
    profile: str
    """The parts of the node's profile that only a repair changes, as JSON."""
    text: str
    """The worker's reason."""


class SentMeter(Struct):
    """Bytes that one worker has sent. ideal: payload of its tensors, each counted once."""

    sent: Planes = Planes()
    ideal: int = 0


class Reading(Struct, frozen=True):
    """Counters of a node and its worker of a job at a heartbeat, with which the next heartbeat is compared."""

    process: str
    """Nonce of the node's agent."""
    joules: dict[str, float]
    """Joules by source."""
    uses: dict[str, float]
    """Joules by `joules/SOURCE/USE`."""
    incarnation: int
    """Incarnation of the worker."""
    work: tuple[float, float, float]
    """(CPU seconds, bytes sent, bytes received) of the worker."""
    roles: dict[str, float]
    """Seconds of computing by role."""


class Job(Struct):
    """A job without its history and its log, which have tables of their own."""

    id: str
    name: str
    user: str
    token: str
    spec: dict[str, Any]
    method: str
    root_role: str
    lockstep: bool
    rounds: int
    submitted_at: float
    order: int
    """Number in the order of submission."""
    state: str = WAITING
    since: float = 0.0
    """Time at which the job entered its state."""
    started_at: float | None = None
    ended_at: float | None = None
    why: str = ""
    problems: list[str] = []
    refused: bool = False
    """The preflight found that the nodes cannot run the job."""
    roster: list[str] = []
    """Node of each slot."""
    watching: list[str] = []
    """Nodes that joined late and found no free slot."""
    blocks: tuple[BlockReport, ...] = ()
    """Blocks of a user's own module, as a worker reported them."""
    classes: ClassSet | None = None
    """Meaning of the labels on the nodes with which the job began."""
    weights: str = ""
    """Digest of the file with the first weights on these nodes."""
    refusers: dict[str, Refuser] = {}
    """node -> refusal of its worker, after training has begun."""
    needs: dict[str, int] = {}
    """role -> bytes of memory by which placement chose nodes; unknown for a role that is missing here."""
    seats: list[Seat] = []
    view: int = 0
    rewind: int | None = None
    rewind_view: int = 0
    buddies: dict[str, str] = {}
    top: int = 0
    """Highest incarnation of any of its workers."""
    meters: dict[str, SentMeter] = {}
    """`node/incarnation` -> bytes that this worker sent."""
    energy_j: dict[str, float] = {}
    """Joules by source."""
    energy_by: dict[str, float] = {}
    """Joules by `role/source/use`."""
    node_joules: dict[str, float] = {}
    """Joules by node."""
    readings: dict[str, Reading] = {}
    """node -> its last reading whose joules are in these sums."""
    warned: list[str] = []
    """Budgets about which the job has warned."""
    stop: str = ""
    """Text about the budget that is used up, while the root is asked for its present model; '' otherwise."""
    saves: dict[str, dict[str, tuple[int, ...]]] = {}
    """task -> node -> labels of its Saves there, as last reported."""
    numbers: dict[str, float] = {}
    """Numbers of the result."""
    digest: str = ""
    """Digest of the result's weights."""
    plan: Plan | None = None
    """Places of the tasks and predicted cost of a step; None if unknown."""
    runner_up: Plan | None = None
    settled: dict[str, Any] = {}
    """Keys of the `method` section that placement has fixed."""
    replanned: bool = False
    """The plan was checked again after the workers measured their nodes."""
    stale: dict[str, int] = {}
    """node -> incarnation of a worker that was started for another cut, and does not count as ready."""
    steady: Steady = field(default_factory=Steady)

    @property
    def told_spec(self) -> dict[str, Any]:
        """The job file for workers, with the keys that placement has fixed."""
        return {**self.spec, "method": {**self.spec["method"], **self.settled}} if self.settled else self.spec

    @property
    def root(self) -> str:
        return next((seat.task for seat in self.seats if seat.role == self.root_role), "")

    def seat(self, task: str) -> Seat | None:
        return next((seat for seat in self.seats if seat.task == task), None)

    def placement(self, places: dict[str, tuple[str, str]]) -> Placement:
        """The present table. places: node -> (site, tier)."""
        with_task = {seat.node for seat in self.seats}
        fetch = {seat.task: seat.fetch for seat in self.seats if seat.fetch}
        others = sorted({*fetch.values(), *self.buddies.values()} - with_task)
        return Placement(
            job=self.id,
            view=self.view,
            root=self.root,
            tasks=tuple(seat.peer() for seat in self.seats),
            rewind=self.rewind,
            rewind_view=self.rewind_view,
            buddies=dict(self.buddies),
            fetch=fetch,
            places={node: places[node] for node in others if node in places},
            stop=self.stop,
        )

    def participants(self) -> set[str]:
        """Nodes with a task of this job, or with a Save that a task fetches, or prepared as a successor."""
        if self.state not in PLACED:
            return set()
        return {node for seat in self.seats for node in (seat.node, seat.successor, "" if seat.fetched else seat.fetch) if node}

    def meter(self, node: str, worker: WorkerState) -> None:
        """Take over the bytes that a worker has sent; sums of one process never fall."""
        meter = self.meters.setdefault(f"{node}/{worker.incarnation}", SentMeter())
        old, new = meter.sent, worker.sent
        if new.total >= old.total:
            meter.sent = new
        meter.ideal = max(meter.ideal, worker.ideal_bytes)

    def sent(self) -> Planes:
        total = Planes()
        for meter in self.meters.values():
            total = total + meter.sent
        return total

    def sent_by_node(self) -> dict[str, float]:
        """node -> payload bytes on all planes."""
        sent: dict[str, float] = {}
        for name, meter in self.meters.items():
            node = name.rpartition("/")[0]
            sent[node] = sent.get(node, 0.0) + meter.sent.payload
        return sent

    def ideal_bytes(self) -> int:
        return sum(meter.ideal for meter in self.meters.values())

    def age_s(self, now: float) -> float:
        """Job time at `now`: seconds since the first training step could begin."""
        return 0.0 if self.started_at is None else max(0.0, now - self.started_at)

    def row(self) -> Row:
        return Row("jobs", (self.id,), _encoder.encode(self))


_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(Job)


def decode_job(body: bytes) -> Job:
    return _job_decoder.decode(body)
