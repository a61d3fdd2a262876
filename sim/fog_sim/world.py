"""A whole fleet in virtual time: the real cores of agents, coordinator and workers; modelled machines and links."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final, TextIO

import msgspec
from msgspec.structs import asdict

from fog_agent.supervisor import AgentLimits
from fog_common.errors import ConfigError
from fog_common.ids import CLOUD_SITE
from fog_common.runtime.saves import Record
from fog_common.wire.api.shown import shown
from fog_common.wire.api.states import ENDED
from fog_common.wire.api.verbs import ReadJob
from fog_common.wire.messages import DesiredJob, Profile
from fog_learning.job.reading import job_from
from fog_sim.coordinator import SimCoordinator
from fog_sim.costs import OpenBackend
from fog_sim.faults import Fault, Schedule
from fog_sim.kernel import Kernel
from fog_sim.links import WIRED, Fleet, LinkModel, NodeModel, Station
from fog_sim.network import Lane, Port, SimBroker
from fog_sim.node import SimNode
from fog_sim.shape import NodePlace, uniform
from fog_sim.worker import SharedBackend

NO_NODE: Final = {"kill_coordinator", "restart_broker", "cut_site", "clock_ahead", "clock_behind", "join"}
"""Kinds of faults without a node of the simulation."""


class Simulation:
    """See the module text. All times are virtual seconds."""

    def __init__(
        self,
        nodes: int | Sequence[NodePlace],
        fleet: Fleet,
        backend: OpenBackend,
        *,
        seed: int = 0,
        chunk_bytes: int = 256 * 1024,
        trace: TextIO | None = None,
        heartbeat_s: float = 5.0,
        tiers: Callable[[int], tuple[str, str]] = lambda index: ("edge", "home"),
    ) -> None:
        """nodes: their number, or the place of each; cloud-1 is always added. backend: opens the op backend of a job. trace: gets the event
        log as JSON lines. tiers: (tier, site) of each node, if nodes is a number."""
        self.kernel = Kernel()
        self.fleet = "sim"
        self.links = fleet
        self.broker = SimBroker(self.kernel, seed)
        self.seed = seed
        self.digest = hashlib.blake2b(digest_size=16)
        """Digest of the whole event log, equal for two runs with the same seed."""
        self._trace = trace
        self.broker.on_message = self._message
        self.on_saved: Callable[[str, Record, bool], None] = lambda node, record, replica: None
        """Called for every Save on a disk: (node, record, whether it is a copy)."""
        self._backend = backend
        self._prepared: dict[str, SharedBackend] = {}
        self._specs: dict[str, dict[str, Any]] = {}
        self.coordinator = SimCoordinator(self)
        rng = random.Random(f"fleet-{seed}")
        self.nodes: dict[str, SimNode] = {}
        self._limits = AgentLimits(heartbeat_s=heartbeat_s, probe_bytes=16 * 1024)
        self._chunk_bytes = chunk_bytes
        cloud = Profile(tier="cloud", site="cloud", cores=8, memory_bytes=16 << 30, memory_free_bytes=16 << 30, torch=True)
        self._add("cloud-1", cloud, fleet.cloud, fleet.cloud_link or WIRED)
        where = [NodePlace(place.name, *tiers(index)) for index, place in enumerate(uniform(nodes))] if isinstance(nodes, int) else nodes
        for place in where:
            self._place(place, rng)
        self.coordinator.boot()
        for node in self.nodes.values():
            self.kernel.at(rng.uniform(0.0, 0.5), node.boot)

    def _place(self, place: NodePlace, rng: random.Random) -> None:
        """Add a node with the fleet's models, drawn from their spread."""
        fleet = self.links
        drawn = 1.0 + fleet.spread * rng.uniform(-1.0, 1.0)
        own = fleet.tiers.get(place.tier, Station())  # type: ignore[call-overload]
        link, d2d = _scaled(own.link or fleet.link, drawn), own.d2d or fleet.d2d
        profile = Profile(
            tier=place.tier,
            site=place.site,
            cores=4,
            memory_bytes=4 << 30,
            memory_free_bytes=4 << 30,
            torch=True,
            **asdict(link.facts()),
        )
        local = _scaled(d2d, drawn) if d2d is not None and place.site != CLOUD_SITE else None
        if local is not None and fleet.bridge is not None and place.site not in self.broker.bridges:
            self.broker.bridges[place.site] = Lane(fleet.bridge)
        self._add(place.name, profile, own.node or fleet.node, link, local)
        self.nodes[place.name].slowness = 1.0 / (1.0 + fleet.spread * rng.uniform(-1.0, 1.0))

    def _add(self, name: str, profile: Profile, model: NodeModel, link: LinkModel, local: LinkModel | None = None) -> None:
        port = Port(link, local, profile.site)
        self.nodes[name] = SimNode(self, name, profile, model, port, seed=self.seed, limits=self._limits, chunk_bytes=self._chunk_bytes)

    # -- for nodes -------------------------------------------------------------------------

    def prepared(self, desired: DesiredJob) -> SharedBackend:
        if desired.job not in self._prepared or self._specs[desired.job] != desired.spec:  # placement may have chosen another cut
            self._specs[desired.job] = desired.spec
            job = job_from(desired.spec, f"job {desired.job}")
            roster = {peer.task: peer.slot for peer in desired.placement.tasks if peer.slot >= 0}
            self._prepared[desired.job] = SharedBackend(job, *self._backend(job, roster, len(set(roster.values()))))
        return self._prepared[desired.job]

    def saved(self, node: str, record: Record, replica: bool) -> None:
        self.trace("copy" if replica else "save", node, f"{record.task} {record.label} {zlib.crc32(record.machine):08x}")
        self.on_saved(node, record, replica)

    def _message(self, topic: str, payload: bytes) -> None:
        self.trace("message", topic, f"{len(payload)} B {zlib.crc32(payload):08x}")

    def trace(self, what: str, node: str, text: str) -> None:
        line = json.dumps({"t": round(self.kernel.now, 6), "what": what, "node": node, "text": text})
        self.digest.update(line.encode())
        if self._trace is not None:
            self._trace.write(line + "\n")

    # -- for people ------------------------------------------------------------------------

    def submit(self, spec: dict[str, Any], after_s: float = 3.0) -> str:
        """Wait until the fleet is up, then submit a job file; returns the job's id. ConfigError with the coordinator's answer."""
        self.kernel.run(self.kernel.now + after_s)
        reply = self.coordinator.request("job.submit", spec=spec)
        if reply.exit_code:
            raise ConfigError(reply.error)
        return str(reply.body["job"])

    def inject(self, schedule: Schedule) -> None:
        """Plan the faults, counted from now. ConfigError for a node that neither exists nor joins."""
        known = {*self.nodes, *(fault.node for fault in schedule.faults if fault.kind == "join")}
        for fault in schedule.faults:
            if fault.kind not in NO_NODE and fault.node not in known:
                raise ConfigError(f"fault {fault.kind} at {fault.at:g} s: no node {fault.node!r}; there are {', '.join(sorted(known))}")
            self.kernel.after(fault.at, lambda fault=fault: self._fault(fault))  # type: ignore[misc]

    def _fault(self, fault: Fault) -> None:
        self.trace("fault", fault.node, f"{fault.kind} {fault.seconds:g}")
        node = self.nodes.get(fault.node)
        back = self.kernel.after
        match fault.kind:
            case "kill_coordinator":
                self.coordinator.kill()
                back(fault.seconds, lambda: None if self.coordinator.alive else self.coordinator.boot())
            case "restart_broker":
                self.broker.restart(fault.seconds)
            case "cut_site":
                if fault.node not in {each.port.site for each in self.nodes.values() if each.port.site}:
                    raise ConfigError(f"fault cut_site at {fault.at:g} s: no site {fault.node!r} with a broker of its own; links need `d2d`")
                self.broker.sever(fault.node, fault.seconds)
            case "clock_ahead" | "clock_behind":
                pass  # the simulation has no wall clock
            case "join":
                self._join(fault.node)
            case _ if node is None:
                raise ConfigError(f"fault {fault.kind} at {fault.at:g} s: no node {fault.node!r}; there are {', '.join(self.nodes)}")
            case "kill_worker":
                node.kill_worker()
            case "kill_agent" | "power_loss":
                node.power_loss(silent=fault.kind == "power_loss")
                back(fault.seconds, node.boot)
            case "stop":
                node.stop()
                back(fault.seconds, node.restart)
            case "leave":
                node.stop()
            case "freeze":
                node.freeze(fault.seconds)
            case "cut":
                self.broker.cut(node.port, fault.seconds)
            case "black_hole":
                self.broker.black_hole(node.port, fault.seconds)
            case "half_open":
                self.broker.half_open(node.port, fault.seconds)
            case "reset":
                self.broker.reset(node.port)
            case "slow":
                self.broker.slow(node.port, fault.seconds)
            case "drain":
                self._drain(fault.node, fault.seconds)
            case "disk_full":
                node.disk.full = True
                back(fault.seconds, lambda: setattr(node.disk, "full", False))

    def _join(self, name: str) -> None:
        if name not in self.nodes:
            self._place(NodePlace(name, "edge", "home"), random.Random(f"{name}-{self.seed}"))
        self.nodes[name].boot()

    def _drain(self, node: str, seconds: float, undo: bool = False) -> None:
        """Drain a node as soon as the coordinator is alive, and undo it `seconds` later."""
        if not self.coordinator.alive:
            self.kernel.after(1.0, lambda: self._drain(node, seconds, undo))
            return
        self.coordinator.request("node.drain", node=node, undo=undo)
        if not undo:
            self.kernel.after(seconds, lambda: self._drain(node, seconds, undo=True))

    def status(self, job: str) -> dict[str, Any]:
        """The job's STATUS as fogctl prints it."""
        return shown(self.coordinator.ask(ReadJob(job)))

    def run(self, job: str, limit_s: float, look: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Run until the job has ended, or limit_s virtual seconds have passed; returns its STATUS. look: called every virtual second."""
        until = self.kernel.now + limit_s
        while self.kernel.now < until:
            self.kernel.run(min(until, self.kernel.now + 1.0))
            look()
            if self.kernel.now < until and not self.kernel.pending:
                break
            if self.coordinator.alive and self.coordinator.core is not None and self._ended(job):
                break
        return self.status(job)

    def _ended(self, job: str) -> bool:
        return self.coordinator.ask(ReadJob(job)).state in ENDED


def _scaled(link: LinkModel, factor: float) -> LinkModel:
    return msgspec.structs.replace(link, up_bytes_s=link.up_bytes_s * factor, down_bytes_s=link.down_bytes_s * factor)
