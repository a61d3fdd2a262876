"""The worker as a pure state machine around one job's host on this node, driven by `threads` live and by the simulator in virtual time.

Call a handler, then perform the effects of `take()`, in order, until it returns none; call `on_timer(now)` when `next_timer()` is reached.

Phases (the agent passes them on in every report):

    starting   --assigned-->   preparing      a process without a job file
    preparing  --prepared-->   connecting     the shell builds the backend and runs the preflight
    preparing  --refused-->    refused        the preflight, or the method, found problems
    refused    --assigned-->   preparing      every new assignment tries again: the node may be repaired
    connecting --connected-->  ready          the host exists; its tasks wait for the broker
    ready      --connected-->  ready          the connection is back

Rules: an assignment in a later phase is a placement for the host; one that comes while the backend is prepared replaces the earlier one.
Saves go to the disk one at a time, in order: an older Save written after a newer one would undo it. A Save that the disk refuses is
tried again after RETRY_SAVE_S, for ever. Reports go to the agent every REPORT_S, urgent ones LEAST_S after the last report.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from msgspec import Struct

from fog_agent.worker import hosting
from fog_agent.worker.effects import Connect, Effect, Note, Prepare, Reslot, Subscribe, Unsubscribe
from fog_agent.worker.frames import State, WorkerSetup
from fog_common.bus.base import BusEvent, Connected, Denied, Disconnected, Received
from fog_common.errors import FogError, WireError
from fog_common.ids import TIERS
from fog_common.runtime.effects import Changed, Compute, Listen, Persist
from fog_common.runtime.host import Host
from fog_common.runtime.machine import Numbers
from fog_common.runtime.refs import Disk
from fog_common.runtime.shelf import Shelf
from fog_common.transfer.endpoint import PublishFrame
from fog_common.wire import topics
from fog_common.wire.messages import DesiredJob, Planes, WorkerState
from fog_learning.backend.base import Backend
from fog_learning.job.sections import JobFile
from fog_learning.methods import method_of
from fog_learning.ops import Op

REPORT_S: Final = 2.0
"""Seconds between two reports to the agent without urgent changes."""
LEAST_S: Final = 0.05
"""Seconds between two reports of urgent changes; the agent passes them on no more often."""
RETRY_SAVE_S: Final = 2.0
"""Seconds until a Save that the disk refused (full) is tried again."""
PHASES: Final = {
    ("starting", "assigned"): "preparing",
    ("refused", "assigned"): "preparing",
    ("preparing", "prepared"): "connecting",
    ("preparing", "refused"): "refused",
    ("connecting", "connected"): "ready",
    ("ready", "connected"): "ready",
}
"""(phase, event) -> phase; other events leave the phase as it is."""


class Prepared(Struct, frozen=True):
    """Parts that a shell builds for a job, from which the core opens the host."""

    job: JobFile
    backend: Backend
    """After its preflight."""
    disk: Disk
    shelf: Shelf
    speed: dict[str, float] = {}
    """The node's measured speed: flops_per_second, op_overhead_seconds."""


class WorkerCore:
    """See the module text. All times are `now` as given, in seconds of one monotonic clock."""

    def __init__(self, setup: WorkerSetup, now: float) -> None:
        self.setup = setup
        self.phase = "starting"
        self.host: Host | None = None
        self.desired: DesiredJob | None = None
        self.sent = dict.fromkeys(("up", "down", "d2d", "cast"), 0)
        """Payload bytes by plane."""
        self.received = dict.fromkeys(("up", "down", "d2d", "cast"), 0)
        self._prepared: Prepared | None = None
        self._refusals: tuple[str, ...] = ()
        self._denied: tuple[str, ...] = ()
        """Filters that the broker refuses on this connection."""
        self._counters: dict[str, float] = {}
        self._roles: dict[str, str] = {}
        """task -> role, as placed."""
        self._step_s: float | None = None
        """Seconds of one training step, by the last op that trained."""
        self._rows: dict[str, Op] = {}
        """Ops of the job's method, by name."""
        self._ops = 0
        """Number of ops that were begun or wait."""
        self._saves: deque[Persist] = deque()
        """Saves on their way to the disk; the first one is being written."""
        self._disk_says = ""
        """Reason for which the disk refuses Saves; '' while it takes them."""
        self._refused_since: float | None = None
        self._retry_at: float | None = None
        self._listening: tuple[str, ...] = ()
        self._report_at = now
        self._urgent_at = now
        """The next report is due at `_report_at`, or at `_urgent_at` after an urgent change."""
        self._urgent = False
        self._effects: list[Effect] = []

    # -- out -------------------------------------------------------------------------------

    def take(self) -> list[Effect]:
        """Effects to be performed now, in order."""
        self._collect()
        effects, self._effects = self._effects, []
        return effects

    def next_timer(self) -> float:
        """Time at which on_timer() is due."""
        times = [self._next_report(), self._retry_at, self.host.next_timer() if self.host is not None else None]
        return min(at for at in times if at is not None)

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems that keep the job from going on here, each as a sentence for a person."""
        disk = (f"cannot save: {self._disk_says}; free some space, the job goes on from there",) if self._disk_says else ()
        user = self.setup.broker.username
        deaf = f"the broker refuses user {user!r} the subscription {', '.join(self._denied)}; correct its access list"
        return (*self._refusals, *disk, *((deaf,) if self._denied else ()))

    # -- in: the agent ---------------------------------------------------------------------

    def on_assign(self, now: float, desired: DesiredJob) -> None:
        """The job as the coordinator wants it here."""
        self.desired = desired
        self._roles |= {peer.task: peer.role for peer in desired.placement.tasks}
        if self.host is not None:
            self._place(now, self.host)
        elif self.phase != "preparing":
            self._move("assigned")
            self._effects.append(Prepare(desired))

    def on_stop(self, now: float) -> None:
        """Make the last report; the shell then ends the process."""
        self._report(now)

    # -- in: the shell ---------------------------------------------------------------------

    def on_prepared(self, now: float, prepared: Prepared) -> None:
        """The backend is built, and the preflight has found no problem: open the host."""
        assert self.desired is not None
        setup = self.setup
        try:
            host = hosting.open_host(
                self.desired,
                prepared.job,
                node=setup.node,
                site=setup.site,
                tier=setup.tier,
                fleet=setup.fleet,
                incarnation=setup.incarnation,
                codec=prepared.backend,
                disk=prepared.disk,
                shelf=prepared.shelf,
                chunk_bytes=setup.chunk_bytes,
            )
        except FogError as error:
            self.on_refused(now, (str(error),))
            return
        self._move("prepared")
        self.host, self._prepared, self._refusals = host, prepared, ()
        self._rows = {row.name: row for row in method_of(prepared.job).ops}
        self._effects.append(Connect(tuple(hosting.inbox(host, setup.fleet))))
        self._place(now, host)

    def on_refused(self, now: float, problems: tuple[str, ...]) -> None:
        """This node cannot run the job. problems: reasons, each as a sentence for a person."""
        self._move("refused")
        self._refusals, self._urgent = problems, True

    def on_ran(self, now: float, compute: Compute, outputs: dict[str, Any], numbers: Numbers, seconds: float) -> None:
        """The op is done. outputs: its values by name; those of `compute.into` are in the host's refs already. seconds: its duration."""
        self._ops -= 1
        self._add("op_seconds", seconds)
        self._add(f"op_{compute.op}_seconds", seconds)
        if (role := self._roles.get(compute.task)) is not None:
            self._add(f"role_{role}_seconds", seconds)
        row = self._rows.get(compute.op)
        if row is not None and (steps := row.steps(compute.numbers)) > 0:
            self._step_s = seconds / steps
        self._hosted.on_ran(now, compute, outputs, numbers)

    def on_failed(self, now: float, compute: Compute, why: str) -> None:
        """The op raised an error. why: its text, for a person."""
        self._ops -= 1
        self._hosted.on_failed(now, compute, why)

    def on_withdrawn(self, compute: Compute) -> None:
        """The op had not begun, and will not run."""
        self._ops -= 1
        self._hosted.on_withdrawn(compute)

    def on_saved(self, now: float, persist: Persist, seconds: float) -> None:
        """The Save is durable. seconds: the time of its write."""
        self._saves.popleft()
        self._add("save_seconds", seconds)
        self._add("saves", 1)
        self._disk_says, self._refused_since, self._retry_at = "", None, None
        if self._saves:
            self._effects.append(self._saves[0])
        self._hosted.on_persisted(now, persist.record, persist.replica)

    def on_save_refused(self, now: float, why: str) -> None:
        """The disk did not take the Save; it is offered again. why: the text of the OSError."""
        self._disk_says, self._urgent = why, True
        self._retry_at = now + RETRY_SAVE_S
        if self._refused_since is None:
            self._refused_since = now

    def on_timer(self, now: float) -> None:
        """Call when `next_timer()` is reached (or at any other time)."""
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._effects.append(self._saves[0])
        host = self.host
        if host is not None and (at := host.next_timer()) is not None and now >= at:
            host.on_timer(now)
            self._collect()
        if now >= self._next_report():
            self._report(now)

    # -- in: the bus -----------------------------------------------------------------------

    def on_bus(self, now: float, event: BusEvent) -> None:
        match event:
            case Received(topic, payload):
                self._receive(now, topic, payload)
            case Connected(max_payload, refused):
                self._denied, self._urgent = refused, self._urgent or bool(refused)
                self._connected(now, max_payload)
            case Denied(filters):
                self._denied, self._urgent = (*self._denied, *filters), True
            case Disconnected(why):
                self._effects.append(Note(f"broker connection lost why={why}", warning=True))
                self._hosted.on_disconnected(now)

    def _connected(self, now: float, max_payload: int) -> None:
        host = self._hosted
        if max_payload:
            host.endpoint.set_limits(hosting.fit(host.endpoint.limits, max_payload))
        host.on_connected(now)
        if self.phase == "connecting":
            self._urgent = True
            self._effects.append(Note(f"ready job={self.setup.job} incarnation={self.setup.incarnation}"))
        self._move("connected")

    def _receive(self, now: float, topic: str, payload: bytes) -> None:
        try:
            route = topics.parse(topic)
        except WireError as error:
            self._add(f"rejected_{error.reason}_total", 1)
            return
        plane = self._plane(route)
        self.received[plane] += len(payload)
        self._add(f"received_messages_{plane}", 1)
        self._hosted.on_frame(now, route, payload)

    def _plane(self, route: topics.Route) -> str:
        """The plane of a received frame; between sites it is `up` if the sender's tier is not above this node's."""
        if route.plane in {"d2d", "cast"}:
            return route.plane
        tasks = self.desired.placement.tasks if self.desired else ()
        tier = next((peer.tier for peer in tasks if peer.node == route.sender), "cloud")
        return "up" if TIERS.index(self.setup.tier) >= TIERS.index(tier) else "down"

    # -- inside ----------------------------------------------------------------------------

    @property
    def _hosted(self) -> Host:
        assert self.host is not None, f"no host in phase {self.phase}"
        return self.host

    def _move(self, event: str) -> None:
        self.phase = PHASES[self.phase, event]

    def _place(self, now: float, host: Host) -> None:
        assert self.desired is not None
        self._effects.append(Reslot(self.desired))
        host.on_placement(now, self.desired)
        self._urgent = True

    def _collect(self) -> None:
        """Take over the effects of the host."""
        if self.host is None:
            return
        for effect in self.host.take():
            match effect:
                case Listen(roles):
                    self._listen(self.host, roles)
                case Changed(urgent):
                    self._urgent |= urgent
                case Persist():
                    self._saves.append(effect)
                    if len(self._saves) == 1:
                        self._effects.append(effect)
                case _:
                    if isinstance(effect, PublishFrame):
                        self.sent[effect.plane] += len(effect.payload)
                        self._add(f"sent_messages_{effect.plane}", 1)
                    elif isinstance(effect, Compute):
                        self._ops += 1
                    self._effects.append(effect)

    def _listen(self, host: Host, roles: tuple[str, ...]) -> None:
        wanted = tuple(hosting.casts(host, self.setup.fleet, roles))
        if gone := tuple(filter_ for filter_ in self._listening if filter_ not in wanted):
            self._effects.append(Unsubscribe(gone))
            self._denied = tuple(filter_ for filter_ in self._denied if filter_ not in gone)
        if new := tuple(filter_ for filter_ in wanted if filter_ not in self._listening):
            self._effects.append(Subscribe(new))
        self._listening = wanted

    def _add(self, name: str, by: float) -> None:
        if self.setup.metrics:
            self._counters[name] = self._counters.get(name, 0) + by

    # -- reports ---------------------------------------------------------------------------

    def _next_report(self) -> float:
        return min(self._report_at, self._urgent_at) if self._urgent else self._report_at

    def _report(self, now: float) -> None:
        self._report_at, self._urgent_at = now + REPORT_S, now + LEAST_S
        urgent, self._urgent = self._urgent, False
        host, prepared = self.host, self._prepared
        backend = prepared.backend if prepared else None
        counters, gauges = self._measured() if self.setup.metrics else ({}, {})
        state = WorkerState(
            job=self.setup.job,
            incarnation=self.setup.incarnation,
            phase=self.phase,
            view=host.view if host else 0,
            problems=self.problems,
            tasks=host.task_states(now) if host else (),
            replicas=host.replica_states() if host else (),
            sent=Planes(**self.sent),
            received=Planes(**self.received),
            ideal_bytes=host.mail.ideal_bytes if host else 0,
            counters=counters,
            gauges=gauges | (prepared.speed if prepared else {}),
            waited_s=None if self._refused_since is None else now - self._refused_since,
            retry_s=None if self._refused_since is None else max(0.0, (now if self._retry_at is None else self._retry_at) - now),
            classes=backend.classes if backend else None,
            blocks=backend.blocks if backend else (),
            weights=backend.weights if backend else "",
        )
        self._effects.append(State(state, urgent))

    def _measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """(counters, gauges) of the worker and its host."""
        host, counters = self.host, dict(self._counters)
        if host is None:
            return counters, {}
        gauges = {**host.measured, "spool_bytes": float(host.kept_bytes), "ops_queued": float(max(0, self._ops - 1))}
        if host.mail.acks.bandwidth_bytes_per_second is not None:
            gauges["bandwidth_bytes_per_second"] = host.mail.acks.bandwidth_bytes_per_second
        if self._step_s is not None:
            gauges["step_seconds"] = self._step_s
        return counters | hosting.counters_of(host), gauges
