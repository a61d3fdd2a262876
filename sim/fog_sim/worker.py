"""A worker process in virtual time: the real WorkerCore; the process, the disk and the time of ops are modelled (ops compute for real)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from fog_agent.worker.core import Prepared, WorkerCore
from fog_agent.worker.effects import Connect, Note, Prepare, Reslot, Subscribe, Unsubscribe
from fog_agent.worker.frames import State, WorkerSetup
from fog_common.bus.base import BrokerConfig, BusEvent
from fog_common.errors import FogError
from fog_common.runtime.effects import Compute, Persist, Withdraw
from fog_common.runtime.saves import Record
from fog_common.transfer.endpoint import PublishFrame
from fog_common.wire.messages import DesiredJob, Profile, WorkerState
from fog_learning.backend.base import Backend
from fog_learning.job.sections import JobFile
from fog_sim.costs import Costs
from fog_sim.disk import SimDisk
from fog_sim.kernel import Kernel, Wakeup
from fog_sim.links import NodeModel
from fog_sim.network import Connection, Port, SimBroker

WORKER_START_S: Final = 0.5
"""Virtual seconds from the start of a process to its preflight, on a node of slowness 1."""
FULL: Final = "[Errno 28] No space left on device"


class SharedBackend:
    """Op backend and costs that all simulated workers of one job share."""

    def __init__(self, job: JobFile, backend: Backend, costs: Costs) -> None:
        self.job = job
        self.backend = backend
        self.costs = costs
        self.problems = backend.preflight()


class World(Protocol):
    """The part of the simulation that a node uses."""

    kernel: Kernel
    broker: SimBroker
    fleet: str

    def prepared(self, desired: DesiredJob) -> SharedBackend: ...

    def trace(self, what: str, node: str, text: str) -> None: ...

    def saved(self, node: str, record: Record, replica: bool) -> None: ...


class Home(Protocol):
    """The part of a node that its worker uses."""

    world: World
    name: str
    profile: Profile
    model: NodeModel
    port: Port
    disk: SimDisk
    slowness: float
    op_joules: float
    chunk_bytes: int

    def speed(self) -> dict[str, float]: ...

    def postponed(self, worker: SimWorker | None, action: Callable[[], None]) -> bool: ...

    def later(self, seconds: float, worker: SimWorker, action: Callable[[], None]) -> None: ...

    def worker_state(self, worker: SimWorker, state: WorkerState, urgent: bool) -> None: ...

    def worker_exited(self, worker: SimWorker, code: int) -> None: ...


class SimWorker:
    """One process: performs the core's effects and passes events to it, at virtual times."""

    def __init__(self, home: Home, job: str, incarnation: int) -> None:
        self.home = home
        self.job = job
        self.incarnation = incarnation
        self.alive = True
        self.connection: Connection | None = None
        profile, world = home.profile, home.world
        setup = WorkerSetup(
            node=home.name,
            site=profile.site,
            tier=profile.tier,
            fleet=world.fleet,
            broker=BrokerConfig(username=home.name),
            state_dir="",
            job=job,
            incarnation=incarnation,
            chunk_bytes=home.chunk_bytes,
            backend="simulated",
        )
        self.core = WorkerCore(setup, world.kernel.now)
        self._assigned: DesiredJob | None = None
        self._runs = False
        """The process has started and reads its assignments."""
        self._shared: SharedBackend | None = None
        self._ops: deque[Compute] = deque()
        self._busy = False
        self._alarm = Wakeup(world.kernel, self._timer)
        self._alarm.set(self.core.next_timer())

    # -- life ------------------------------------------------------------------------------

    def assign(self, desired: DesiredJob) -> None:
        first, self._assigned = self._assigned is None, desired
        if self._runs:
            self.core.on_assign(self._now, desired)
            self._perform()
        elif first:
            self.home.later(WORKER_START_S * self.home.slowness, self, self._start)

    def _start(self) -> None:
        assert self._assigned is not None
        self._runs = True
        self.core.on_assign(self._now, self._assigned)
        self._perform()

    def end(self) -> None:
        """End the process, and leave its connection as it is."""
        self.alive = False
        self._alarm.set(None)

    def kill(self) -> None:
        self.end()
        if self.connection is not None:
            self.connection.kill()

    def stop(self) -> None:
        self.core.on_stop(self._now)
        self._perform()
        self.kill()
        self.home.worker_exited(self, 0)

    # -- events ----------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return self.home.world.kernel.now

    def _bus_event(self, event: BusEvent) -> None:
        if self.home.postponed(self, lambda: self._bus_event(event)):
            return
        if self.alive:
            self.core.on_bus(self._now, event)
            self._perform()

    def _timer(self) -> None:
        if self.home.postponed(self, self._timer):
            return
        if self.alive:
            self.core.on_timer(self._now)
            self._perform()

    # -- effects ---------------------------------------------------------------------------

    def _perform(self) -> None:
        while effects := self.core.take():
            for effect in effects:
                match effect:
                    case PublishFrame(topic, payload, _):
                        self._bus.publish(topic, payload)
                    case Compute():
                        self._ops.append(effect)
                    case Withdraw(serial):
                        for compute in [compute for compute in self._ops if compute.serial == serial]:
                            self._ops.remove(compute)
                            self.core.on_withdrawn(compute)
                    case Persist():
                        self._write(effect)
                    case Subscribe(filters):
                        self._bus.subscribe(*filters)
                    case Unsubscribe(filters):
                        self._bus.unsubscribe(*filters)
                    case Reslot(desired):
                        self._reslot(desired)
                    case State(state, urgent):
                        self.home.worker_state(self, state, urgent)
                    case Note(text, warning):
                        self.home.world.trace("warning" if warning else "worker", self.home.name, text)
                    case Prepare(desired):
                        self._prepare(desired)
                    case Connect(filters):
                        self.connection = Connection(self.home.world.broker, self.home.port, self._bus_event)
                        self.connection.subscribe(*filters)
                        self.connection.start()
        self._next_op()
        self._alarm.set(self.core.next_timer() if self.alive else None)

    @property
    def _bus(self) -> Connection:
        assert self.connection is not None
        return self.connection

    def _prepare(self, desired: DesiredJob) -> None:
        home, now = self.home, self._now
        try:
            shared = self._shared = home.world.prepared(desired)
        except FogError as error:
            self.core.on_refused(now, (str(error),))
            return
        if shared.problems:
            self.core.on_refused(now, tuple(shared.problems))
            return
        disk = home.disk.view(self.job)
        self.core.on_prepared(now, Prepared(shared.job, shared.backend, disk=disk, shelf=disk.load(), speed=home.speed()))

    def _reslot(self, desired: DesiredJob) -> None:
        """Give the slots of all nodes to the backend, which all nodes share."""
        assert self._shared is not None
        slots = {peer.task: peer.slot for peer in desired.placement.tasks if peer.slot >= 0}
        self._shared.backend.assign(slots, len(set(slots.values())))

    def _next_op(self) -> None:
        """Begin the next op: its values are computed at once, and the core learns of its end after the modelled time."""
        if self._busy or not self._ops:
            return
        compute = self._ops.popleft()
        self._busy = True
        home, shared, host = self.home, self._shared, self.core.host
        assert shared is not None
        assert host is not None
        flops = shared.costs.flops(compute.op, compute.numbers)
        seconds = (home.model.op_overhead_s + flops / home.model.flops) * home.slowness
        home.op_joules += flops * home.model.joules_per_flop
        try:
            inputs = {name: host.refs.value(compute.task, ref) for name, ref in compute.refs.items()}
            outputs, numbers = shared.backend.run(compute.op, compute.task, inputs, dict(compute.numbers))
            for name, handle in compute.into.items():
                host.refs.store(compute.task, handle, outputs[name])
        except Exception as error:
            why = f"{compute.op}: {error}"
            home.later(seconds, self, lambda: self._op_failed(compute, why))
        else:
            home.later(seconds, self, lambda: self._op_done(compute, outputs, numbers, seconds))

    def _op_done(self, compute: Compute, outputs: dict[str, Any], numbers: dict[str, float], seconds: float) -> None:
        self._busy = False
        self.core.on_ran(self._now, compute, outputs, numbers, seconds)
        self._perform()

    def _op_failed(self, compute: Compute, why: str) -> None:
        self._busy = False
        self.home.world.trace("op failed", self.home.name, why)
        self.core.on_failed(self._now, compute, why)
        self._perform()

    def _write(self, persist: Persist) -> None:
        home, record = self.home, persist.record
        if home.disk.full:
            self.core.on_save_refused(self._now, FULL)
            return
        size = sum(blob.size for blob in record.blobs) + len(record.machine)
        seconds = home.model.save_s + size / home.model.disk_bytes_s
        home.later(seconds, self, lambda: self._written(persist, seconds))

    def _written(self, persist: Persist, seconds: float) -> None:
        host, record, replica = self.core.host, persist.record, persist.replica
        assert host is not None
        self.home.disk.view(self.job).write(record, replica, host.refs.blobs.get)
        self.home.world.saved(self.home.name, record, replica)
        self.core.on_saved(self._now, persist, seconds)
        self._perform()
