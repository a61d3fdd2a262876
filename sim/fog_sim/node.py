"""A node in virtual time: the real AgentCore and its workers' cores; processes, disk and ops are modelled (ops compute for real)."""

from __future__ import annotations

import random
from collections.abc import Callable

from msgspec.structs import replace

from fog_agent import effects as agent_effects
from fog_agent.core import AgentCore, Sample
from fog_agent.supervisor import AgentLimits
from fog_common.bus.base import BusEvent, Connected, Disconnected, Received, Will
from fog_common.errors import WireError
from fog_common.wire import messages, topics
from fog_common.wire.messages import Presence, Profile, WorkerState
from fog_common.wire.parts import ControlCodec
from fog_sim.disk import SimDisk
from fog_sim.faults import KEEPALIVE_S
from fog_sim.kernel import Wakeup
from fog_sim.links import NodeModel
from fog_sim.network import Connection, Port
from fog_sim.worker import SimWorker, World


class SimNode:
    """An agent daemon and its workers on one machine."""

    def __init__(
        self, world: World, name: str, profile: Profile, model: NodeModel, port: Port, *, seed: int, limits: AgentLimits, chunk_bytes: int
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
        self._boots = 0
        self._codec = ControlCodec(name)
        self._vanished: list[Connection] = []
        """Connections that the broker may still believe in."""
        self._limits = limits
        self._alarm = Wakeup(world.kernel, self._timer)
        self._random = random.Random(f"{name}-{seed}")

    def _measured(self) -> Profile:
        """The profile of a node on which workers ran before."""
        speed, model = self.speed(), self.model
        watts = {"idle_w": model.idle_w, "core_w": model.joules_per_flop * speed["flops_per_second"], "byte_j": self.port.link.facts().byte_j}
        return replace(self.profile, flops=speed["flops_per_second"], op_s=speed["op_overhead_seconds"], **watts)

    def speed(self) -> dict[str, float]:
        """Speed that a worker on this node would measure: FLOP/s and seconds of an op's overhead."""
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
        self._codec = ControlCodec(nonce)
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
                    message = self._codec.message(route.sender, route.kind, payload)
                except WireError:
                    return
                if message is not None:
                    core.on_message(message, route.sender, now)
            case Connected(max_payload):
                self._codec.connected(max_payload)
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
                case agent_effects.Speak(message):
                    for payload in self._codec.payloads(message):
                        connection.publish(topics.to_coordinator(self.world.fleet, self.name), payload, 1)
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
