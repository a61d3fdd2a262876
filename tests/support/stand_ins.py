"""Agents without processes, and a coordinator's core between them, in virtual time: what tests of the coordinator drive."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fog_common.runtime.machine import RoundRecord
from fog_common.wire.api.shown import shown
from fog_common.wire.api.verbs import Body, Question
from fog_common.wire.messages import (
    Announce,
    Control,
    Desired,
    DesiredJob,
    Goodbye,
    Heartbeat,
    Identify,
    Placement,
    Planes,
    Presence,
    Profile,
    ReplicaState,
    Reply,
    Request,
    TaskState,
    WorkerState,
)
from fog_coordinator.core import Core
from fog_coordinator.reading import verbs
from fog_coordinator.state.book import Check
from fog_coordinator.state.effects import Answer, Effect, JournalRecord, SendResult, Tables, Tell
from fog_coordinator.state.jobs import decode_job
from fog_coordinator.state.rules import Rules

SPEC: dict[str, Any] = {"name": "digits", "method": {"name": "fedavg"}, "model": {"name": "mlp"}, "train": {"rounds": 6}}
BOOT_S = 0.5


@dataclass
class StandIn:
    """One node: its agent, and workers that only say what they would do. Saves on its disk survive kill()."""

    name: str
    tier: str = "edge"
    site: str = "home"
    problems: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """job -> what its preflight finds here"""
    busy: bool = False
    """Its tasks are at something all the time."""
    up: bool = False
    boots: int = 0
    born: float = 0.0
    desired: int = 0
    draining: bool = False
    released: bool = False
    jobs: dict[str, DesiredJob] = field(default_factory=dict)
    started: dict[str, tuple[int, float]] = field(default_factory=dict)
    """job -> (incarnation of its worker, when it began)"""
    incarnations: dict[str, int] = field(default_factory=dict)
    disk: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """job -> task -> labels"""
    coordinator: str = ""
    old_coordinators: list[str] = field(default_factory=list)

    @property
    def nonce(self) -> str:
        return f"{self.name}-{self.boots}"

    @property
    def profile(self) -> Profile:
        return Profile(tier=self.tier, site=self.site, cores=4, memory_bytes=1 << 30, memory_free_bytes=1 << 29, torch=True)

    def boot(self, now: float) -> list[Control]:
        self.up, self.born, self.desired = True, now, 0
        self.boots += 1
        self.draining = self.released = False
        self.jobs, self.started, self.coordinator = {}, {}, ""
        return [Presence(self.name, self.nonce, True), Announce(self.name, self.nonce, self.profile), self.heartbeat(now)]

    def kill(self) -> Presence:
        """The will that the broker publishes some time later."""
        self.up = False
        return Presence(self.name, self.nonce, False)

    def goodbye(self) -> Goodbye:
        self.draining = True
        return Goodbye(self.name, self.nonce)

    def hear(self, now: float, message: Control) -> list[Control]:
        if not self.up:
            return []
        if isinstance(message, Identify):
            return [Announce(self.name, self.nonce, self.profile), self.heartbeat(now)]
        if not isinstance(message, Desired) or message.nonce in self.old_coordinators:
            return []
        if message.nonce != self.coordinator:
            self.old_coordinators.append(self.coordinator)
            self.coordinator, self.desired = message.nonce, 0
        if message.number < self.desired:
            return []
        self.desired = message.number
        self.released = message.release
        wanted = {job.job: job for job in message.jobs}
        for name in [name for name in self.jobs if name not in wanted]:
            del self.jobs[name]
            self.started.pop(name, None)
        for name, job in wanted.items():
            known = self.jobs.get(name)
            if known is None or job.placement.view >= known.placement.view:
                self.jobs[name] = job
            if name not in self.started and not self.draining:
                self.restart_worker(now, name)
        return [self.heartbeat(now)]

    def restart_worker(self, now: float, job: str) -> None:
        self.incarnations[job] = max(self.incarnations.get(job, 0) + 1, self.jobs[job].floor)
        self.started[job] = (self.incarnations[job], now)

    def ready(self, now: float, job: str) -> bool:
        return self.up and job in self.started and now - self.started[job][1] >= BOOT_S and job not in self.problems

    def tasks(self, job: str) -> list[str]:
        """Tasks that run here now."""
        placement = self.jobs[job].placement
        return [peer.task for peer in placement.tasks if peer.node == self.name and peer.incarnation == self.started[job][0]]

    def heartbeat(self, now: float) -> Heartbeat:
        workers = []
        for name, (incarnation, began) in self.started.items():
            if now - began < BOOT_S:
                workers.append(WorkerState(name, incarnation, "starting"))
            elif name in self.problems:
                workers.append(WorkerState(name, incarnation, "refused", problems=self.problems[name]))
            else:
                workers.append(self._worker(name, incarnation))
        return Heartbeat(self.name, self.nonce, self.desired, tuple(workers), draining=self.draining, uptime_s=now - self.born)

    def _worker(self, name: str, incarnation: int) -> WorkerState:
        desired, disk = self.jobs[name], self.disk.setdefault(name, {})
        placement, here = desired.placement, self.tasks(name)
        states, replicas = [], []
        for task in here:
            labels = disk.get(task, [])
            peer = next(peer for peer in placement.tasks if peer.task == task)
            history: tuple[RoundRecord, ...] = ()
            if task == placement.root:
                rounds = range(desired.history_seen + 1, (labels[-1] if labels else 0) + 1)
                history = tuple(RoundRecord(n, closed_at=float(n), updates=1, examples=10, numbers={"accuracy": n / 100}) for n in rounds)
            states.append(TaskState(task, peer.since, tuple(labels[-2:]), round=(labels[-1] if labels else 0) + 1, history=history, busy=self.busy))
        for task, labels in disk.items():
            if task not in here and labels:
                replicas.append(ReplicaState(task, tuple(labels[-2:])))
        sent = Planes(up=100 * sum(len(labels) for labels in disk.values()))
        return WorkerState(name, incarnation, "ready", placement.view, (), tuple(states), tuple(replicas), sent=sent)


class World:
    """Nodes, one core, its journal, and messages on their way. `now` moves only in run() and step()."""

    def __init__(self, *nodes: StandIn, rules: Rules = Rules(), seed: int = 0, check: Check | None = None, boot: bool = True) -> None:
        self.rules, self.check = rules, check
        self.random = random.Random(seed)
        self.now = 0.0
        self.nodes = {node.name: node for node in nodes}
        self.rows: dict[str, dict[tuple[str | int, ...], bytes]] = {}
        self.flying: list[tuple[float, str, Control]] = []
        """(when it arrives, node or '' for the core, message)"""
        self.delay_s = 0.01
        self.told: list[tuple[str, Placement]] = []
        self.effects: list[Effect] = []
        self.replies: list[Reply] = []
        self.results: list[SendResult] = []
        self.starts = 0
        self.core: Core | None = None
        self.cut_after: int | None = None
        """The coordinator dies after so many more effects."""
        self._beat_at = 0.0
        self._asked = 0
        self.start_core()
        if boot:
            for node in nodes:
                self.boot(node.name)

    # -- the coordinator ---------------------------------------------------------------------

    @property
    def tables(self) -> Tables:
        return {table: sorted(rows.items()) for table, rows in self.rows.items()}

    def start_core(self) -> None:
        self.starts += 1
        self.core = Core(f"c{self.starts}", self.tables, self.rules, self.check)
        self.core.on_connected(self.now)
        for node in self.nodes.values():  # retained
            if node.boots:
                self.core.on_presence(self.now, Presence(node.name, node.nonce, node.up))
        self.perform()

    def kill_core(self) -> None:
        self.core = None

    def perform(self) -> None:
        """Effects in order, as a shell would; the journal is durable at each Record, the rest may be lost."""
        if self.core is None:
            return
        for effect in self.core.take():
            if self.cut_after is not None:
                self.cut_after -= 1
                if self.cut_after < 0:
                    self.cut_after = None
                    self.kill_core()
                    return
            self.effects.append(effect)
            match effect:
                case JournalRecord(rows):
                    for row in rows:
                        table = self.rows.setdefault(row.table, {})
                        if row.body is None:
                            for key in [key for key in table if key[: len(row.key)] == row.key]:
                                del table[key]
                        else:
                            table[row.key] = row.body
                case Tell(node, _, message):
                    self.check_tell(node, message)
                    if node in self.nodes:
                        self.fly(node, message)
                case Answer(_, _, reply):
                    self.replies.append(reply)
                case SendResult():
                    self.results.append(effect)

    def check_tell(self, node: str, message: Control) -> None:
        """Nobody hears of a view that is not in the journal."""
        if isinstance(message, Desired):
            for job in message.jobs:
                row = decode_job(self.rows["jobs"][job.job,])
                assert job.placement.view <= row.view, f"{node} hears of view {job.placement.view}, the journal has {row.view}"
                self.told.append((node, job.placement))

    def ask(self, verb: str, **arguments: Any) -> Reply:
        """The reply, its body as the JSON that fogctl prints."""
        reply = self._answer(verb, arguments)
        return Reply(reply.id, shown(reply.body) if reply.body is not None else {}, reply.exit_code, reply.error)

    def look(self, question: Question[Body]) -> Body:
        """The answer to a question that is not refused, as fogctl decodes it."""
        reply = self._answer(question.verb, msgspec.to_builtins(question))
        assert not reply.exit_code, reply.error
        return msgspec.msgpack.decode(msgspec.msgpack.encode(reply.body), type=question.body)  # type: ignore[return-value]

    def _answer(self, verb: str, arguments: dict[str, Any]) -> Reply:
        assert self.core is not None
        self._asked += 1
        verbs.answer(self.core, self.now, "operator", f"s{self._asked}", Request(f"r{self._asked}", verb, arguments))
        cut, self.cut_after = self.cut_after, None
        self.perform()
        self.cut_after = cut
        return self.replies[-1]

    def body(self, verb: str, **arguments: Any) -> dict[str, Any]:
        reply = self.ask(verb, **arguments)
        assert not reply.exit_code, reply.error
        return reply.body

    def submit(self, **changes: Any) -> str:
        return str(self.body("job.submit", spec={**SPEC, **changes})["job"])

    def status(self, job: str = "digits") -> dict[str, Any]:
        return self.body("job.status", job=job)

    def live(self, job: str = "digits") -> dict[str, str]:
        """task -> node, of the live ones in the table."""
        return {task["task"]: task["node"] for task in self.status(job)["tasks"] if task["live"]}

    # -- nodes -------------------------------------------------------------------------------

    def boot(self, name: str) -> None:
        for message in self.nodes[name].boot(self.now):
            self.fly("", message)

    def kill(self, name: str, will_after_s: float = 0.1) -> None:
        self.flying.append((self.now + will_after_s, "", self.nodes[name].kill()))

    def fly(self, to: str, message: Control) -> None:
        self.flying.append((self.now + self.delay_s * self.random.uniform(0.5, 1.5), to, message))

    # -- time --------------------------------------------------------------------------------

    def run(self, seconds: float, tick_s: float = 0.05) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.step(tick_s)

    def step(self, tick_s: float = 0.05) -> None:
        self.now = round(self.now + tick_s, 6)
        due = sorted((item for item in self.flying if item[0] <= self.now), key=lambda item: item[0])
        self.flying = [item for item in self.flying if item[0] > self.now]
        for _, to, message in due:
            self.deliver(to, message)
        for node in self.nodes.values():
            for job, (_, began) in node.started.items():
                if node.up and began + BOOT_S <= self.now < began + BOOT_S + tick_s and job in node.jobs:
                    self.fly("", node.heartbeat(self.now))
        if self.now >= self._beat_at:
            self._beat_at = self.now + 1.0
            for node in self.nodes.values():
                if node.up:
                    self.fly("", node.heartbeat(self.now))
        if self.core is not None and (at := self.core.next_timer()) is not None and at <= self.now:
            self.core.on_timer(self.now)
            self.perform()

    def deliver(self, to: str, message: Control) -> None:
        if to:
            node = self.nodes[to]
            for answer in node.hear(self.now, message):
                self.fly("", answer)
            if node.up and node.draining and node.released:
                self.kill(to, 0.0)
            return
        if self.core is None:
            return
        match message:
            case Presence():
                self.core.on_presence(self.now, message)
            case Announce():
                self.core.on_announce(self.now, message)
            case Heartbeat():
                self.core.on_heartbeat(self.now, message)
            case Goodbye():
                self.core.on_goodbye(self.now, message)
        self.perform()

    # -- training ----------------------------------------------------------------------------

    def train(self, job: str = "digits", until: int = 6) -> None:
        """One round: the root saves, its buddy gets a copy; after the last one the result comes."""
        for node in self.nodes.values():
            if job not in node.jobs or not node.ready(self.now, job):
                continue
            placement = node.jobs[job].placement
            if placement.root not in node.tasks(job):
                continue
            disk = node.disk.setdefault(job, {}).setdefault(placement.root, [])
            source = placement.fetch.get(placement.root)
            if source and not disk:
                other = self.nodes[source]
                if not other.up:
                    continue
                disk.extend(other.disk.get(job, {}).get(placement.root, []))
            number = (disk[-1] if disk else 0) + 1
            if number > until:
                if self.core is not None and self.core.expects(job, placement.root, node.name) is None:
                    self.core.on_result(self.now, job, {"accuracy": 0.9}, "d" * 64)
                    self.perform()
                continue
            disk.append(number)
            buddy = self.nodes.get(placement.buddies.get(placement.root, ""))
            if buddy is not None and buddy.ready(self.now, job):
                buddy.disk.setdefault(job, {})[placement.root] = list(disk)
            self.fly("", node.heartbeat(self.now))
