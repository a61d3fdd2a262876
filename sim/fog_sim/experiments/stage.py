"""A job on a given placement, in virtual time: the real hosts, transfer, machines and ops; modelled links and nodes.

There is neither coordinator nor agent, because no node fails and the tree or star must be exactly the paper's. Each node has up to
two interfaces: one inside its site (`d2d` topics) and one for all other messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from fog_agent.supervisor import AgentLimits
from fog_common.errors import ConfigError, JobFailed, TimedOut
from fog_common.ids import COORDINATOR
from fog_common.runtime.machine import Peer, RoundRecord
from fog_common.runtime.saves import Record
from fog_common.wire.messages import DesiredJob, Placement, Profile, TaskState
from fog_learning.job.reading import job_from
from fog_learning.methods import resolve_method
from fog_sim.costs import OpenBackend
from fog_sim.kernel import Kernel
from fog_sim.links import WIRED, LinkModel, NodeModel
from fog_sim.network import Connection, Lane, Port, SimBroker
from fog_sim.node import SimNode
from fog_sim.worker import SharedBackend, SimWorker

CLOUD = NodeModel(flops=50e9, disk_bytes_s=200e6)


class StageTask(Struct, frozen=True):
    """A seat of the stage: one node per task."""

    name: str
    role: str
    slot: int = -1
    parent: str = ""
    tier: str = "edge"
    site: str = "home"


class Moved(Struct, frozen=True):
    """Bytes through one interface of a node: payloads, topics and frame headers, including acknowledgements."""

    sent: int = 0
    received: int = 0

    @property
    def total(self) -> int:
        return self.sent + self.received


class StageBroker(SimBroker):
    """Drops messages to the coordinator, which does not exist."""

    def publish(self, sender: Connection, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        if f"/{COORDINATOR}/" not in topic:
            super().publish(sender, topic, payload, qos, retain)


class Finished(Struct, frozen=True):
    """Results of one run."""

    history: tuple[RoundRecord, ...]
    virtual_s: float
    """Modelled seconds from the first message of the job to the root's end."""
    far: dict[str, Moved]
    """Node -> bytes through its interface to other sites."""
    near: dict[str, Moved]
    """Node -> bytes through its interface inside its site."""
    op_joules: dict[str, float]
    sent: dict[str, int]
    """Published payload bytes by plane: up, down, d2d, cast (a cast counts once)."""
    ideal_bytes: int
    """Bytes of tensors alone, each counted once per message or cast."""
    ideal_cast_bytes: int
    """Part of `ideal_bytes` that casts carried."""

    def accuracy(self) -> float:
        return float(self.history[-1].numbers["accuracy"])


class Stage:
    """A job on a given placement. links: (far, near or None) of a task's node; model: of its node; redraw_s: seconds between two draws of the
    nodes' speeds from [1 - spread, 1 + spread]; 0: the model's speeds."""

    fleet = "stage"

    def __init__(
        self,
        spec: dict[str, Any],
        tasks: Sequence[StageTask],
        *,
        links: Callable[[StageTask], tuple[LinkModel, LinkModel | None]] = lambda task: (WIRED, None),
        model: Callable[[StageTask], NodeModel] = lambda task: CLOUD if task.tier == "cloud" else NodeModel(),
        backend: OpenBackend | None = None,
        seed: int = 0,
        redraw_s: float = 0.0,
        spread: float = 0.0,
    ) -> None:
        import random

        self.kernel = Kernel()
        self.broker: SimBroker = StageBroker(self.kernel, seed)
        self.job = job_from(spec, "the experiment's job")
        if backend is None:
            from fog_sim.experiments.backend import on_cpu

            backend = on_cpu
        self.spec, self._backend, self._tasks = spec, backend, tuple(tasks)
        self._random, self._redraw_s, self._spread = random.Random(f"stage-{seed}"), redraw_s, spread
        method, _ = resolve_method(self.job)
        self.root = next(task.name for task in tasks if task.role == method.root)
        self._prepared: SharedBackend | None = None
        self._closed: list[RoundRecord] = []
        self.nodes: dict[str, SimNode] = {}
        self.workers: dict[str, SimWorker] = {}
        for task in self._tasks:
            profile = Profile(tier=task.tier, site=task.site, cores=4, memory_bytes=4 << 30, memory_free_bytes=4 << 30, torch=True)
            port = Port(*links(task), task.site)
            node = SimNode(self, task.name, profile, model(task), port, seed=seed, limits=AgentLimits(), chunk_bytes=256 * 1024)
            self.nodes[task.name] = node
            self.workers[task.name] = node.workers[self.job.name] = SimWorker(node, self.job.name, 1)

    # -- for nodes (fog_sim.worker.World) ----------------------------------------------------

    def prepared(self, desired: DesiredJob) -> SharedBackend:
        if self._prepared is None:
            roster = {task.name: task.slot for task in self._tasks if task.slot >= 0}
            self._prepared = SharedBackend(self.job, *self._backend(self.job, roster, len(set(roster.values()))))
        return self._prepared

    def saved(self, node: str, record: Record, replica: bool) -> None:
        return None

    def trace(self, what: str, node: str, text: str) -> None:
        if what == "op failed":
            raise JobFailed(f"{node}: {text}")

    # -- the run ---------------------------------------------------------------------------

    def run(self, limit_s: float = 1e6, done: Callable[[tuple[RoundRecord, ...]], bool] = lambda history: False) -> Finished:
        """Run until the root has finished, or done(history) is true. JobFailed with the root's reason, ConfigError with the workers' problems,
        TimedOut after limit_s virtual seconds."""
        self._place(1, live=False)
        self._until(60.0, lambda: all(worker.core.phase in ("ready", "refused") for worker in self.workers.values()))
        if problems := sorted({problem for worker in self.workers.values() for problem in worker.core.problems}):
            raise ConfigError("; ".join(problems))
        began = self.kernel.now
        if self._redraw_s:
            self._redraw()
        self._place(2, live=True)
        state = self._state()

        def ended() -> bool:
            nonlocal state
            state = self._state()
            return state.finished or done(tuple(self._closed))

        if not self._until(limit_s, ended):
            raise TimedOut(f"{self.job.name} is in round {state.round} after {limit_s:g} simulated seconds; it waits for {state.waiting}")
        if state.why:
            raise JobFailed(state.why)
        workers = self.workers.values()
        return Finished(
            history=tuple(self._closed),
            virtual_s=self.kernel.now - began,
            far={name: _moved(node.port) for name, node in self.nodes.items()},
            near={name: _moved(node.port.local) for name, node in self.nodes.items()},
            op_joules={name: node.op_joules for name, node in self.nodes.items()},
            sent={plane: sum(worker.core.sent[plane] for worker in workers) for plane in ("up", "down", "d2d", "cast")},
            ideal_bytes=sum(worker.core.host.mail.ideal_bytes for worker in workers if worker.core.host is not None),
            ideal_cast_bytes=sum(worker.core.host.mail.ideal_cast_bytes for worker in workers if worker.core.host is not None),
        )

    def _until(self, limit_s: float, reached: Callable[[], bool]) -> bool:
        until, step = self.kernel.now + limit_s, 0.05
        while not reached():
            if self.kernel.now >= until or not self.kernel.pending:
                return False
            self.kernel.run(min(until, self.kernel.now + step))
            step = min(1.0, step * 1.5)
        return True

    def _state(self) -> TaskState:
        """The root's state, after its closed rounds were taken over."""
        host = self.workers[self.root].core.host
        assert host is not None
        while True:
            state = next((state for state in host.task_states(self.kernel.now) if state.task == self.root), TaskState(self.root, 0))
            if not state.history:
                return state
            self._closed += state.history
            host.on_history_seen(state.history[-1].round)

    def _place(self, view: int, live: bool) -> None:
        peers = tuple(Peer(task.name, task.role, task.slot, task.name, task.site, task.tier, int(live), view, task.parent) for task in self._tasks)
        desired = DesiredJob(self.job.name, self.spec, Placement(self.job.name, view, self.root, peers))
        for worker in self.workers.values():
            worker.assign(desired)

    def _redraw(self) -> None:
        for task in self._tasks:
            if task.slot >= 0:
                self.nodes[task.name].slowness = 1.0 / (1.0 + self._spread * self._random.uniform(-1.0, 1.0))
        self.kernel.after(self._redraw_s, self._redraw)


def _moved(lane: Lane | None) -> Moved:
    return Moved() if lane is None else Moved(lane.sent_bytes, lane.received_bytes)


def star(spec: dict[str, Any], nodes: int) -> list[StageTask]:
    """Tasks of a star: the method's root in the cloud, and its data roles on each of `nodes` nodes of one site."""
    method, _ = resolve_method(job_from(spec, "the experiment's job"))
    root = method.root
    data = [role for role in method.roles if role.bound == "slot"]
    tasks = [StageTask(root, root, tier="cloud", site="cloud")]
    return tasks + [StageTask(f"{role.name}-{slot}", role.name, slot, root) for role in data for slot in range(nodes)]
