"""The worker's live shell: owns torch, a connection to the broker, and the threads around the core.

    python -m fog_agent.worker --fd N        (N: socket to the daemon; the worker ends when it closes)

Beside the bus's thread there are the owner (the loop of this file; only it touches the core), one thread for ops, one for the disk
and one for frames of the daemon. All put their events into one inbox.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import socket
import threading
import time
import traceback
from math import inf
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from fog_agent.node import probes
from fog_agent.worker import hosting, pipe
from fog_agent.worker.core import Prepared, WorkerCore
from fog_agent.worker.disk import DiskThread, Saved, SaveRefused
from fog_agent.worker.effects import Connect, Note, Prepare, Reslot, Subscribe, Unsubscribe
from fog_agent.worker.frames import Assign, State, Stop, WorkerSetup
from fog_agent.worker.opqueue import OpQueue
from fog_agent.worker.store import JobStore
from fog_common.bus.base import Connected, Denied, Disconnected, Received
from fog_common.bus.mqtt import MqttBus
from fog_common.errors import FogError
from fog_common.program.logs import log_to_stderr
from fog_common.runtime.effects import Compute, Persist, Withdraw
from fog_common.telemetry.speed import Speed
from fog_common.transfer.endpoint import PublishFrame
from fog_common.wire.messages import DesiredJob
from fog_learning.backend.base import Backend, open_backend

log = logging.getLogger(__name__)

MEMORY_S: Final = 1.0
"""Seconds between two reads of the resident memory: reports of short rounds are frequent, and the read is their most expensive part."""


# -- items of the inbox beside bus events, frames of the daemon, and ends of Saves ------------


class OpDone(Struct, frozen=True):
    """An op ended. seconds: its duration."""

    compute: Compute
    outputs: dict[str, Any]
    numbers: dict[str, float]
    seconds: float


class OpFailed(Struct, frozen=True):
    """An op raised an error. why: its text."""

    compute: Compute
    why: str


class DaemonGone(Struct, frozen=True):
    """The socket closed."""


class Worker:
    """One worker process: performs the core's effects and passes events to it."""

    def __init__(self, sock: socket.socket, setup: WorkerSetup) -> None:
        self.core = WorkerCore(setup, time.monotonic())
        self._sock = sock
        self._setup = setup
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ops = OpQueue()
        self._memory = (0.0, -inf)
        """(resident bytes, time of the read)."""
        self._bus: MqttBus | None = None
        self._backend: Backend | None = None
        self._disk: DiskThread | None = None
        self._ended = threading.Event()

    # -- life ------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until the daemon sends Stop or is gone; returns 0, or 3 if another worker holds the job's folder."""
        threading.Thread(target=self._read_pipe, name="pipe", daemon=True).start()
        try:
            self._store = JobStore(self._setup.state_dir, self._setup.job)
            lock = _lock(self._store.folder / "lock")
        except BlockingIOError:
            log.error("another worker of this job holds its folder job=%s", self._setup.job)
            return 3
        with lock:
            while not isinstance(item := self._next(), DaemonGone | Stop):
                self.handle(item)
            if isinstance(item, Stop):
                self.core.on_stop(time.monotonic())
                self._perform()
            self._end()
        return 0

    def _next(self) -> Any:
        """The next item of the inbox; None when the core's timer is due."""
        try:
            return self._inbox.get(timeout=max(0.0, self.core.next_timer() - time.monotonic()))
        except queue.Empty:
            return None

    def handle(self, item: Any) -> None:
        """Pass an item (None: only time has passed) to the core, then perform its effects."""
        now, core = time.monotonic(), self.core
        match item:
            case Received() | Connected() | Denied() | Disconnected():
                core.on_bus(now, item)
            case Assign(desired):
                core.on_assign(now, desired)
            case OpDone(compute, outputs, numbers, seconds):
                core.on_ran(now, compute, outputs, numbers, seconds)
            case OpFailed(compute, why):
                core.on_failed(now, compute, why)
            case Saved(persist, seconds):
                core.on_saved(now, persist, seconds)
            case SaveRefused(why):
                core.on_save_refused(now, why)
        self._perform()
        if core.next_timer() <= (now := time.monotonic()):
            core.on_timer(now)
            self._perform()

    def _end(self) -> None:
        self._ended.set()
        self._ops.close()
        if self._disk is not None:
            self._disk.close()
        if self._bus is not None:
            self._bus.close()

    # -- effects ---------------------------------------------------------------------------

    def _perform(self) -> None:
        while effects := self.core.take():
            for effect in effects:
                match effect:
                    case PublishFrame(topic, payload, _):
                        self._connection.publish(topic, payload)
                    case Compute():
                        self._ops.put(effect)
                    case Withdraw(serial):
                        if (unbegun := self._ops.withdraw(serial)) is not None:
                            self.core.on_withdrawn(unbegun)
                    case Persist():
                        assert self._disk is not None
                        self._disk.put(effect)
                    case Subscribe(filters):
                        self._connection.subscribe(*filters)
                    case Unsubscribe(filters):
                        self._connection.unsubscribe(*filters)
                    case Reslot(desired):
                        assert self._backend is not None
                        self._backend.assign(*hosting.slots_of(desired, self._setup.node))
                    case State():
                        self._send(effect)
                    case Note(text, warning):
                        log.log(logging.WARNING if warning else logging.INFO, "%s", text)
                    case Prepare(desired):
                        self._prepare(desired)
                    case Connect(filters):
                        self._connect(filters)

    @property
    def _connection(self) -> MqttBus:
        assert self._bus is not None
        return self._bus

    def _prepare(self, desired: DesiredJob) -> None:
        try:
            built = self._build(desired)
        except FogError as error:
            built = [str(error)]
        except Exception as error:  # a broken node must report it instead of restarting for ever
            log.exception("preparing the job failed job=%s", desired.job)
            built = [f"{type(error).__name__}: {error}"]
        now = time.monotonic()
        if isinstance(built, list):
            self.core.on_refused(now, tuple(built))
        else:
            self.core.on_prepared(now, built)

    def _build(self, desired: DesiredJob) -> Prepared | list[str]:
        """The backend after its preflight, or the problems that the preflight found."""
        from fog_learning.job.reading import job_from
        from fog_learning.methods import METHODS

        METHODS.allow(self._setup.methods)
        setup, job = self._setup, job_from(desired.spec, f"job {desired.job}")
        backend = open_backend(
            setup.backend,
            job,
            *hosting.slots_of(desired, setup.node),
            paths=setup.datasets,
            weights=setup.weights,
            allow_models=setup.allow_models,
        )
        if problems := backend.preflight():
            return problems
        self._backend = backend
        return Prepared(job, backend, disk=self._store, shelf=self._store.load(), speed=self._speed_of(backend))

    def _speed_of(self, backend: Backend) -> dict[str, float]:
        """Speed of the standard op for placement, reduced by `duty` and the CPU quota; {} if the backend does not measure it."""
        whole, quota = backend.speed(), probes.cpu_quota()
        if whole is None:
            return {}
        share = self._setup.duty * (min(1.0, quota) if quota else 1.0)
        speed = Speed(whole.flops * share, whole.op_s / share)
        with contextlib.suppress(OSError):
            probes.save_speed(Path(self._setup.state_dir), speed)
        return {"flops_per_second": speed.flops, "op_overhead_seconds": speed.op_s}

    def _connect(self, filters: tuple[str, ...]) -> None:
        """Start the threads of ops and Saves, and the connection to the broker, for the new host."""
        setup, host = self._setup, self.core.host
        assert host is not None
        threading.Thread(target=self._run_ops, name="ops", daemon=True).start()
        self._disk = DiskThread(self._store, host.refs.blobs.get, self._inbox.put)
        self._disk.start()
        self._bus = MqttBus(setup.broker, f"{setup.node}-{setup.job}-{setup.incarnation}", self._inbox.put)
        self._bus.subscribe(*filters)
        self._bus.start()

    def _send(self, report: State) -> None:
        """Send a report to the daemon, with the CPU seconds and the memory of this process."""
        if self._setup.metrics:
            usage = os.times()
            report.state.counters["cpu_seconds"] = usage.user + usage.system
            report.state.gauges["rss_bytes"] = self._rss_bytes()
        with contextlib.suppress(OSError):  # the daemon is gone: the reader thread ends the worker
            pipe.send(self._sock, report)

    def _rss_bytes(self) -> float:
        read, at = self._memory
        if (now := time.monotonic()) >= at + MEMORY_S:
            with open("/proc/self/statm") as file:
                read = float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            self._memory = (read, now)
        return read

    # -- threads ---------------------------------------------------------------------------

    def _read_pipe(self) -> None:
        while True:
            try:
                frame = pipe.receive(self._sock)
            except Exception:
                log.exception("bad frame from the daemon")
                frame = None
            if frame is None:
                self._inbox.put(DaemonGone())
                threading.Timer(2.0, os._exit, (1,)).start()  # an op may block the owner, but the worker must not outlive its daemon
                return
            self._inbox.put(frame)

    def _run_ops(self) -> None:
        host, backend = self.core.host, self._backend
        assert host is not None and backend is not None
        while (compute := self._ops.get()) is not None:
            began = time.perf_counter()
            try:
                inputs = {name: host.refs.value(compute.task, ref) for name, ref in compute.refs.items()}
                outputs, numbers = backend.run(compute.op, compute.task, inputs, dict(compute.numbers))
                for name, handle in compute.into.items():
                    host.refs.store(compute.task, handle, outputs[name])
            except Exception as error:
                log.error("op failed op=%s task=%s\n%s", compute.op, compute.task, traceback.format_exc())
                self._inbox.put(OpFailed(compute, f"{compute.op}: {error}"))
            else:
                if self._setup.duty < 1.0:
                    self._ended.wait((time.perf_counter() - began) * (1.0 / self._setup.duty - 1.0))
                self._inbox.put(OpDone(compute, outputs, numbers, time.perf_counter() - began))


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
    if not isinstance(setup, WorkerSetup):
        return 1
    log_to_stderr(setup.log_level, f"worker {setup.node}/{setup.job}")
    return Worker(sock, setup).run()
