"""The coordinator as a pure state machine: events in, effects out, time is an argument. Run live by `app`, in virtual time by the simulator.

Call a handler, then perform what `take()` returns, in order: a `Record` is durable before the `Tell`s behind it leave. Call
`on_timer(now)` when `next_timer()` is reached. `now`: seconds of one clock that never goes back, also not over restarts.
The control API (`on_request`) is fog_coordinator.reading.verbs; what a person reads is fog_coordinator.reading.status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from fog_common.errors import ConfigError
from fog_common.runtime.machine import RoundRecord
from fog_common.wire.messages import Announce, Goodbye, Heartbeat, Identify, Placement, Presence, Request, WorkerState
from fog_coordinator.accounts import budgets
from fog_coordinator.accounts.energy import forget_readings, share_energy
from fog_coordinator.accounts.reports import Closing, Crashes, note_saves
from fog_coordinator.lifecycle import admission, join, watchdog
from fog_coordinator.lifecycle.alike import agree
from fog_coordinator.lifecycle.preflight import missing, preflight
from fog_coordinator.lifecycle.replan import relocate, replan
from fog_coordinator.moves.desired import Desk
from fog_coordinator.moves.view import settle
from fog_coordinator.placement.eligible import occupied
from fog_coordinator.reading import verbs as requests
from fog_coordinator.state.counts import Tally
from fog_coordinator.state.effects import Answer, Effect, Outbox, Row, SendResult, Tables, Tell
from fog_coordinator.state.jobs import (
    CANCELLED,
    ENDED,
    FAILED,
    FINISHED,
    PLACED,
    PREPARING,
    QUEUED,
    RUNNING,
    WAITING,
    History,
    Job,
    Log,
    Seat,
    decode_job,
)
from fog_coordinator.state.nodes import Node, Registry, Strangers
from fog_coordinator.state.rules import NOTHING, READY, Rules
from fog_learning.job.sections import Job as JobFile
from fog_learning.methods.base import Method

MAX_CRASHES: Final = 5
"""A worker that ends this often before it is ready fails its job."""
HISTORY_LAG: Final = 4
"""Rounds that a root repeats in its heartbeats before it is told that they are known."""
LOOK_AGAIN: Final = 10
"""Sweeps after which every table is looked at, whether something happened or not."""
Check = Callable[[Mapping[str, Any]], tuple[JobFile, Method]]
"""A job file as builtins -> its types and its method; ConfigError."""


class Core:
    def __init__(self, nonce: str, tables: Tables | None = None, rules: Rules = Rules(), check: Check | None = None, version: str = "") -> None:
        """tables: what the journal holds. check: see Check; by default that of fog_learning."""
        tables = tables or {}
        self.nonce = nonce
        self.rules = rules
        self.version = version
        self.check = check or _checked
        self.started_at: float | None = None
        self.denied: tuple[str, ...] = ()
        """Subscriptions that the broker refuses us: set by the shell, told by `ping`."""
        self.registry = Registry(rules.silent_s, [body for _, body in tables.get("nodes", [])])
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, JobFile] = {}
        self.methods: dict[str, Method] = {}
        self.histories: dict[str, History] = {}
        self.logs: dict[str, Log] = {}
        self.tallies: dict[str, Tally] = {}
        """job -> what its workers counted."""
        self._desk = Desk(nonce, self.registry, self.jobs, self.histories, rules.resend_s)
        self.closing = Closing(rules.close_s)
        self._crashes = Crashes()
        self._out = Outbox()
        self._dirty: dict[str, float] = {}  # job -> when its table is brought up to date
        self._seats: dict[str, dict[str, Seat]] = {}
        self._strangers = Strangers(rules.resend_s)
        self._sweep_at: float | None = None
        self._sweeps = 0
        self._admit_at: float | None = None
        self._connected = True
        self._order = 0
        self._load(tables)

    def _load(self, tables: Tables) -> None:
        counts = {str(name): body for (name, *_), body in tables.get("counts", [])}
        for _, body in tables.get("jobs", []):
            job = decode_job(body)
            self._keep(job, counts.get(job.id))
        for (name, *_), body in tables.get("rounds", []):
            if name in self.histories:
                self.histories[str(name)].load(body)
        lines: dict[str, list[bytes]] = {}
        for (name, *_), body in tables.get("log", []):
            lines.setdefault(str(name), []).append(body)
        for name in sorted(lines.keys() & self.logs.keys()):
            self.logs[name].load(lines[name])
        self._order = max((job.order for job in self.jobs.values()), default=0)

    def _keep(self, job: Job, counts: bytes | None = None) -> None:
        self.jobs[job.id] = job
        self.histories[job.id] = History(job.id)
        self.logs[job.id] = Log(job.id)
        self.tallies[job.id] = Tally(counts)
        if job.state not in ENDED:
            try:
                self.files[job.id], self.methods[job.id] = self.check(job.spec)
            except ConfigError as error:  # an older version of the program accepted it
                job.state, job.why = FAILED, f"this version cannot run it: {error}"
                self._write(job)
        self._index(job)

    # -- events ----------------------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        """The bus stands: from now on silence means something."""
        self._begin(now)
        self._connected = True
        self.registry.begin(now)

    def on_disconnected(self, now: float) -> None:
        """Nothing can be heard: nobody is blamed for silence until the bus stands again."""
        self._begin(now)
        self._connected = False

    def on_presence(self, now: float, presence: Presence) -> None:
        self._begin(now)
        if self.registry.get(presence.node) is None:
            if presence.online:
                self._identify(now, presence.node, presence.site)
            return
        changed = self.registry.presence(now, presence)
        if changed is not None:
            self._node_changed(now, changed)
            if presence.online and changed.held:
                self._identify(now, changed.node)

    def on_announce(self, now: float, announce: Announce) -> None:
        self._begin(now)
        node, changed = self.registry.announce(now, announce)
        if changed:
            self._out.write(node.row())
        self._strangers.forget(node.node)
        self._node_changed(now, node)
        for job in self.jobs.values():
            self._join(now, job, came=node.node)

    def on_goodbye(self, now: float, goodbye: Goodbye) -> None:
        self._begin(now)
        node = self.registry.get(goodbye.node)
        if node is not None and node.nonce == goodbye.nonce and node.online and not node.goodbye:
            node.goodbye = True
            self._leaving(now, node)

    def on_heartbeat(self, now: float, beat: Heartbeat) -> None:
        self._begin(now)
        known = self.registry.get(beat.node)
        was = (known.online, known.held, known.goodbye) if known else (False, True, False)
        counting = known.totals.process if known else ""
        node = self.registry.heartbeat(now, beat)
        if node is None:
            if not self.registry.known(beat):
                self._identify(now, beat.node, beat.site)
            return
        before, node.workers = node.workers, {worker.job: worker for worker in beat.workers}
        placed = [self.jobs[name] for name in node.workers if name in self.jobs and self.jobs[name].state in PLACED]
        forget_readings(self.jobs.values(), beat)
        node.reading = share_energy(placed, beat, node.reading)
        node.energy_j = dict(beat.energy_j)
        if counting not in ("", node.totals.process):
            self._out.write(node.row())
        for job in placed:
            self._worker(now, job, node, before.get(job.id), node.workers[job.id])
        for name in self.closing.heard(node):
            self.jobs[name].meter(node.node, node.workers[name])
            self.tallies[name].update(node.node, node.workers[name])
            self._write(self.jobs[name])
        if was != (True, False, node.goodbye):
            self._node_changed(now, node)
        if node.goodbye and not was[2]:
            node.leaving_since = now
            self._desk.changed(node.node)
        for name in before.keys() - node.workers.keys():
            if name in self.jobs:
                self._touch(now, self.jobs[name])
        if (tell := self._desk.tell(now, node)) is not None:
            self._out.emit(tell)
        self._tell(now)

    def expects(self, job: str, task: str, node: str) -> str | None:
        """None if this task's result from this node is waited for, '' if the job has ended already, else why it is refused."""
        found = self.jobs.get(job)
        if found is None:
            return "unknown_job"
        if found.state in ENDED:
            return ""
        root = found.seat(found.root)
        if found.state != RUNNING or root is None or (root.task, root.node) != (task, node):
            return "not_placed"
        return None

    def on_result(self, now: float, job: str, numbers: dict[str, float], digest: str, why: str = "", history: tuple[RoundRecord, ...] = ()) -> bool:
        """The root's result; its blob (digest, '' if there is none) is stored already. False if nobody waits for it."""
        self._begin(now)
        found = self.jobs.get(job)
        if found is None or found.state != RUNNING:
            return False
        self._history(now, found, history)
        found.numbers, found.digest = dict(numbers), digest
        running = {name for name in found.participants() if (node := self.registry.get(name)) is not None and node.online and job in node.workers}
        if not why:
            self.closing.add(now, job, running)
        self.end(now, found, FAILED if why else FINISHED, why or found.stop)
        self._tell(now)
        return True

    def on_request(self, now: float, user: str, session: str, request: Request) -> None:
        self._begin(now)
        reply, result = requests.answer(self, now, user, request)
        self._tell(now)
        self._out.emit(Answer(user, session, reply))
        if result is not None:
            self._out.emit(SendResult(result.id, user, session, result.digest))

    def on_timer(self, now: float) -> None:
        """Call when next_timer() is reached, or at any other time."""
        self._begin(now)
        if self._sweep_at is not None and now >= self._sweep_at:
            self._sweep(now)
        for name in [name for name, due in self._dirty.items() if due <= now]:
            del self._dirty[name]
            self._settle(now, self.jobs[name])
        if self._admit_at is not None and now >= self._admit_at:
            self._admit(now)
        self.closing.overdue(now)
        self._tell(now)

    def next_timer(self) -> float | None:
        """None: only another event can change anything."""
        times = [*self._dirty.values(), self._sweep_at, self._admit_at, self.closing.next_timer()]
        return min((time for time in times if time is not None), default=None)

    def take(self) -> list[Effect]:
        """What is to be done now, in order; asked once."""
        return self._out.take()

    def keep(self) -> None:
        """Write down all that was counted: now and then, at the end, and before it is shown (a shown sum never falls, also not over a kill)."""
        for job in self.jobs.values():
            if job.state in PLACED:
                self._out.write(job.row())
                self._out.write(self.tallies[job.id].row(job.id))
        for node in self.registry:
            if node.spoke_at > node.kept_at:
                self._out.write(node.row())

    # -- what requests use -----------------------------------------------------------------

    def add_job(self, now: float, job: Job) -> None:
        self._order += 1
        job.order = self._order
        job.state, job.since, job.why = WAITING, now, "submitted"
        self._keep(job)
        self.log(now, job, f"submitted by {job.user}: {job.method}, {job.rounds} rounds")
        self._prune()
        self._admit(now)
        self._write(job)

    def end(self, now: float, job: Job, state: str, why: str = "") -> None:
        """The job is over: its workers stop, its nodes are free."""
        job.state, job.since, job.ended_at, job.why = state, now, now, why
        job.readings = {}
        self.log(now, job, f"{state}{': ' + why if why else ''}")
        self._write(job)
        self._dirty.pop(job.id, None)
        self._index(job)
        self._crashes.forget(job.id)
        self._admit_soon(now)

    def cancel(self, now: float, job: Job) -> None:
        self.end(now, job, CANCELLED, "cancelled by its user")

    def drain(self, now: float, node: Node, undo: bool) -> None:
        node.drain = not undo
        self._out.write(node.row())
        self._leaving(now, node)

    def log(self, now: float, job: Job, text: str) -> None:
        self._out.write(self.logs[job.id].add(now, text))

    def placement(self, job: Job) -> Placement:
        """The job's table, as nodes are told."""
        return self._desk.placement(job)

    # -- nodes -----------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        if self.started_at is None:
            self.started_at = now
            self.registry.begin(now)
            for job in self.jobs.values():
                self._touch(now, job)
            self._admit_soon(now)
        if self._sweep_at is None:
            self._sweep_at = now + self.rules.sweep_s

    def _sweep(self, now: float) -> None:
        """Who is silent, what is overdue, who has not heard."""
        self._sweep_at = now + self.rules.sweep_s
        if self._connected:
            for node in self.registry.silent(now):
                self._node_changed(now, node)
        self._sweeps += 1
        for job in self.jobs.values():
            if job.state == PREPARING or self._sweeps % LOOK_AGAIN == 0 or (job.state == RUNNING and watchdog.overdue(job, self.registry)):
                self._touch(now, job)
            self._spend(now, job)
            if self._sweeps % LOOK_AGAIN == 0 and job.state == RUNNING:
                self._relocate(now, job)
            if self._sweeps % LOOK_AGAIN == 0 or join.vacant(job, self.files[job.id], self.registry, self.rules, now):
                self._join(now, job)
        for node in self.registry:
            if node.online and node.number and self._desk.lags(node):
                self._desk.changed(node.node)
        if any(job.state in {WAITING, QUEUED} for job in self.jobs.values()):
            self._admit_soon(now)

    def _relocate(self, now: float, job: Job) -> None:
        """If there has been a clearly better place for the job's unbound task for long enough, it moves there, in order."""
        taken = occupied(self.jobs.values(), self.rules, but=job.id)
        if text := relocate(now, job, self.files[job.id], self.methods[job.id], self.registry, taken):
            self.log(now, job, text)
            self._touch(now, job)

    def _join(self, now: float, job: Job, came: str = "") -> None:
        """Nodes without a slot take what is free. came: the node that announced itself; without a slot for it that is said."""
        if job.state not in PLACED or not job.view:
            return
        file, method = self.files[job.id], self.methods[job.id]
        taken = occupied(self.jobs.values(), self.rules, but=job.id)
        claimed = {name: other.id for other in self.jobs.values() if other.state in {WAITING, QUEUED} for name in other.roster}
        for node in join.newcomers(job, file, method, self.registry, {**claimed, **taken}):
            text = join.join(now, job, file, method, node, self.registry, self.rules)
            if text:
                job.view += 1
                self._index(job)
                self._touch(now, job)
            elif node.node == came and came not in job.watching:
                job.watching = [*(name for name in job.watching if self.registry.get(name)), came]
                text = f"{came} is here, but no slot is free: it watches, and takes the next one"
            if text:
                self.log(now, job, text)
                self._write(job)

    def _node_changed(self, now: float, node: Node) -> None:
        for job in self.jobs.values():
            if job.state in PLACED and (any(seat.node == node.node for seat in job.seats) or watchdog.overdue(job, self.registry)):
                self._touch(now, job)
            elif job.state in {WAITING, QUEUED}:
                self._admit_soon(now)

    def _leaving(self, now: float, node: Node) -> None:
        node.leaving_since = now
        self._node_changed(now, node)
        self._desk.changed(node.node, renew=True)  # its workers answer with what they are at
        self._tell(now)

    def _touch(self, now: float, job: Job) -> None:
        """The job's table may have to change: soon, together with what else happens until then."""
        if job.state in PLACED:
            self._dirty.setdefault(job.id, now + self.rules.coalesce_s)

    def _admit_soon(self, now: float) -> None:
        if self._admit_at is None:
            self._admit_at = now + self.rules.coalesce_s

    def _identify(self, now: float, name: str, site: str = "") -> None:
        for place in self._strangers.ask(now, name, self.registry, site):
            self._out.emit(Tell(name, place, Identify()))

    # -- workers ---------------------------------------------------------------------------

    def _worker(self, now: float, job: Job, node: Node, old: WorkerState | None, new: WorkerState) -> None:
        job.meter(node.node, new)
        self.tallies[job.id].update(node.node, new)
        job.top = max(job.top, new.incarnation)
        if old is None or (old.phase, old.incarnation, old.problems) != (new.phase, new.incarnation, new.problems):
            self._touch(now, job)
            if new.phase == "exited":
                self._crashed(now, job, node, new)
        if new.phase == READY:
            note_saves(job, node.node, old if old is not None and old.phase == READY else None, new)
        seats = self._seats[job.id]
        for state in new.tasks:
            seat = seats.get(state.task) if state.since else None
            if seat is None or (seat.node, seat.since, seat.incarnation) != (node.node, state.since, new.incarnation):
                continue
            if seat.fetch and not seat.fetched:
                seat.fetched = True  # it runs: who had its Save may go
                if not state.labels:
                    self.log(now, job, f"{seat.task} begins anew on {node.node}: {seat.fetch} has no Save of it, and its buddy neither")
                self._index(job)
            if state.history:
                self._history(now, job, state.history)
                if len(state.history) > HISTORY_LAG:
                    self._desk.changed(node.node, renew=True)
            if state.finished and state.why and job.state == RUNNING:
                self.end(now, job, FAILED, f"{state.task} on {node.node}: {state.why}")
        if node.leaving:
            self._touch(now, job)
        self._spend(now, job)

    def _spend(self, now: float, job: Job) -> None:
        """Say when most of a budget is used; when all of it is, ask the root for the model as it is."""
        if job.state != RUNNING or job.stop:
            return
        for use in budgets.nearly_spent(job, self.files[job.id].budgets, self.tallies[job.id], now):
            if use.ratio >= 1.0:
                job.stop = f"stopped, it used {use.text}"
                job.view += 1
                self.log(now, job, f"view {job.view}: {job.stop}; {job.root} hands in the model that it has")
                self._index(job)
                self._write(job)
                return
            if use.name not in job.warned:
                job.warned.append(use.name)
                self.log(now, job, f"warning: it used {use.text}; at 100 % it stops")
                self._write(job)

    def _write(self, job: Job) -> None:
        """The job's row; of one that is over, what was counted too."""
        self._out.write(job.row())
        if job.state in ENDED:
            self._out.write(self.tallies[job.id].row(job.id))

    def _crashed(self, now: float, job: Job, node: Node, worker: WorkerState) -> None:
        count = self._crashes.count(job.id, node.node, worker.incarnation)
        if not count:
            return
        why = "; ".join(worker.problems) or "no reason given"
        self.log(now, job, f"the worker on {node.node} ended: {why}")
        if job.state == PREPARING and count >= MAX_CRASHES:
            job.problems = [f"{node.node}: its worker ended {count} times: {why}"]
            self.end(now, job, FAILED, job.problems[0])

    def _history(self, now: float, job: Job, records: tuple[RoundRecord, ...]) -> None:
        sent = job.sent()
        joules = sum(job.energy_j.values()) if job.energy_j else None
        rows = self.histories[job.id].add(now, records, sent.up + sent.down + sent.d2d + sent.cast, joules)
        for row in rows:
            self._out.write(row)
        if rows:
            self._write(job)

    # -- the life of a job -----------------------------------------------------------------

    def _admit(self, now: float) -> None:
        """Start what can start, in the order of submission; who waits keeps its claim on the nodes that it needs."""
        self._admit_at = None
        for job, news in admission.admit(now, self.jobs.values(), self.files, self.methods, self.registry, self.rules):
            self.log(now, job, news)
            self._write(job)
            if job.state == PREPARING:
                self._settle(now, job)

    def _settle(self, now: float, job: Job) -> None:
        """Bring a placed job's table up to date; in PREPARING also see whether it can begin."""
        if job.state not in PLACED or (job.state == PREPARING and not self._preflight(now, job)):
            return
        busy = occupied(self.jobs.values(), self.rules, but=job.id)
        raised, events = settle(now, job, self.registry, self.rules, busy)
        for text in events:
            self.log(now, job, text)
        if raised or events:
            self._write(job)
        root = job.seat(job.root)
        if raised and root is not None and root.since == job.view:  # it tells again what it does again
            begins = job.rewind if job.rewind_view == job.view and job.rewind is not None else self._newest(job, root)
            self.histories[job.id].seen = min(self.histories[job.id].seen, max(0, begins))
        self._index(job)

    def _newest(self, job: Job, seat: Seat) -> int:
        places = job.saves.get(seat.task, {})
        return max((*places.get(seat.node, ()), *places.get(seat.fetch, ())), default=NOTHING)

    def _preflight(self, now: float, job: Job) -> bool:
        """False if the job ended here."""
        if not job.view:
            return True
        pending, problems = preflight(job, self.registry)
        if problems and not any(item.online for item in pending):
            job.problems, job.refused = problems, True
            self.end(now, job, FAILED, "; ".join(problems))
            return False
        without = missing(job, self.files[job.id], pending)
        if without is not None and not problems:
            taken = occupied(self.jobs.values(), self.rules, but=job.id)
            if text := replan(job, self.files[job.id], self.methods[job.id], self.registry, taken):
                job.view += 1  # the workers' job file has changed, if not its table
                self.log(now, job, text)
                self._index(job)
                self._write(job)
                return True
            job.state, job.since, job.started_at, job.why = RUNNING, now, now, ""
            agree(job, self.registry)
            nodes = len(job.participants())
            passed = f"{nodes - len(without)} of {nodes} nodes, without {', '.join(without)}" if without else f"{nodes} nodes"
            self.log(now, job, f"preflight passed on {passed}: training begins")
        return True

    def _index(self, job: Job) -> None:
        self._seats[job.id] = {seat.task: seat for seat in job.seats}
        self._desk.index(job)

    # -- effects ---------------------------------------------------------------------------

    def _tell(self, now: float) -> None:
        for tell in self._desk.due(now):
            self._out.emit(tell)

    def _prune(self) -> None:
        """Forget the oldest ended jobs beyond keep_jobs."""
        ended = sorted((job for job in self.jobs.values() if job.state in ENDED), key=lambda job: job.order)
        for job in ended[: max(0, len(ended) - self.rules.keep_jobs)]:
            tables: list[dict[str, Any]] = [self.jobs, self.files, self.methods, self.histories, self.logs, self.tallies, self._seats]
            for table in tables:
                table.pop(job.id, None)
            for name in ("jobs", "rounds", "log", "counts"):
                self._out.write(Row(name, (job.id,), None))


def _checked(spec: Mapping[str, Any]) -> tuple[JobFile, Method]:
    from fog_learning.job.reading import job_from
    from fog_learning.methods import METHODS

    job = job_from(spec)
    return job, METHODS[job.method["name"]]
