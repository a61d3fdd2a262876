"""The coordinator as a pure state machine: events in, effects out, time is an argument. Run live by `shell`, in virtual time by the simulator.

Call a handler, then perform what `take()` returns, in order: a `Record` is durable before the `Tell`s behind it leave. Call
`on_timer(now)` when `next_timer()` is reached. `now`: seconds of one clock that never goes back, also not over restarts.
Requests of people are answered above the core, by fog_coordinator.reading.verbs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fog_common.runtime.machine import RoundRecord
from fog_common.wire.api.states import CANCELLED, ENDED, FAILED, FINISHED, PLACED, PREPARING, RUNNING, WAITING
from fog_common.wire.messages import Announce, Goodbye, Heartbeat, Identify, Placement, Presence, Reply
from fog_coordinator.accounts.intake import Intake
from fog_coordinator.accounts.reports import Ending
from fog_coordinator.lifecycle import admission
from fog_coordinator.lifecycle.alike import agree
from fog_coordinator.lifecycle.docket import Docket
from fog_coordinator.lifecycle.preflight import missing, preflight
from fog_coordinator.lifecycle.replan import replan
from fog_coordinator.lifecycle.watchdog import Watchdog
from fog_coordinator.moves.view import settle
from fog_coordinator.placement.eligible import occupied
from fog_coordinator.state.book import Book, Check, Entry
from fog_coordinator.state.effects import Answer, Effect, SendResult, Tables, Tell
from fog_coordinator.state.invariants import violations
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node, Registry, Strangers
from fog_coordinator.state.rules import NOTHING, Rules
from fog_coordinator.state.story import Story
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import Method


class Core:
    def __init__(self, nonce: str, tables: Tables | None = None, rules: Rules = Rules(), check: Check | None = None, version: str = "") -> None:
        """tables: what the journal holds. check: see Check; by default that of fog_learning."""
        self.nonce = nonce
        self.rules = rules
        self.version = version
        self.check = check or _checked
        self.started_at: float | None = None
        self.denied: tuple[str, ...] = ()
        """Subscriptions that the broker refuses the coordinator: set by the shell, shown by `ping`."""
        self._docket = Docket(nonce, tables or {}, rules, self.check)
        self._watchdog = Watchdog(self._docket)
        self._intake = Intake(self._docket, self._watchdog)
        self._strangers = Strangers(rules.resend_s)
        self._story = Story()

    @property
    def registry(self) -> Registry:
        return self._docket.registry

    @property
    def book(self) -> Book:
        return self._docket.book

    @property
    def ending(self) -> Ending:
        return self._docket.ending

    # -- events ----------------------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        """The bus stands: from now on silence means something."""
        self.begin(now)
        self._story.add(now, "connected")
        self._watchdog.connected = True
        self.registry.begin(now)

    def on_disconnected(self, now: float) -> None:
        """Do not count silence while the bus is down."""
        self.begin(now)
        self._story.add(now, "disconnected")
        self._watchdog.connected = False

    def on_presence(self, now: float, presence: Presence) -> None:
        self.begin(now)
        if self.registry.get(presence.node) is None:
            if presence.online:
                self._identify(now, presence.node, presence.site)
            return
        changed = self.registry.presence(now, presence)
        if changed is not None:
            self._story.add(now, "presence", presence.node, text="online" if presence.online else "offline")
            self._watchdog.node_changed(now, changed)
            if presence.online and changed.held:
                self._identify(now, changed.node)

    def on_announce(self, now: float, announce: Announce) -> None:
        self.begin(now)
        self._story.add(now, "announce", announce.node, text=announce.nonce)
        node, changed = self.registry.announce(now, announce)
        if changed:
            self._docket.out.write(node.row())
        self._strangers.forget(node.node)
        self._watchdog.node_changed(now, node)
        for entry in self.book:
            self._watchdog.join(now, entry, came=node.node)

    def on_goodbye(self, now: float, goodbye: Goodbye) -> None:
        self.begin(now)
        node = self.registry.get(goodbye.node)
        if node is not None and node.nonce == goodbye.nonce and node.online and not node.goodbye:
            self._story.add(now, "goodbye", node.node)
            node.goodbye = True
            self._leaving(now, node)

    def on_heartbeat(self, now: float, beat: Heartbeat) -> None:
        self.begin(now)
        before = _workers(self.registry.get(beat.node))
        node = self._intake.heartbeat(now, beat)
        if node is None:
            if not self.registry.known(beat):
                self._identify(now, beat.node, beat.site)
            return
        if (workers := _workers(node)) != before:
            self._story.add(now, "heartbeat", node.node, text=", ".join(workers) or "no worker")
        self._tell(now)

    def on_unsent(self, now: float, name: str, size_bytes: int, limit_bytes: int) -> str | None:
        """A node's Desired is larger than a message may be. Why, for a person, the first time that its content is; else None."""
        node = self.registry.get(name)
        if node is None or node.unsent:
            return None
        jobs = [entry.job for entry in self.book.placed if name in entry.job.participants()]
        tasks = sum(len(job.seats) for job in jobs)
        node.unsent = (
            f"the tables of its {len(jobs)} jobs, {tasks} tasks, take {size_bytes} B, more than the {limit_bytes} B of a message: "
            "place them on fewer nodes (placement, topology), or fewer jobs at a time"
        )
        for job in jobs:
            self._docket.log(now, job, f"{name} cannot be told what to run: {node.unsent}")
        return node.unsent

    def expects(self, job: str, task: str, node: str) -> str | None:
        """None if this task's result from this node is waited for, '' if the job has ended already, else why it is refused."""
        entry = self.book.get(job)
        if entry is None:
            return "unknown_job"
        if entry.job.state in ENDED:
            return ""
        root = entry.job.seat(entry.job.root)
        if entry.job.state != RUNNING or root is None or (root.task, root.node) != (task, node):
            return "not_placed"
        return None

    def on_result(self, now: float, job: str, numbers: dict[str, float], digest: str, why: str = "", history: tuple[RoundRecord, ...] = ()) -> bool:
        """The root's result; its blob (digest, '' if there is none) is stored already. False for a job that does not run."""
        self.begin(now)
        entry = self.book.get(job)
        if entry is None or entry.job.state != RUNNING:
            return False
        self._story.add(now, "result", job=job, text=why)
        done = entry.job
        self._intake.history(now, entry, history)
        done.numbers, done.digest = dict(numbers), digest
        running = {name for name in done.participants() if (node := self.registry.get(name)) is not None and node.online and job in node.workers}
        if not why:
            self.ending.add(now, job, running)
        self._docket.end(now, done, FAILED if why else FINISHED, why or done.stop)
        self._tell(now)
        return True

    def on_timer(self, now: float) -> None:
        """Call when next_timer() is reached, or at any other time."""
        self.begin(now)
        if self._watchdog.sweep_at is not None and now >= self._watchdog.sweep_at:
            self._watchdog.sweep(now)
        for job in self._docket.due(now):
            self._settle(now, job)
        if self._docket.admit_at is not None and now >= self._docket.admit_at:
            self._admit(now)
        self.ending.overdue(now)
        self._tell(now)

    def next_timer(self) -> float | None:
        """None: only another event can change anything."""
        times = (self._docket.next_timer(), self._watchdog.sweep_at, self.ending.next_timer())
        return min((time for time in times if time is not None), default=None)

    def take(self) -> list[Effect]:
        """Effects to perform now, in order; each is returned once."""
        return self._docket.out.take()

    def keep(self) -> None:
        """Write all sums down, see Docket.keep."""
        self._docket.keep()

    # -- requests --------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """The first event starts the timers; every handler calls this."""
        if self.started_at is None:
            self.started_at = now
            self.registry.begin(now)
            for job in self.book.jobs:
                self._docket.touch(now, job)
            self._docket.admit_soon(now)
        if self._watchdog.sweep_at is None:
            self._watchdog.sweep_at = now + self.rules.sweep_s

    def answer(self, now: float, user: str, session: str, reply: Reply, result: Job | None = None) -> None:
        """Send a reply. result: the job whose weights follow it."""
        self._tell(now)
        self._docket.out.emit(Answer(user, session, reply))
        if result is not None:
            self._docket.out.emit(SendResult(result.id, user, session, result.digest))

    def add_job(self, now: float, job: Job) -> None:
        self._story.add(now, "submit", job=job.id, text=job.user)
        job.state, job.since, job.why = WAITING, now, "submitted"
        self.book.add(job)
        self._docket.index(job)
        self._docket.log(now, job, f"submitted by {job.user}: {job.method}, {job.rounds} rounds")
        self._docket.prune()
        self._admit(now)
        self._docket.write(job)

    def cancel(self, now: float, job: Job) -> None:
        self._story.add(now, "cancel", job=job.id)
        self._docket.end(now, job, CANCELLED, "cancelled by its user")

    def drain(self, now: float, node: Node, undo: bool) -> None:
        self._story.add(now, "drain", node.node, text="undo" if undo else "")
        node.drain = not undo
        self._docket.out.write(node.row())
        self._leaving(now, node)

    def placement(self, job: Job) -> Placement:
        """The job's table, as nodes are told."""
        return self._docket.desk.placement(job)

    # -- for tests and bug reports -----------------------------------------------------------

    def story(self, job: str) -> list[str]:
        """The last stimuli that concern a job, and what the job's log says between them, one line each."""
        entry = self.book[job]
        return self._story.of(job, {*entry.job.roster, *(seat.node for seat in entry.job.seats)}, entry.log.lines)

    def validate_state(self) -> list[str]:
        """Broken invariants, one sentence each; [] if the state is sound."""
        stray = [f"{name} is touched, and not remembered" for name in self._docket.touched if name not in self.book]
        return [*violations(self.book), *stray]

    # -- nodes -----------------------------------------------------------------------------

    def _leaving(self, now: float, node: Node) -> None:
        self._watchdog.leaving(now, node)
        self._tell(now)

    def _identify(self, now: float, name: str, site: str = "") -> None:
        for place in self._strangers.ask(now, name, self.registry, site):
            self._docket.out.emit(Tell(name, place, Identify()))

    # -- the life of a job -----------------------------------------------------------------

    def _admit(self, now: float) -> None:
        """Start waiting jobs in the order of submission; a job that still waits keeps its claim on the nodes that it needs."""
        self._docket.admit_at = None
        for job, news in admission.admit(now, self.book, self.registry, self.rules):
            self._docket.log(now, job, news)
            self._docket.write(job)
            if job.state == PREPARING:
                self._settle(now, job)

    def _settle(self, now: float, job: Job) -> None:
        """Bring a placed job's table up to date; in PREPARING also see whether it can begin."""
        entry, docket = self.book[job.id], self._docket
        if job.state not in PLACED or (job.state == PREPARING and not self._preflight(now, entry)):
            return
        busy = occupied(self.book.jobs, self.rules, but=job.id)
        raised, events = settle(now, job, self.registry, self.rules, busy)
        for text in events:
            docket.log(now, job, text)
        if raised or events:
            docket.write(job)
        root = job.seat(job.root)
        if raised and root is not None and root.since == job.view:  # the root repeats the records of the rounds that it repeats
            begins = job.rewind if job.rewind_view == job.view and job.rewind is not None else _newest(job, root)
            entry.history.seen = min(entry.history.seen, max(0, begins))
        docket.index(job)

    def _preflight(self, now: float, entry: Entry) -> bool:
        """False if the job ended here."""
        job, docket = entry.job, self._docket
        if not job.view:
            return True
        pending, problems = preflight(job, self.registry)
        if problems and not any(item.online for item in pending):
            job.problems, job.refused = problems, True
            docket.end(now, job, FAILED, "; ".join(problems))
            return False
        without = missing(job, entry.file, pending)
        if without is not None and not problems:
            taken = occupied(self.book.jobs, self.rules, but=job.id)
            if text := replan(job, entry.file, entry.method, self.registry, taken):
                docket.raise_view(now, job, text)  # the workers' job file has changed, if not their table
                return True
            job.state, job.since, job.started_at, job.why = RUNNING, now, now, ""
            agree(job, self.registry)
            nodes = len(job.participants())
            passed = f"{nodes - len(without)} of {nodes} nodes, without {', '.join(without)}" if without else f"{nodes} nodes"
            docket.log(now, job, f"preflight passed on {passed}: training begins")
        return True

    def _tell(self, now: float) -> None:
        for tell in self._docket.desk.due(now):
            self._docket.out.emit(tell)


def _workers(node: Node | None) -> list[str]:
    """'digits: ready, incarnation 2, view 5', for the story."""
    if node is None:
        return []
    return [f"{worker.job}: {worker.phase}, incarnation {worker.incarnation}, view {worker.view}" for worker in node.workers.values()]


def _newest(job: Job, seat: Seat) -> int:
    places = job.saves.get(seat.task, {})
    return max((*places.get(seat.node, ()), *places.get(seat.fetch, ())), default=NOTHING)


def _checked(spec: Mapping[str, Any]) -> tuple[JobFile, Method]:
    from fog_learning.job.reading import job_from
    from fog_learning.methods import method_of

    job = job_from(spec)
    return job, method_of(job)
