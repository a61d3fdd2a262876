"""The worker: hosts one job's tasks on this node, owns torch, has its own broker connection.

    python -m fog_agent.worker --fd N        (N: socket to the daemon; its end is the worker's end)

Three threads beside the bus's: the owner (this file's loop; the only one that touches the host), one for ops, one for the disk.
They speak through one inbox.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import socket
import sys
import threading
import time
import traceback
from math import inf
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from fog_agent.node import probes
from fog_agent.worker import hosting, pipe
from fog_agent.worker.opqueue import OpQueue
from fog_agent.worker.store import JobStore
from fog_common.bus.base import Connected, Denied, Disconnected, Received
from fog_common.bus.mqtt import MqttBus
from fog_common.errors import FogError, WireError
from fog_common.ids import TIERS
from fog_common.runtime.effects import Changed, Compute, Listen, Persist, Withdraw
from fog_common.runtime.host import Host
from fog_common.runtime.saves import Record
from fog_common.transfer.endpoint import Publish
from fog_common.wire import topics
from fog_common.wire.messages import DesiredJob, Planes, WorkerState
from fog_learning.backend.base import Backend, open_backend

log = logging.getLogger(__name__)

REPORT_S: Final = 2.0
"""Seconds between reports to the daemon when nothing urgent happens."""
LEAST_S: Final = 0.05
"""Seconds between reports of urgent things: the daemon passes them on no more often."""
MEMORY_S: Final = 1.0
"""Seconds for which the resident memory, once read, stands: reports of short rounds come often, and the read costs more than all else in them."""
RETRY_SAVE_S: Final = 2.0
"""Seconds until a Save that the disk refused (full) is tried again."""


# -- what reaches the inbox beside bus events and frames of the daemon ---------------------------


class _OpDone(Struct, frozen=True):
    compute: Compute
    outputs: dict[str, Any]
    numbers: dict[str, float]
    seconds: float


class _OpFailed(Struct, frozen=True):
    compute: Compute
    why: str


class _Written(Struct, frozen=True):
    record: Record
    replica: bool
    seconds: float


class _DiskRefused(Struct, frozen=True):
    why: str


class _DaemonGone(Struct, frozen=True):
    pass


class Worker:
    def __init__(self, sock: socket.socket, setup: pipe.Setup) -> None:
        self._sock = sock
        self._setup = setup
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ops = OpQueue()
        self._disk: queue.SimpleQueue[Persist | None] = queue.SimpleQueue()
        self._sent = dict.fromkeys(("up", "down", "d2d", "cast"), 0)
        self._received = dict.fromkeys(("up", "down", "d2d", "cast"), 0)
        self._counters: dict[str, float] = {}
        self._roles: dict[str, str] = {}
        """task -> role, as placed."""
        self._memory = (0.0, -inf)
        """Resident bytes, and when they were read."""
        self._step_s: float | None = None
        """Of one training step, as last measured."""
        self._speed: dict[str, float] = {}
        self._phase = "starting"
        self._problems: list[str] = []
        self._denied: list[str] = []
        """Filters that the broker refused on this connection."""
        self._refused_since: float | None = None
        """Since when the disk takes no Save; the last try was at _refused_at."""
        self._refused_at = 0.0
        self._host: Host | None = None
        self._bus: MqttBus | None = None
        self._bench: Backend | None = None
        self._desired: DesiredJob | None = None
        self._listening: list[str] = []
        self._ended = threading.Event()
        self._report_at = 0.0
        self._urgent_at = 0.0
        """The next report is due then, or then if there is something urgent."""
        self._urgent = False

    # -- life ------------------------------------------------------------------------------

    def run(self) -> int:
        """Until the daemon says Stop or is gone. 0 in order, 3 if the job's folder is held by another worker."""
        threading.Thread(target=self._read_pipe, name="pipe", daemon=True).start()
        try:
            self._store = JobStore(self._setup.state_dir, self._setup.job)
            lock = _lock(self._store.folder / "lock")
        except BlockingIOError:
            log.error("another worker of this job holds its folder job=%s", self._setup.job)
            return 3
        with lock:
            while True:
                item = self._next()
                if isinstance(item, _DaemonGone | pipe.Stop):
                    if isinstance(item, pipe.Stop):
                        self._report()
                    break
                self._handle(item)
                self._perform()
                if time.monotonic() >= self._next_report():
                    self._report()
            self._end()
        return 0

    def _next(self) -> Any:
        host = self._host
        due = [self._next_report()]
        if host is not None and (at := host.next_timer()) is not None:
            due.append(at)
        try:
            return self._inbox.get(timeout=max(0.0, min(due) - time.monotonic()))
        except queue.Empty:
            return None

    def _handle(self, item: Any) -> None:
        now, host = time.monotonic(), self._host
        match item:
            case Received(topic, payload):
                self._receive(now, topic, payload)
            case Connected(max_payload, refused):
                self._denied, self._urgent = list(refused), self._urgent or bool(refused)
                self._connected(now, max_payload)
            case Denied(filters):
                self._denied, self._urgent = [*self._denied, *filters], True
            case Disconnected(why):
                log.warning("broker connection lost why=%s", why)
                if host is not None:
                    host.on_disconnected(now)
            case pipe.Assign(desired):
                self._assign(now, desired)
            case _OpDone(compute, outputs, numbers, seconds):
                self._add("op_seconds", seconds)
                self._add(f"op_{compute.op}_seconds", seconds)
                if (role := self._roles.get(compute.task)) is not None:
                    self._add(f"role_{role}_seconds", seconds)
                if (steps := hosting.steps_of(compute)) > 0:
                    self._step_s = seconds / steps
                assert host is not None
                host.on_ran(now, compute, outputs, numbers)
            case _OpFailed(compute, why):
                assert host is not None
                host.on_failed(now, compute, why)
            case _Written(record, replica, seconds):
                self._add("save_seconds", seconds)
                self._add("saves", 1)
                assert host is not None
                self._problems = []
                self._refused_since = None
                host.on_persisted(now, record, replica)
            case _DiskRefused(why):
                self._refused_at = now
                self._refused_since = self._refused_since if self._refused_since is not None else now
                self._problems = [f"cannot save: {why}; free some space, the job goes on from there"]
                self._urgent = True
            case _:
                pass
        if host is not None and (at := host.next_timer()) is not None and at <= now:
            host.on_timer(now)

    def _end(self) -> None:
        self._ended.set()
        self._ops.close()
        self._disk.put(None)
        if self._bus is not None:
            self._bus.close()

    # -- start -----------------------------------------------------------------------------

    def _assign(self, now: float, desired: DesiredJob) -> None:
        self._desired = desired
        self._roles |= {peer.task: peer.role for peer in desired.placement.tasks}
        if self._host is None:
            try:
                self._build(desired)
            except FogError as error:
                self._problems = [str(error)]
            except Exception as error:  # a broken node must say so, not vanish in a restart loop
                log.exception("preparing the job failed job=%s", desired.job)
                self._problems = [f"{type(error).__name__}: {error}"]
            if self._problems:
                self._phase, self._urgent = "refused", True
                return
        host, bench = self._host, self._bench
        assert host is not None and bench is not None
        bench.assign(*hosting.slots_of(desired, self._setup.node))
        host.on_placement(now, desired)
        self._urgent = True

    def _build(self, desired: DesiredJob) -> None:
        from fog_learning.job.reading import job_from

        setup = self._setup
        job = job_from(desired.spec, f"job {desired.job}")
        bench = _backend(setup, job, *hosting.slots_of(desired, setup.node))
        self._problems = bench.preflight()
        if self._problems:
            return
        self._bench = bench
        self._measure_speed()
        self._host = hosting.open_host(
            desired,
            job,
            node=setup.node,
            site=setup.site,
            tier=setup.tier,
            fleet=setup.fleet,
            incarnation=setup.incarnation,
            codec=bench,
            disk=self._store,
            shelf=self._store.load(),
            chunk_bytes=setup.chunk_bytes,
        )
        threading.Thread(target=self._run_ops, name="ops", daemon=True).start()
        threading.Thread(target=self._run_disk, name="disk", daemon=True).start()
        client_id = f"{setup.node}-{setup.job}-{setup.incarnation}"
        self._bus = MqttBus(setup.broker, client_id, self._inbox.put)
        self._bus.subscribe(*hosting.inbox(self._host, setup.fleet))
        self._bus.start()
        self._phase = "connecting"

    def _measure_speed(self) -> None:
        """The standard op, for placement; of a node that may compute a part of the time only, that part."""
        if self._setup.backend != "torch":
            return
        from fog_learning.backend.speed import measure

        found, quota = measure(), probes.cpu_quota()
        share = self._setup.duty * (min(1.0, quota) if quota else 1.0)
        speed = probes.Speed(found.flops * share, found.op_s / share)
        self._speed = {"flops_per_second": speed.flops, "op_overhead_seconds": speed.op_s}
        with contextlib.suppress(OSError):
            probes.save_speed(Path(self._setup.state_dir), speed)

    def _connected(self, now: float, max_payload: int) -> None:
        host = self._host
        assert host is not None
        if max_payload:
            host.endpoint.set_limits(hosting.fit(host.endpoint.limits, max_payload))
        host.on_connected(now)
        if self._phase == "connecting":
            self._phase, self._urgent = "ready", True
            log.info("ready job=%s incarnation=%d", self._setup.job, self._setup.incarnation)

    # -- bus -------------------------------------------------------------------------------

    def _receive(self, now: float, topic: str, payload: bytes) -> None:
        host = self._host
        assert host is not None
        try:
            route = topics.parse(topic)
        except WireError as error:
            self._reject(error.reason)
            return
        plane = self._plane(route)
        self._received[plane] += len(payload)
        self._add(f"received_messages_{plane}", 1)
        host.on_frame(now, route, payload)

    def _plane(self, route: topics.Route) -> str:
        if route.plane in {"d2d", "cast"}:
            return route.plane
        tasks = self._desired.placement.tasks if self._desired else ()
        tier = next((peer.tier for peer in tasks if peer.node == route.sender), "cloud")
        return "up" if TIERS.index(self._setup.tier) >= TIERS.index(tier) else "down"

    def _reject(self, reason: str) -> None:
        self._add(f"rejected_{reason}_total", 1)

    def _add(self, name: str, by: float) -> None:
        if not self._setup.metrics:
            return
        self._counters[name] = self._counters.get(name, 0) + by

    # -- effects ---------------------------------------------------------------------------

    def _perform(self) -> None:
        host = self._host
        if host is None:
            return
        assert self._bus is not None
        for effect in host.take():
            match effect:
                case Publish(topic, payload, plane):
                    self._sent[plane] += len(payload)
                    self._add(f"sent_messages_{plane}", 1)
                    self._bus.publish(topic, payload)
                case Compute():
                    self._ops.put(effect)
                case Withdraw(serial):
                    if (unbegun := self._ops.withdraw(serial)) is not None:
                        host.on_withdrawn(unbegun)
                case Persist():
                    self._disk.put(effect)
                case Listen(roles):
                    self._listen(roles)
                case Changed(urgent):
                    self._urgent |= urgent

    def _listen(self, roles: tuple[str, ...]) -> None:
        assert self._bus is not None
        assert self._host is not None
        wanted = hosting.casts(self._host, self._setup.fleet, roles)
        if gone := [filter_ for filter_ in self._listening if filter_ not in wanted]:
            self._bus.unsubscribe(*gone)
        if new := [filter_ for filter_ in wanted if filter_ not in self._listening]:
            self._bus.subscribe(*new)
        self._listening = wanted

    # -- threads ---------------------------------------------------------------------------

    def _read_pipe(self) -> None:
        while True:
            try:
                frame = pipe.receive(self._sock)
            except Exception:
                log.exception("bad frame from the daemon")
                frame = None
            if frame is None:
                self._inbox.put(_DaemonGone())
                threading.Timer(2.0, os._exit, (1,)).start()  # an op may hold the owner: the worker never outlives its daemon
                return
            self._inbox.put(frame)

    def _run_ops(self) -> None:
        host, bench = self._host, self._bench
        assert host is not None and bench is not None
        while (compute := self._ops.get()) is not None:
            began = time.perf_counter()
            try:
                inputs = {name: host.refs.value(compute.task, ref) for name, ref in compute.refs.items()}
                outputs, numbers = bench.run(compute.op, compute.task, inputs, dict(compute.numbers))
                for name, handle in compute.into.items():
                    host.refs.store(compute.task, handle, outputs[name])
            except Exception as error:
                log.error("op failed op=%s task=%s\n%s", compute.op, compute.task, traceback.format_exc())
                self._inbox.put(_OpFailed(compute, f"{compute.op}: {error}"))
            else:
                if self._setup.duty < 1.0:
                    self._ended.wait((time.perf_counter() - began) * (1.0 / self._setup.duty - 1.0))
                self._inbox.put(_OpDone(compute, outputs, numbers, time.perf_counter() - began))

    def _run_disk(self) -> None:
        """In order, always: an older Save that came to the disk after a newer one would undo it."""
        host = self._host
        assert host is not None
        while (persist := self._disk.get()) is not None:
            while True:
                began = time.perf_counter()
                try:
                    self._store.write(persist.record, persist.replica, host.refs.blobs.get)
                except OSError as error:
                    self._inbox.put(_DiskRefused(str(error)))
                    if self._ended.wait(RETRY_SAVE_S):
                        return
                else:
                    self._inbox.put(_Written(persist.record, persist.replica, time.perf_counter() - began))
                    break

    # -- reports ---------------------------------------------------------------------------

    def _next_report(self) -> float:
        return min(self._report_at, self._urgent_at) if self._urgent else self._report_at

    def _report(self) -> None:
        now = time.monotonic()
        self._report_at, self._urgent_at = now + REPORT_S, now + LEAST_S
        urgent, self._urgent = self._urgent, False
        host, desired = self._host, self._desired
        counters, gauges = self._measured() if self._setup.metrics else ({}, {})
        gauges |= self._speed
        state = WorkerState(
            job=self._setup.job,
            incarnation=self._setup.incarnation,
            phase=self._phase,
            view=host.view if host else 0,
            problems=(*self._problems, *self._deafness()),
            tasks=host.task_states(now, desired.history_seen if desired else 0) if host else (),
            replicas=host.replica_states() if host else (),
            sent=Planes(**self._sent),
            received=Planes(**self._received),
            ideal_bytes=host.mail.ideal_bytes if host else 0,
            counters=counters,
            gauges=gauges,
            waited_s=None if self._refused_since is None else now - self._refused_since,
            retry_s=None if self._refused_since is None else max(0.0, self._refused_at + RETRY_SAVE_S - now),
            classes=self._bench.classes if self._bench else None,
            blocks=self._bench.blocks if self._bench else (),
            weights=self._bench.weights if self._bench else "",
        )
        with contextlib.suppress(OSError):  # the daemon is gone: the reader thread ends us
            pipe.send(self._sock, pipe.State(state, urgent))

    def _deafness(self) -> tuple[str, ...]:
        """What the broker does not let this worker hear; with it the job waits for ever."""
        if not self._denied:
            return ()
        user = self._setup.broker.username
        return (f"the broker refuses user {user!r} the subscription {', '.join(self._denied)}; correct its access list",)

    def _measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """(counters, gauges) of the process and its host."""
        host = self._host
        counters, gauges = dict(self._counters), {}
        if host is not None:
            counters |= hosting.counters_of(host)
            gauges = {**host.measured, "spool_bytes": float(host.kept_bytes), "ops_queued": float(len(self._ops))}
            if host.mail.acks.bandwidth_bytes_per_second is not None:
                gauges["bandwidth_bytes_per_second"] = host.mail.acks.bandwidth_bytes_per_second
            if self._step_s is not None:
                gauges["step_seconds"] = self._step_s
        usage = os.times()
        counters["cpu_seconds"] = usage.user + usage.system
        gauges["rss_bytes"] = self._rss_bytes()
        return counters, gauges

    def _rss_bytes(self) -> float:
        read, at = self._memory
        if (now := time.monotonic()) >= at + MEMORY_S:
            with open("/proc/self/statm") as file:
                read = float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            self._memory = (read, now)
        return read


def _backend(setup: pipe.Setup, job: Any, slots: dict[str, int], roster_size: int) -> Backend:
    return open_backend(setup.backend, job, slots, roster_size, paths=setup.datasets, weights=setup.weights, allow_models=setup.allow_models)


def _lock(path: Path) -> Any:
    file = open(path, "w")  # noqa: SIM115 - held for the life of the worker
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file


def main(fd: int) -> int:
    """Run the worker on the socket `fd`; returns the exit code."""
    sock = socket.socket(fileno=fd)
    setup = pipe.receive(sock)
    if not isinstance(setup, pipe.Setup):
        return 1
    logging.basicConfig(level=setup.log_level, stream=sys.stderr, format=f"%(levelname)s worker {setup.node}/{setup.job}: %(message)s", force=True)
    return Worker(sock, setup).run()
