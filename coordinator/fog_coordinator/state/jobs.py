"""A job as the coordinator knows it: what the journal keeps, and what can be heard again. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from fog_common.facts import NodeLink
from fog_common.runtime.machine import Peer
from fog_common.wire.api.states import PLACED, WAITING
from fog_common.wire.messages import BlockReport, ClassSet, Placement, Planes, WorkerState
from fog_coordinator.placement.planner import Plan
from fog_coordinator.placement.steady import Steady
from fog_coordinator.state.effects import Row


class Seat(Struct):
    """One task and where it is: a row of the placement table and what led to it."""

    task: str
    role: str
    slot: int
    node: str
    site: str
    tier: str
    stateful: bool = False
    parent: str = ""
    home: tuple[str, str] = ("", "")
    """(site, tier) where the head of a cluster belongs; ('', '') for other tasks."""
    layer: int = 0
    """Of the head of a cluster: 1 is the lowest."""
    index: int = 0
    """Of a free task: its number in its role."""
    heir: bool = False
    """A task with data that a peer of its site takes over when its node leaves, or is gone for good."""
    incarnation: int = 0
    since: int = 0
    last: tuple[str, int] = ("", 0)
    """(node, incarnation) of the last live instance: the same one that comes back is no new one."""
    wanted: str = ""
    """A better node for it, that it is to move to in order."""
    successor: str = ""
    """Drain: the node that is being prepared to take the task."""
    fetch: str = ""
    """The node that has the task's newest Save, when the task was moved away from its Saves."""
    fetched: bool = False
    """The task runs at its new place: the next view need not say where it came from."""
    away_since: float | None = None
    """Since when its node is gone."""
    live_link: NodeLink = NodeLink()
    """Of its node as this instance went live. Later figures would raise the view each time."""
    live_at: float = 0.0
    """When its last instance became live."""
    gone_since: float | None = None
    """Of a live task with data: since when nobody is known to run it. It stays live for a while, for what it trained may yet come."""
    leaves_in: int | None = None
    """The round that a live task with data was in when its node began to drain."""

    @property
    def movable(self) -> bool:
        """Its place is not given by data."""
        return self.slot < 0

    @property
    def bound(self) -> Literal["slot", "free", "tree"]:
        """As the task's role says (see fog_learning.methods.base.Role)."""
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
            link=self.live_link,
        )


class Refuser(Struct, frozen=True):
    """A node whose worker has found that it cannot take part, and what of the node must change before it is asked again."""

    incarnation: int
    """Of that worker."""
    nonce: str
    """Of the agent's connection then."""
    profile: str
    """The parts of its profile that only a repair changes, as JSON."""
    text: str
    """What the worker said."""


class SentMeter(Struct):
    """What one worker has sent."""

    sent: Planes = Planes()
    ideal: int = 0


class Reading(Struct, frozen=True):
    """What a node and its worker of a job had counted at a heartbeat: the next one is compared with it."""

    process: str
    """Of the node's agent."""
    joules: dict[str, float]
    """By source."""
    uses: dict[str, float]
    """By `joules/SOURCE/USE`."""
    incarnation: int
    """Of the worker."""
    work: tuple[float, float, float]
    """CPU seconds, bytes sent, bytes received."""
    roles: dict[str, float]
    """Seconds of computing by role."""


class Job(Struct):
    """All of a job but its history and its log, which have tables of their own."""

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
    """Of submission: the queue."""
    state: str = WAITING
    since: float = 0.0
    """Of the state."""
    started_at: float | None = None
    ended_at: float | None = None
    why: str = ""
    problems: list[str] = []
    refused: bool = False
    """The preflight found that the nodes cannot run the job as it is."""
    roster: list[str] = []
    """Node of each slot."""
    watching: list[str] = []
    """Nodes that came later and found no free slot."""
    blocks: tuple[BlockReport, ...] = ()
    """Of a user's own module, as a worker has described them."""
    classes: ClassSet | None = None
    """What the labels mean on the nodes that the job began with."""
    weights: str = ""
    """Digest of the file with the first weights, there."""
    refusers: dict[str, Refuser] = {}
    """node -> what its worker found, once training ran."""
    needs: dict[str, int] = {}
    """role -> bytes of memory with which placement counted; a role that is not named here is unknown."""
    seats: list[Seat] = []
    view: int = 0
    rewind: int | None = None
    rewind_view: int = 0
    buddies: dict[str, str] = {}
    ingress: dict[str, tuple[str, ...]] = {}
    """Peer from outside the job -> roles whose tasks it may ask, from the next view on."""
    ingress_told: dict[str, tuple[str, ...]] = {}
    """The same, as the table of the present view says it."""
    top: int = 0
    """Highest incarnation of any of its workers."""
    meters: dict[str, SentMeter] = {}
    """`node/incarnation` -> what that worker sent."""
    energy_j: dict[str, float] = {}
    """Joules by source."""
    energy_by: dict[str, float] = {}
    """The same by `role/source/use`."""
    node_joules: dict[str, float] = {}
    """The same by node."""
    readings: dict[str, Reading] = {}
    """node -> up to which reading of it its joules are in these sums."""
    warned: list[str] = []
    """Budgets of which most is used."""
    stop: str = ""
    """Not '': the budget that is used up; the root is asked for the model as it is."""
    saves: dict[str, dict[str, tuple[int, ...]]] = {}
    """task -> node -> labels of the Saves it has, as last reported."""
    numbers: dict[str, float] = {}
    digest: str = ""
    plan: Plan | None = None
    """Where placement put the tasks, and what a step was predicted to cost; None: not known."""
    runner_up: Plan | None = None
    settled: dict[str, Any] = {}
    """Keys of the `method` section that placement has fixed."""
    replanned: bool = False
    """The plan was looked at again with what the workers measured."""
    stale: dict[str, int] = {}
    """node -> incarnation of a worker that was started for another cut: it does not count as ready."""
    steady: Steady = field(default_factory=Steady)

    @property
    def told_spec(self) -> dict[str, Any]:
        """The job file as workers get it: nothing is left to choose."""
        return {**self.spec, "method": {**self.spec["method"], **self.settled}} if self.settled else self.spec

    @property
    def root(self) -> str:
        return next((seat.task for seat in self.seats if seat.role == self.root_role), "")

    def seat(self, task: str) -> Seat | None:
        return next((seat for seat in self.seats if seat.task == task), None)

    def placement(self, places: dict[str, tuple[str, str]]) -> Placement:
        """The table as it stands. places: (site, tier) of nodes."""
        with_task = {seat.node for seat in self.seats}
        fetch = {seat.task: seat.fetch for seat in self.seats if seat.fetch}
        others = sorted({*fetch.values(), *self.buddies.values(), *self.ingress_told} - with_task)
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
            ingress=dict(self.ingress_told),
        )

    def participants(self) -> set[str]:
        """Nodes that are to run a worker of this job (a leaving node runs none for tasks that only wait for it)."""
        if self.state not in PLACED:
            return set()
        return {node for seat in self.seats for node in (seat.node, seat.successor, "" if seat.fetched else seat.fetch) if node}

    def meter(self, node: str, worker: WorkerState) -> None:
        """Take over what a worker says it has sent; of one process the sums only grow."""
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
        """Payload of all planes."""
        found: dict[str, float] = {}
        for name, meter in self.meters.items():
            node = name.rpartition("/")[0]
            found[node] = found.get(node, 0.0) + meter.sent.payload
        return found

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
