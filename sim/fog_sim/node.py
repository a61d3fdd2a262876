"""A node in virtual time: the real AgentCore and Hosts; processes, disk and ops are modelled (ops compute for real)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from msgspec.structs import replace

from fog_agent import effects as agent_effects
from fog_agent.core import AgentCore, Limits, Sample
from fog_agent.worker import hosting
from fog_common.bus.base import BusEvent, Connected, Disconnected, Received, Will
from fog_common.errors import FogError, WireError
from fog_common.runtime import effects as host_effects
from fog_common.runtime.host import Host
from fog_common.runtime.saves import Record
from fog_common.runtime.shelf import Shelf, kept
from fog_common.transfer.endpoint import Publish
from fog_common.wire import messages, topics
from fog_common.wire.messages import DesiredJob, Planes, Presence, Profile, WorkerState
from fog_learning.backend.base import Backend
from fog_learning.job.sections import Job
from fog_sim.costs import Costs
from fog_sim.faults import KEEPALIVE_S
from fog_sim.kernel import Alarm, Kernel
from fog_sim.links import NodeModel
from fog_sim.network import Connection, Port, SimBroker

REPORT_S = 2.0
WORKER_START_S = 0.5
WORKER_STOP_S = 0.2
RETRY_SAVE_S = 2.0


class Prepared:
    """What all simulated workers of one job share."""

    def __init__(self, job: Job, bench: Backend, costs: Costs) -> None:
        self.job = job
        self.bench = bench
        self.costs = costs
        self.problems = bench.preflight()


class World(Protocol):
    """What a node needs of the simulation."""

    kernel: Kernel
    broker: SimBroker
    fleet: str

    def prepared(self, desired: DesiredJob) -> Prepared: ...

    def trace(self, what: str, node: str, text: str) -> None: ...

    def saved(self, node: str, record: Record, replica: bool) -> None: ...


class SimDisk:
    """Survives processes and power loss."""

    def __init__(self) -> None:
        self.incarnations: dict[str, int] = {}
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.records: dict[str, list[tuple[Record, bool]]] = {}
        self.full = False

    def view(self, job: str) -> JobDisk:
        return JobDisk(self.blobs.setdefault(job, {}), self.records.setdefault(job, []))


class JobDisk:
    def __init__(self, blobs: dict[str, bytes], records: list[tuple[Record, bool]]) -> None:
        self.blobs = blobs
        self.records = records

    def read(self, digest: str) -> memoryview | None:
        content = self.blobs.get(digest)
        return None if content is None else memoryview(content)

    def load(self) -> Shelf:
        shelf = Shelf()
        for record, replica in self.records:
            shelf.add(record, replica)
        return shelf

    def write(self, record: Record, replica: bool, content: Callable[[str], memoryview | None]) -> None:
        for blob in record.blobs:
            if blob.digest not in self.blobs:
                held = content(blob.digest)
                assert held is not None, f"blob {blob.digest} of {record.task} is gone before its Save"
                self.blobs[blob.digest] = bytes(held)
        others = [(old, flag) for old, flag in self.records if old.task != record.task]
        mine = {old.label: (old, flag) for old, flag in self.records if old.task == record.task} | {record.label: (record, replica)}
        self.records[:] = [*others, *(mine[label] for label in kept(mine, record.label))]
        needed = {digest for old, _ in self.records for digest in old.digests()}
        for digest in [digest for digest in self.blobs if digest not in needed]:
            del self.blobs[digest]


class SimWorker:
    def __init__(self, node: SimNode, job: str, incarnation: int) -> None:
        self.node = node
        self.job = job
        self.incarnation = incarnation
        self.alive = True
        self.phase = "starting"
        self.problems: tuple[str, ...] = ()
        self.host: Host | None = None
        self.connection: Connection | None = None
        self.desired: DesiredJob | None = None
        self.sent = dict.fromkeys(("up", "down", "d2d", "cast"), 0)
        self.received = dict.fromkeys(("up", "down", "d2d", "cast"), 0)
        self.op_seconds = 0.0
        self._prepared: Prepared | None = None
        self._ops: deque[host_effects.Compute] = deque()
        self._busy = False
        self._disk: deque[tuple[Record, bool]] = deque()
        self._refused: tuple[float, float] | None = None
        """Since when the disk takes no Save, and when it is tried again."""
        self._listening: list[str] = []
        self._alarm = Alarm(node.world.kernel, self._timer)
        self._report_alarm = Alarm(node.world.kernel, self._report)

    # -- life ------------------------------------------------------------------------------

    def assign(self, desired: DesiredJob) -> None:
        self.desired = desired
        if self.host is None and self.phase == "starting":
            self.phase = "loading"
            self.node.later(WORKER_START_S * self.node.slowness, self, self._load)
        elif self.host is not None:
            self._apply()

    def _load(self) -> None:
        assert self.desired is not None
        world = self.node.world
        try:
            self._prepared = world.prepared(self.desired)
            self.problems = tuple(self._prepared.problems)
        except FogError as error:
            self.problems = (str(error),)
        if self.problems:
            self.phase = "refused"
            self._report()
            return
        assert self._prepared is not None
        disk = self.node.disk.view(self.job)
        profile = self.node.profile
        self.host = hosting.open_host(
            self.desired,
            self._prepared.job,
            node=self.node.name,
            site=profile.site,
            tier=profile.tier,
            fleet=world.fleet,
            incarnation=self.incarnation,
            codec=self._prepared.bench,
            disk=disk,
            shelf=disk.load(),
            chunk_bytes=self.node.chunk_bytes,
        )
        self.connection = Connection(world.broker, self.node.port, self._bus_event)
        self.connection.subscribe(*hosting.inbox(self.host, world.fleet))
        self.phase = "connecting"
        self.connection.start()
        self._apply()

    def _apply(self) -> None:
        assert self.host is not None
        assert self.desired is not None
        assert self._prepared is not None
        slots = {peer.task: peer.slot for peer in self.desired.placement.tasks if peer.slot >= 0}
        self._prepared.bench.assign(slots, len(set(slots.values())))
        self.host.on_placement(self.node.world.kernel.now, self.desired)
        self._after()
        self._report(urgent=True)

    def end(self) -> None:
        """The process is gone; what becomes of its connection is another matter."""
        self.alive = False
        self._alarm.set(None)
        self._report_alarm.set(None)

    def kill(self) -> None:
        self.end()
        if self.connection is not None:
            self.connection.kill()

    def stop(self) -> None:
        self._report()
        self.kill()
        self.node.worker_exited(self, 0)

    # -- events ----------------------------------------------------------------------------

    def _bus_event(self, event: BusEvent) -> None:
        if self.node.postponed(self, lambda: self._bus_event(event)):
            return
        host = self.host
        if not self.alive or host is None:
            return
        now = self.node.world.kernel.now
        match event:
            case Received(topic, payload):
                try:
                    route = topics.parse(topic)
                except WireError:
                    return
                self.received[route.plane if route.plane in {"d2d", "cast"} else "down"] += len(payload)
                host.on_frame(now, route, payload)
            case Connected():
                host.on_connected(now)
                if self.phase == "connecting":
                    self.phase = "ready"
                    self._report(urgent=True)
            case Disconnected():
                host.on_disconnected(now)
        self._after()

    def _timer(self) -> None:
        if self.node.postponed(self, self._timer):
            return
        if self.alive and self.host is not None:
            self.host.on_timer(self.node.world.kernel.now)
            self._after()

    def _after(self) -> None:
        host = self.host
        assert host is not None
        assert self.connection is not None
        urgent = None
        for effect in host.take():
            match effect:
                case Publish(topic, payload, plane):
                    if self.connection.online:
                        self.sent[plane] += len(payload)
                        self.connection.publish(topic, payload)
                case host_effects.Compute():
                    self._ops.append(effect)
                case host_effects.Withdraw(serial):
                    for compute in [compute for compute in self._ops if compute.serial == serial]:
                        self._ops.remove(compute)
                        host.on_withdrawn(compute)
                case host_effects.Persist(record, replica):
                    self._persist(record, replica)
                case host_effects.Listen(roles):
                    wanted = hosting.casts(host, self.node.world.fleet, roles)
                    self.connection.unsubscribe(*[f for f in self._listening if f not in wanted])
                    self.connection.subscribe(*[f for f in wanted if f not in self._listening])
                    self._listening = wanted
                case host_effects.Changed(flag):
                    urgent = flag or bool(urgent)
        self._next_op()
        self._alarm.set(host.next_timer())
        if urgent:
            self._report(urgent=True)

    def _next_op(self) -> None:
        if self._busy or not self._ops:
            return
        compute = self._ops.popleft()
        self._busy = True
        prepared, host = self._prepared, self.host
        assert prepared is not None
        assert host is not None
        flops = prepared.costs.flops(compute.op, compute.numbers)
        model = self.node.model
        seconds = (model.op_overhead_s + flops / model.flops) * self.node.slowness
        self.op_seconds += seconds
        self.node.op_joules += flops * model.joules_per_flop
        try:
            inputs = {name: host.refs.value(compute.task, ref) for name, ref in compute.refs.items()}
            outputs, numbers = prepared.bench.run(compute.op, compute.task, inputs, dict(compute.numbers))
            for name, handle in compute.into.items():
                host.refs.store(compute.task, handle, outputs[name])
        except Exception as error:
            why = f"{compute.op}: {error}"
            self.node.later(seconds, self, lambda: self._op_failed(compute, why))
        else:
            self.node.later(seconds, self, lambda: self._op_done(compute, outputs, numbers))

    def _op_done(self, compute: host_effects.Compute, outputs: dict[str, Any], numbers: dict[str, float]) -> None:
        assert self.host is not None
        self._busy = False
        self.host.on_ran(self.node.world.kernel.now, compute, outputs, numbers)
        self._after()

    def _op_failed(self, compute: host_effects.Compute, why: str) -> None:
        assert self.host is not None
        self._busy = False
        self.node.world.trace("op failed", self.node.name, why)
        self.host.on_failed(self.node.world.kernel.now, compute, why)
        self._after()

    def _persist(self, record: Record, replica: bool) -> None:
        self._disk.append((record, replica))
        if len(self._disk) == 1:
            self._write()

    def _write(self) -> None:
        """The first of the queue; the disk takes one after another."""
        record, _ = self._disk[0]
        model = self.node.model
        if self.node.disk.full:
            self.problems = ("cannot save: No space left on device",)
            now = self.node.world.kernel.now
            self._refused = (self._refused[0] if self._refused else now, now + RETRY_SAVE_S)
            self.node.later(RETRY_SAVE_S, self, self._write)
            return
        size = sum(blob.size for blob in record.blobs) + len(record.machine)
        self.node.later(model.save_s + size / model.disk_bytes_s, self, self._written)

    def _written(self) -> None:
        assert self.host is not None
        record, replica = self._disk.popleft()
        self.problems, self._refused = (), None
        self.node.disk.view(self.job).write(record, replica, self.host.refs.blobs.get)
        self.node.world.saved(self.node.name, record, replica)
        self.host.on_persisted(self.node.world.kernel.now, record, replica)
        if self._disk:
            self._write()
        self._after()

    # -- reports ---------------------------------------------------------------------------

    def _report(self, urgent: bool = False) -> None:
        if not self.alive:
            return
        self._report_alarm.set(self.node.world.kernel.now + REPORT_S)
        self.node.worker_state(self, self.state(), urgent)

    def state(self) -> WorkerState:
        host, now = self.host, self.node.world.kernel.now
        seen = self.desired.history_seen if self.desired else 0
        return WorkerState(
            job=self.job,
            incarnation=self.incarnation,
            phase=self.phase,
            view=host.view if host else 0,
            problems=self.problems,
            tasks=host.task_states(now, seen) if host else (),
            replicas=host.replica_states() if host else (),
            sent=Planes(**self.sent),
            received=Planes(**self.received),
            ideal_bytes=host.mail.ideal_bytes if host else 0,
            counters={"op_seconds": self.op_seconds, **(hosting.counters_of(host) if host else {})},
            gauges={**(host.measured if host else {}), **self.node.speed()},
            waited_s=None if self._refused is None else now - self._refused[0],
            retry_s=None if self._refused is None else max(0.0, self._refused[1] - now),
        )


class SimNode:
    """An agent daemon and its workers on one machine."""

    def __init__(
        self, world: World, name: str, profile: Profile, model: NodeModel, port: Port, *, seed: int, limits: Limits, chunk_bytes: int
    ) -> None:
        self.world = world
        self.name = name
        self.profile = profile
        self.model = model
        self.port = port
        self.disk = SimDisk()
        self.workers: dict[str, SimWorker] = {}
        self.alive = False
        self.frozen_until = 0.0
        self.slowness = 1.0
        self.op_joules = 0.0
        self.chunk_bytes = chunk_bytes
        self.released = False
        self.core: AgentCore | None = None
        self.connection: Connection | None = None
        self._seed = seed
        self._boots = 0
        self._vanished: list[Connection] = []
        """Connections that the broker may still believe in."""
        self._limits = limits
        self._alarm = Alarm(world.kernel, self._timer)
        self._random = random.Random(f"{name}-{seed}")

    def _measured(self) -> Profile:
        """The profile of a node on which workers ran before."""
        speed, model = self.speed(), self.model
        watts = {"idle_w": model.idle_w, "core_w": model.joules_per_flop * speed["flops_per_second"], "byte_j": self.port.link.joules_per_byte}
        return replace(self.profile, flops=speed["flops_per_second"], op_s=speed["op_overhead_seconds"], **watts)

    def speed(self) -> dict[str, float]:
        """What a worker here would measure."""
        return {"flops_per_second": self.model.flops / self.slowness, "op_overhead_seconds": self.model.op_overhead_s * self.slowness}

    # -- faults ----------------------------------------------------------------------------

    def boot(self) -> None:
        if self.alive:
            return
        self._boots += 1
        self.alive, self.released, self.frozen_until = True, False, 0.0
        for connection in self._vanished:
            self.world.broker.drop(connection, "its client is back", with_will=True)
        self._vanished.clear()
        nonce = f"{self.name}-{self._boots}"
        now = self.world.kernel.now
        self.core = AgentCore(self.name, nonce, self._measured(), self._limits, self.disk.incarnations, self._random.randrange(1 << 30), now)
        presence = topics.PRESENCE.at(fleet=self.world.fleet, node=self.name)
        gone = Will(topic=presence, payload=messages.encode(Presence(self.name, nonce, online=False)))
        self.connection = Connection(self.world.broker, self.port, self._bus_event, will=gone)
        self.connection.subscribe(*topics.inbox_filters(self.world.fleet, self.profile.site, self.name, topics.CONTROL), presence)
        self.connection.start()

    def power_loss(self, silent: bool = True) -> None:
        """All processes gone at once; the disk stays. Not silent: the machine goes on, and its kernel tells the broker."""
        if not self.alive:
            return
        self.alive = False
        self._alarm.set(None)
        gone = [self.connection, *(worker.connection for worker in self.workers.values())]
        for worker in list(self.workers.values()):
            worker.end()
        self.workers.clear()
        for connection in [each for each in gone if each is not None]:
            if silent:
                connection.vanish()
                self._vanished.append(connection)
            else:
                connection.kill()

    def kill_worker(self) -> None:
        for worker in list(self.workers.values()):
            worker.kill()
            self.worker_exited(worker, -9)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP for a while. The broker drops the connections when their keepalive ends."""
        self.frozen_until = max(self.frozen_until, self.world.kernel.now + seconds)
        if seconds > KEEPALIVE_S:
            for connection in [c for c in self.world.broker.connections if c.port is self.port]:
                self.world.kernel.after(KEEPALIVE_S, lambda connection=connection: self.world.broker.drop(connection, "keepalive", with_will=True))  # type: ignore[misc]

    def stop(self) -> None:
        """SIGTERM."""
        if self.alive and self.core is not None:
            self.core.on_stop(self.world.kernel.now)
            self._after()

    def restart(self) -> None:
        """Its service starts again; what still runs is ended first."""
        self.power_loss(silent=False)
        self.boot()

    # -- time ------------------------------------------------------------------------------

    def postponed(self, worker: SimWorker | None, action: Callable[[], None]) -> bool:
        """True if the node is frozen: `action` comes when it wakes."""
        now, life = self.world.kernel.now, self._boots
        if now >= self.frozen_until:
            return False
        self.world.kernel.at(self.frozen_until, lambda: action() if (worker.alive if worker else self.alive and self._boots == life) else None)
        return True

    def later(self, seconds: float, worker: SimWorker, action: Callable[[], None]) -> None:
        def run() -> None:
            if worker.alive and not self.postponed(worker, run):
                action()

        self.world.kernel.after(seconds, run)

    # -- daemon ----------------------------------------------------------------------------

    def _bus_event(self, event: BusEvent) -> None:
        if self.postponed(None, lambda: self._bus_event(event)):
            return
        core = self.core
        if not self.alive or core is None:
            return
        now = self.world.kernel.now
        match event:
            case Received(topic, payload):
                try:
                    route = topics.parse(topic)
                    core.on_message(messages.decode(payload), route.sender, now)
                except WireError:
                    return
            case Connected():
                core.on_connected(now)
            case Disconnected(why):
                core.on_disconnected(now, why)
        self._after()

    def _timer(self) -> None:
        if self.postponed(None, self._timer):
            return
        if self.alive and self.core is not None:
            self.core.on_timer(self.world.kernel.now)
            self._after()

    def joules(self) -> float:
        """Modelled, since the simulation began: idle power, ops, and bytes on the link."""
        radio = self.port.joules + (self.port.local.joules if self.port.local is not None else 0.0)
        return self.model.idle_w * self.world.kernel.now + self.op_joules + radio

    def worker_state(self, worker: SimWorker, state: WorkerState, urgent: bool) -> None:
        if self.core is not None and self.alive:
            self.core.on_measured(Sample(energy_j={"modelled": self.joules()}))
            self.core.on_worker_state(worker.job, state, urgent, self.world.kernel.now)
            self._after()

    def worker_exited(self, worker: SimWorker, code: int) -> None:
        if self.workers.get(worker.job) is worker:
            del self.workers[worker.job]
        if self.core is not None and self.alive:
            self.core.on_worker_exited(worker.job, worker.incarnation, code, self.world.kernel.now)
            self._after()

    def _after(self) -> None:
        core, connection = self.core, self.connection
        assert core is not None
        assert connection is not None
        for effect in core.take():
            match effect:
                case agent_effects.SaveIncarnation(job, incarnation):
                    self.disk.incarnations[job] = incarnation
                case agent_effects.StartWorker(job, incarnation):
                    self.workers[job] = SimWorker(self, job, incarnation)
                case agent_effects.AssignWorker(job, desired):
                    if job in self.workers:
                        self.workers[job].assign(desired)
                case agent_effects.StopWorker(job) | agent_effects.KillWorker(job):
                    if job in self.workers:
                        worker = self.workers[job]
                        self.world.kernel.after(0.0, lambda worker=worker: worker.stop() if worker.alive else None)  # type: ignore[misc]
                case agent_effects.Forget(job):
                    for table in (self.disk.blobs, self.disk.records, self.disk.incarnations):
                        table.pop(job, None)
                case agent_effects.Publish(message):
                    connection.publish(topics.to_coordinator(self.world.fleet, self.name), messages.encode(message), 1)
                case agent_effects.ShowPresence(presence):
                    topic = topics.PRESENCE.at(fleet=self.world.fleet, node=self.name)
                    connection.publish(topic, messages.encode(presence), 1, retain=True)
                case agent_effects.ProbeLink(probe):
                    site = self.profile.site
                    topic = topics.inbox(self.world.fleet, site, self.name, self.name, site, topics.CONTROL)
                    connection.publish(topic, messages.encode(probe))
                case agent_effects.Say(text, warning):
                    self.world.trace("warning" if warning else "agent", self.name, text)
                case agent_effects.Exit():
                    self.released = True
                    self.alive = False
                    connection.close()
                    for worker in list(self.workers.values()):
                        worker.kill()
                    self.workers.clear()
        if self.alive:
            self._alarm.set(core.next_timer())
