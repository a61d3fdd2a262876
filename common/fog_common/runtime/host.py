"""The host of a job's tasks on one node: runs machines, keeps the Save barrier, views, spools and refs. Sans-IO.

A shell (the live worker, the simulator) calls the handlers with `now` (its own monotonic seconds), performs what `take()`
returns, and comes back with what happened. Effects:

- `Publish(topic, payload, plane)` (from the endpoint): put it on the bus;
- `Compute(...)`: run an op after those before it, store outputs named in `into` with `refs.store` at once, then `on_ran` or `on_failed`;
- `Withdraw(serial)`: do not run that op if it has not begun, then `on_withdrawn`;
- `Persist(record)`: write the record and its blobs, one fsync, keep the last two labels of the task, then `on_persisted`;
- `Listen(roles)`: the roles whose casts this host wants now;
- `Changed(urgent)`: the daemon may want to know (see `state`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from fog_common.errors import OpError, WireError
from fog_common.ids import CLOUD_SITE, COORDINATOR
from fog_common.runtime.copies import Copies
from fog_common.runtime.effects import (
    HOST,
    RESULT,
    Changed,
    Compute,
    Effect,
    Fetch,
    Listen,
    Missing,
    Persist,
    Replica,
    Result,
    Withdraw,
    decode_host_message,
)
from fog_common.runtime.fetches import Fetches
from fog_common.runtime.machine import (
    Blob,
    Cancel,
    Cast,
    Command,
    Delivered,
    Event,
    Failed,
    Finish,
    Handle,
    Joined,
    Left,
    Machine,
    Measure,
    Numbers,
    Peer,
    Ran,
    Ref,
    Rewound,
    Run,
    Save,
    Send,
    Started,
    WakeAt,
    Woke,
    map_refs,
    refs_in,
)
from fog_common.runtime.mail import Mail
from fog_common.runtime.refs import Refs
from fog_common.runtime.saves import Codebook, Program, Record
from fog_common.runtime.shelf import Shelf
from fog_common.runtime.table import Table
from fog_common.runtime.task import Task
from fog_common.runtime.unheard import Unheard
from fog_common.telemetry.metrics import REFUSED_UPDATES
from fog_common.transfer.endpoint import Acked, Address, Arrived, Endpoint, Letter, Publish, Refused
from fog_common.wire import topics
from fog_common.wire.messages import DesiredJob, ReplicaState, TaskState

_encoder = msgspec.msgpack.Encoder()


class Host:
    def __init__(
        self,
        me: Address,
        *,
        job: str,
        incarnation: int,
        program: Program,
        build: Callable[[Peer], Machine],
        refs: Refs,
        endpoint: Endpoint,
        shelf: Shelf,
        gauge: Callable[[str, str, float], None] = lambda task, name, value: None,
    ) -> None:
        """build: the initial machine of a task. gauge: hears every `Measure` of a task."""
        self.me = me
        self.job = job
        self.incarnation = incarnation
        self.refs = refs
        self.endpoint = endpoint
        self.shelf = shelf
        self.table = Table(me, incarnation)
        self.root_saved = -1
        self.measured: dict[str, float] = {}
        self.counters: dict[str, float] = {}
        self._build = build
        self._codebook = Codebook(program)
        self.mail = Mail(endpoint, self._codebook)
        self._gauge = gauge
        self._tasks: dict[str, Task] = {}
        self._copies = Copies(self.mail, refs.blobs)
        self._fetches = Fetches(self.mail)
        self._unheard = Unheard()
        self._epochs = 0
        self._computes = 0
        self._persisting: dict[tuple[str, int], Record] = {}
        self._age = (0.0, 0.0)  # (host time, job time then)
        self._queue: deque[tuple[str, int, Event]] = deque()
        self._early: dict[str, list[Event]] = {}
        self._parked: list[Letter] = []
        self._effects: list[Effect] = []
        self._listening: tuple[str, ...] = ()
        self._replica_letters: dict[tuple[str, int], Letter] = {}
        self._urgent: bool | None = None

    # -- from the shell --------------------------------------------------------------------

    def on_placement(self, now: float, desired: DesiredJob) -> None:
        """A table of the coordinator. Older views than the known one change nothing."""
        new = desired.placement
        if new.view <= self.table.view:
            return
        old, self.table = self.table, Table(self.me, self.incarnation, new)
        peers = self.table.peers
        self._age = (now, desired.age_s)
        gone = [peer for peer in old.peers.values() if peer.live and not _same(peer, peers.get(peer.task))]
        come = [peer for peer in new.tasks if peer.live and not _same(peer, old.peers.get(peer.task))]
        fell_back = any(peer.task == new.root for peer in come) or (old.view > 0 and new.rewind_view > old.placement.rewind_view)
        if fell_back:
            self.root_saved = -1  # the root says anew how far it is safe
        for was in gone:
            self._unheard.silent(was, peers.get(was.task), self.mail.give_up(was.node, was.task, was.role))
        self._unheard.forget_moved(peers)
        here = {(peer.node, peer.incarnation) for peer in new.tasks if peer.live}
        for node in sorted({peer.node for peer in gone if (peer.node, peer.incarnation) not in here and peer.node != self.me.node}):
            self.endpoint.forget_peer(node)
        for name, task in list(self._tasks.items()):
            if not self.table.mine(name) and not self.table.is_silent(task.peer):
                self._drop(name)
        self._fetches.forget_others(self.table)
        back = sorted(name for name, task in self._tasks.items() if new.rewind is not None and task.rewound_view < new.rewind_view)
        for name in back:
            self._drop(name)  # before the stamp: what it sent must not be offered again under the new view
        self.endpoint.stamp(now, new.view, self.root_saved)
        running = sorted(self._tasks)
        for name in running:
            self._tasks[name].peer = peers[name]
        for name in back:
            self._reopen(now, peers[name], self.shelf.newest(name, new.rewind))
        for name in running:
            for peer in gone:
                if peer.task != name:
                    self._post(name, Left(peer, peer.task in peers and peers[peer.task].live, new.view))
            for peer in come:
                if peer.task != name:
                    self._post(name, Joined(peer, new.view))
        for peer in new.tasks:
            if self.table.mine(peer.task) and peer.task not in self._tasks:
                self._open(now, peer)
        for name in running:
            back_again = any(peer.task == name for peer in come)  # what was refused while we were thought to be gone
            self._resend(now, name, {peer.task for peer in (new.tasks if back_again else come)})
        self._retry_refused(now)
        for peer in come:
            self._send_unheard(now, peer)
        for name in self._tasks:
            unconfirmed = self._copies.unconfirmed(name) or (fell_back and name == new.root)
            moved = old.view > 0 and old.buddy(name) != self.table.buddy(name)
            if (unconfirmed or moved) and (newest := self.shelf.newest(name)) is not None:
                self._replicate(now, newest, anew=True)
        self._listen()
        self._stop(now)
        self._unpark(now)
        self._change(urgent=True)
        self._pump(now)

    def on_frame(self, now: float, route: topics.Route, payload: bytes) -> None:
        if route.kind != self.me.kind:
            self._count("rejected_unknown_topic_total")  # brokers with loose filters exist
            return
        self.endpoint.on_frame(now, route, payload)
        self._pump(now)

    def on_ran(self, now: float, compute: Compute, outputs: dict[str, Any], numbers: Numbers) -> None:
        """The op is done. outputs: its values by name."""
        task = self._tasks.get(compute.task)
        refs: dict[str, Ref] = {}
        if task is not None and task.epoch == compute.epoch:
            for name, value in outputs.items():
                handle = compute.into.get(name) or self.refs.invent()
                if name not in compute.into:
                    self.refs.store(compute.task, handle, value)
                refs[name] = handle
        self._end_op(now, compute, Ran(compute.tag, refs, numbers))

    def on_failed(self, now: float, compute: Compute, why: str) -> None:
        self._end_op(now, compute, Failed(compute.tag, why))

    def on_withdrawn(self, compute: Compute) -> None:
        """The op had not begun, and never will."""
        task = self._tasks.get(compute.task)
        if task is not None and task.epoch == compute.epoch:
            task.computing.pop(compute.serial, None)
            task.cancelled.discard(compute.serial)

    def on_persisted(self, now: float, record: Record, replica: bool) -> None:
        """The record and its blobs are on disk."""
        self._persisting.pop((record.task, record.label), None)
        letter = self._replica_letters.pop((record.task, record.label), None) if replica else None
        if replica and record.task in self._tasks:  # it was placed here meanwhile
            if letter is not None:
                self._refuse(letter, "not_placed")
            self._pump(now)
            return
        self.shelf.add(record, replica)
        if replica:
            if letter is not None:
                self.endpoint.accept(letter)
                if self._fetches.is_answer(letter, record.task):  # else a copy from before, which the answer will outdo
                    self._obtained(now, record.task)
            self._change(urgent=True)
            self._pump(now)
            return
        task = self._tasks.get(record.task)
        if task is not None and record.label in task.saving:
            task.saving.remove(record.label)
            task.saves_done += 1
            held, task.held = task.held, []
            for number, command in held:
                if number <= task.saves_done:
                    self._perform_send(now, task, command)
                else:
                    task.held.append((number, command))
            self._replicate(now, record)
        self._change(urgent=False)
        self._pump(now)

    def on_connected(self, now: float) -> None:
        self.endpoint.connected(now)
        self._pump(now)

    def on_disconnected(self, now: float) -> None:
        self.endpoint.disconnected(now)

    def on_timer(self, now: float) -> None:
        """Call when `next_timer()` is reached (or at any other time)."""
        self.endpoint.on_timer(now)
        for task in self._tasks.values():
            if task.wake_at is not None and task.job_now(now) >= task.wake_at:
                task.wake_at = None
                self._post(task.peer.task, Woke())
        self._pump(now)

    def next_timer(self) -> float | None:
        times = [at for task in self._tasks.values() if (at := task.wakes_at) is not None]
        at = self.endpoint.next_timer()
        return min(times if at is None else [*times, at], default=None)

    def take(self) -> list[Effect]:
        if self._urgent is not None:
            self._effects.append(Changed(self._urgent))
            self._urgent = None
        effects, self._effects = self._effects, []
        return effects

    # -- what a daemon reports -------------------------------------------------------------

    def task_states(self, now: float, history_seen: int = 0) -> tuple[TaskState, ...]:
        states = []
        for name, task in self._tasks.items():
            round_, history = task.machine.progress()
            at = task.job_now(now)
            safe = self.root_saved if name == self.table.root else -1
            states.append(
                TaskState(
                    task=name,
                    since=task.peer.since,
                    labels=self.shelf.labels(name),
                    round=round_,
                    waiting=None if task.finished else task.machine.waiting(at),
                    now=at,
                    history=tuple(record for record in history if history_seen < record.round <= safe),
                    finished=task.finished,
                    why=task.why,
                    note="" if task.finished else task.machine.note(),
                    busy=bool(task.computing or task.saving or task.held) or self.mail.under_way(name),
                )
            )
        running = {state.task for state in states}
        for name in sorted(self.shelf.own() - running):  # placed here before: the coordinator must know what is on this disk
            states.append(TaskState(task=name, since=0, labels=self.shelf.labels(name)))
        return tuple(states)

    def replica_states(self) -> tuple[ReplicaState, ...]:
        return tuple(ReplicaState(task, labels) for task, labels in self.shelf.replicas())

    @property
    def kept_bytes(self) -> int:
        """Bytes in the spools: updates that the root has not saved yet."""
        return sum(ref.size for task in self._tasks.values() for send in task.kept for ref in refs_in(send.message) if isinstance(ref, Blob))

    @property
    def backlog(self) -> int:
        """Letters and events that wait here."""
        return len(self._queue) + len(self._parked) + sum(map(len, self._early.values()))

    @property
    def view(self) -> int:
        return self.table.view

    # -- tasks -----------------------------------------------------------------------------

    def _open(self, now: float, peer: Peer) -> None:
        """Start a task here: from its newest Save, else from that of another node, else from the beginning."""
        if source := self._fetches.source(self.table, peer):
            self._fetches.ask(now, self.table, peer.task, source)
        else:
            self._reopen(now, peer, self.shelf.newest(peer.task, self.table.limit))

    def _missing(self, now: float, name: str) -> None:
        """Who was asked has no Save of the task: perhaps its buddy has."""
        buddy = self.table.buddy(name)
        if buddy and buddy not in self._fetches.tried(name) and self.table.mine(name) and self.shelf.newest(name, self.table.limit) is None:
            self._fetches.ask(now, self.table, name, buddy)
        else:
            self._obtained(now, name)

    def _obtained(self, now: float, name: str) -> None:
        """The answer to a Fetch is on this disk, or does not exist."""
        if self._fetches.end(name) and self.table.mine(name) and name not in self._tasks:
            peer = self.table.peers[name]
            self._fetches.done(peer)
            self._open(now, peer)
            if (record := self._copies.waiting(name)) is not None:
                self._replicate(now, record, anew=True)
            self._stop(now)
            self._unpark(now)

    def _reopen(self, now: float, peer: Peer, record: Record | None) -> None:
        self._epochs += 1
        self.shelf.cut(peer.task, -1 if record is None else record.label)
        if record is None:
            host_then, job_then = self._age
            task = Task(peer, self._build(peer), host_then - job_then, self._epochs)
            task.rewound_view = self.table.placement.rewind_view
            self._tasks[peer.task] = task
            self._post(peer.task, Started(self.table.live()))
            self._welcome(peer.task)
            return
        task = Task(peer, self._codebook.machine(record), now - record.job_now, self._epochs)
        task.wake_at = record.wake_at
        task.rewound_view = self.table.placement.rewind_view
        self._tasks[peer.task] = task
        self.shelf.add(record, replica=False)
        task.saved = record.label
        self._copies.wait(record)
        for send in self._codebook.kept(record):
            self._perform_send(now, task, send)
        self._perform(now, task, self._codebook.rest(record))
        self._post(peer.task, Rewound(record.label, self.table.live()))
        self._count("restored_total")
        self._welcome(peer.task)

    def _welcome(self, name: str) -> None:
        """Hand over what neighbours in this host sent before the task was open."""
        for event in self._early.pop(name, []):
            self._post(name, event)

    def _stop(self, now: float) -> None:
        """The job is to end with the model so far: the root goes back to its newest Save, whose blobs nothing changes, and says how."""
        root, stop = self.table.root, self.table.placement.stop
        task = self._tasks.get(root) if stop else None
        if task is None or task.stopping or task.finished:
            return
        record = self.shelf.newest(root)
        self._drop(root)
        self._epochs += 1
        machine = self._codebook.machine(record) if record is not None else task.machine
        task = self._tasks[root] = Task(task.peer, machine, task.zero if record is None else now - record.job_now, self._epochs)
        task.stopping = True
        if record is not None:
            task.saved = record.label
            self._replicate(now, record)
        none = Finish(why=f"{stop}; there was no model yet")
        self._perform(now, task, [none] if record is None else machine.stop(stop, self.table.live(), task.job_now(now)))

    def _drop(self, name: str) -> None:
        """The task is no longer ours: it stops where it is; its Saves stay."""
        task = self._tasks.pop(name)
        self._effects += [Withdraw(serial) for serial in task.computing if serial not in task.cancelled]
        self.refs.forget_task(name)
        self.mail.cancel_task(name)
        self._copies.drop(name)
        self._queue = deque(item for item in self._queue if item[0] != name)

    def _listen(self) -> None:
        roles = tuple(sorted({task.peer.role for task in self._tasks.values()} | self.table.roles()))
        if roles != self._listening:
            self._listening = roles
            self._effects.append(Listen(roles))

    # -- the loop --------------------------------------------------------------------------

    def _post(self, name: str, event: Event) -> None:
        task = self._tasks.get(name)
        if task is not None:
            self._queue.append((name, task.epoch, event))
        elif isinstance(event, Delivered) and self.table.mine(name):
            self._early.setdefault(name, []).append(event)  # from a neighbour in this host, before the task's Save has come

    def _pump(self, now: float) -> None:
        """Run until nothing is left to do: letters, then events, then what the endpoint wants to say."""
        while True:
            retry = False
            for output in self.endpoint.take():
                match output:
                    case Publish():
                        self._effects.append(output)
                    case Arrived(letter):
                        self._arrived(now, letter)
                    case Acked(key, node):
                        self._acked(now, key, node)
                    case Refused(key, node, reason):
                        self._count(f"refused_{reason}_total")
                        if reason in {"not_placed", "no_such_task"} and self.mail.refused(key, node):
                            retry = True
            if retry:
                self._retry_refused(now)
                continue
            if not self._queue:
                break
            name, epoch, event = self._queue.popleft()
            task = self._tasks.get(name)
            if task is None or task.epoch != epoch or task.finished:
                continue
            self._perform(now, task, task.machine.step(event, task.job_now(now)))
        if self.refs.grown:
            self._sweep()

    def _perform(self, now: float, task: Task, commands: list[Command]) -> None:
        for index, command in enumerate(commands):
            match command:
                case Send() | Cast() | Finish():
                    if isinstance(command, Send) and command.keep is not None:
                        command = self._keep(task, command)  # noqa: PLW2901
                    if task.saves_begun > task.saves_done:
                        task.held.append((task.saves_begun, command))
                    else:
                        self._perform_send(now, task, command)
                case Run():
                    self._computes += 1
                    compute = Compute(
                        self._computes, task.peer.task, task.epoch, command.tag, command.op, command.refs, command.numbers, command.into
                    )
                    task.computing[compute.serial] = compute
                    self._effects.append(compute)
                case Cancel(tag):
                    stale = [serial for serial, compute in task.computing.items() if compute.tag == tag and serial not in task.cancelled]
                    task.cancelled.update(stale)
                    self._effects += [Withdraw(serial) for serial in stale]
                case WakeAt(when):
                    task.wake_at = when
                case Save(label):
                    self._save(now, task, label, commands[index + 1 :])
                case Measure(name, value):
                    self._gauge(task.peer.task, name, value)
                    if name in REFUSED_UPDATES:
                        self._count(name, value)
                    else:
                        self.measured[name] = value

    def _keep(self, task: Task, send: Send) -> Send:
        fixed: Send = map_refs(send, lambda ref: self.refs.blob(task.peer.task, ref))
        if fixed not in task.kept:
            task.kept.append(fixed)
        return fixed

    def _save(self, now: float, task: Task, label: int, rest: list[Command]) -> None:
        name = task.peer.task

        def durable(ref: Ref) -> Ref:
            return self.refs.blob(name, ref)

        made: set[str] = set()  # handles that a Run behind the Save makes (anew): what stands behind that Run means the new value

        def if_known(ref: Ref) -> Ref:
            if isinstance(ref, Handle) and ref.name in made:
                return ref
            try:
                return self.refs.blob(name, ref)
            except OpError:
                return ref

        machine = map_refs(task.machine, durable)
        commands: list[Command] = []
        for command in rest:
            fixed = map_refs(command, if_known)
            if isinstance(command, Run):
                fixed = msgspec.structs.replace(fixed, into=command.into)
                made |= {handle.name for handle in command.into.values()}
            commands.append(fixed)
        record = self._codebook.encode_record(name, task.peer.role, label, task.job_now(now), machine, commands, list(task.kept), task.wake_at)
        task.saving.append(label)
        task.saved = label
        task.saves_begun += 1
        self._persist(record)

    def _end_op(self, now: float, compute: Compute, event: Ran | Failed) -> None:
        task = self._tasks.get(compute.task)
        if task is not None and task.epoch == compute.epoch and task.computing.pop(compute.serial, None) is not None:
            if compute.serial in task.cancelled:
                task.cancelled.discard(compute.serial)
            else:
                self._post(compute.task, event)
        self._pump(now)

    def _sweep(self) -> None:
        handles: set[tuple[str, str]] = set()
        digests: set[str] = {*self.endpoint.digests(), *self.mail.digests()}
        for name, task in self._tasks.items():
            parts: list[Any] = [task.machine, task.kept, task.result, [command for _, command in task.held]]
            parts.append(self._unheard.of(name))
            parts += [[compute.refs, compute.into] for compute in task.computing.values()]
            for ref in refs_in(parts):
                if isinstance(ref, Handle):
                    handles.add((name, ref.name))
                else:
                    digests.add(ref.digest)
        for ref in refs_in([event.message for events in self._early.values() for event in events if isinstance(event, Delivered)]):
            if isinstance(ref, Blob):
                digests.add(ref.digest)
        for letter in [*self._parked, *self._replica_letters.values()]:
            digests |= {meta.digest for meta in letter.content.blobs}
        for saving in [record.digests() for record in self._persisting.values()]:
            digests |= saving
        self.refs.sweep(handles, digests)

    def _persist(self, record: Record, replica: bool = False) -> None:
        self._persisting[record.task, record.label] = record
        self._effects.append(Persist(record, replica))

    # -- sending ---------------------------------------------------------------------------

    def _perform_send(self, now: float, task: Task, command: Send | Cast | Finish) -> None:
        match command:
            case Send():
                self._send(now, task, command)
            case Cast():
                self._cast(now, task, command)
            case Finish():
                self._finish(now, task, command)

    def _send(self, now: float, task: Task, send: Send) -> None:
        name = task.peer.task
        if send.keep is not None:
            if send.keep <= self.root_saved:
                return
            send = self._keep(task, send)
        peer = self.table.peers.get(send.to)
        if peer is None or not peer.live:
            self._count("sends_without_receiver_total")  # a kept one leaves when the receiver is placed
            if send.to in self._unheard and send.keep is None:
                self._unheard.note(name, map_refs(send, lambda ref: self.refs.blob(name, ref, send.once)))
            return
        fixed: Send = map_refs(send, lambda ref: self.refs.blob(name, ref, send.once))
        if peer.node == self.me.node:
            self._post(send.to, Delivered(name, fixed.message))
            return
        self.mail.send(now, name, fixed, self.table.address(peer))

    def _cast(self, now: float, task: Task, cast: Cast) -> None:
        name = task.peer.task
        peers = [peer for peer in self.table.peers.values() if peer.role == cast.role and peer.live and peer.task != name]
        if not peers:
            return
        fixed: Cast = map_refs(cast, lambda ref: self.refs.blob(name, ref))
        for peer in peers:
            if peer.node == self.me.node:
                self._post(peer.task, Delivered(name, fixed.message))
        members = {peer.node: self.table.address(peer) for peer in peers if peer.node != self.me.node}
        if cast.latest:
            self.mail.outdate(name, cast.message, {cast.role, *(peer.task for peer in peers)})
        if not members:
            return
        scope = self.me.site if all(address.site == self.me.site for address in members.values()) else topics.ALL_SITES
        self.mail.cast(now, name, fixed, scope, members)

    def _finish(self, now: float, task: Task, finish: Finish) -> None:
        name = task.peer.task
        task.finished, task.why = True, finish.why
        task.wake_at = None
        if name == self.table.root:
            task.result = finish
            self._hand_in(now, task)
        self._change(urgent=True)

    def _hand_in(self, now: float, task: Task) -> None:
        """The job's result leaves once the root's last Save is safe: nobody sees a job finish whose last round could be closed again."""
        finish, name = task.result, task.peer.task
        if finish is not None and (finish.why or task.saved <= self.root_saved):
            task.result = None
            blobs = {key: self.refs.blob(name, ref) for key, ref in finish.refs.items()}
            history = task.machine.progress()[1]
            result = Result(self.job, name, finish.numbers, blobs, history, finish.why)
            to = Address(COORDINATOR, CLOUD_SITE, "cloud", self.me.kind)
            self.mail.post(now, name, RESULT, _encoder.encode(result), tuple(blobs.values()), to, about=Send(RESULT, result))

    def _send_unheard(self, now: float, peer: Peer) -> None:
        for name, send in self._unheard.back(peer):
            if name in self._tasks:
                self._perform_send(now, self._tasks[name], send)

    def _resend(self, now: float, name: str, come: set[str]) -> None:
        """Kept messages go again to receivers that are new instances."""
        task = self._tasks[name]
        held = [command for _, command in task.held]
        for send in [send for send in task.kept if send.to in come and send not in held]:
            self.mail.cancel_same(send)
            self._send(now, task, send)

    def _retry_refused(self, now: float) -> None:
        """A new table: those who did not know the sender may know it now."""
        for key, name, command, nodes in self.mail.take_refused():
            if not self._tasks[name].peer.live:  # with the next table
                for node in nodes:
                    self.mail.refused(key, node)
                continue
            keep = command.keep if isinstance(command, Send) else None
            for peer in [peer for peer in self.table.peers.values() if peer.node in nodes and peer.live]:
                if command.to == peer.task if isinstance(command, Send) else command.role == peer.role:
                    self._perform_send(now, self._tasks[name], Send(peer.task, command.message, keep=keep, latest=command.latest))
            self.mail.retried(key)

    def _acked(self, now: float, key: Any, node: str) -> None:
        self.mail.acked(now, key, node)
        if (copy := self._copies.acked(key)) is not None and copy[0] == self.table.root:
            self._announce(now, copy[1])
        self._copies.send_waiting(now, self.table)

    # -- durability ------------------------------------------------------------------------

    def _replicate(self, now: float, record: Record, anew: bool = False) -> None:
        """Copy a durable Save to the task's buddy. The root's is announced once the copy is there (or none is kept)."""
        if not self._copies.offer(now, self.table, record, anew) and record.task == self.table.root:
            self._announce(now, record.label)

    def _announce(self, now: float, label: int) -> None:
        """The root's Save(label) is safe: every letter says so from now on, and spools let go."""
        if label > self.root_saved:
            self.root_saved = label
            self.endpoint.stamp(now, self.view, label)
            self._release()
            self._change(urgent=True)  # the rounds up to there are history now
            if (root := self._tasks.get(self.table.root)) is not None:
                self._hand_in(now, root)

    def _release(self) -> None:
        for task in self._tasks.values():
            task.kept = [send for send in task.kept if send.keep is not None and send.keep > self.root_saved]

    # -- receiving -------------------------------------------------------------------------

    def _arrived(self, now: float, letter: Letter) -> None:
        content = letter.content
        if letter.root_saved > self.root_saved and letter.view >= self.view:
            self.root_saved = letter.root_saved
            self.endpoint.stamp(now, self.view, self.root_saved)
            self._release()
        if letter.view > self.view:
            self._park(letter)
            return
        if self.table.incarnation(letter.node) > letter.incarnation:
            self._refuse(letter, "dead_incarnation")
            return
        if content.to == HOST:
            self._host_letter(now, letter)
            return
        if letter.view < self.view:
            self._refuse(letter, "stale_view")
            return
        sender = self.table.peers.get(content.sender)
        if sender is None or sender.node != letter.node or sender.incarnation != letter.incarnation:
            self._refuse(letter, "not_placed")
            return
        targets = [content.to] if content.to in self.table.peers else self.table.of_role(content.to)
        targets = [target for target in targets if self.table.mine(target)]
        if not targets:
            self._refuse(letter, "no_such_task")
            return
        if any(target not in self._tasks for target in targets):
            self._park(letter)
            return
        try:
            message = self._codebook.decode_message(content.body)
        except WireError:
            self._refuse(letter, "malformed")
            return
        self.endpoint.accept(letter)
        for target in targets:
            self._post(target, Delivered(content.sender, message))

    def _host_letter(self, now: float, letter: Letter) -> None:
        try:
            message = decode_host_message(letter.content.body)
        except WireError:
            self._refuse(letter, "malformed")
            return
        name = message.record.task if isinstance(message, Replica) else message.task
        peer = self.table.peers.get(name)
        if isinstance(message, Replica) and name in self._tasks:  # it runs here meanwhile: an old copy is of no use
            self.endpoint.accept(letter)
            return
        if isinstance(message, Fetch) or not self._fetches.is_answer(letter, name):
            if letter.view < self.view:
                self._refuse(letter, "stale_view")
                return
            if isinstance(message, Missing) or peer is None or peer.node != letter.node or peer.incarnation not in (0, letter.incarnation):
                self._refuse(letter, "not_placed")
                return
        match message:
            case Replica(record):
                if (before := self._replica_letters.pop((record.task, record.label), None)) is not None:
                    self._refuse(before, "repeated")  # its sender has sent it anew
                self._replica_letters[record.task, record.label] = letter
                self._persist(record, replica=True)
            case Fetch(_, at_most):
                found = [record for record in self._persisting.values() if record.task == name]  # to the disk; it is as good there as here
                found += filter(None, [self.shelf.newest(name, at_most)])
                newest = max([r for r in found if at_most is None or r.label <= at_most], key=lambda record: record.label, default=None)
                blobs = newest.blobs if newest else ()
                address = self.table.address_of(letter.node)
                if address is None or not self.refs.blobs.hold(blobs):
                    self._refuse(letter, "not_placed")  # its blobs have just made room for a newer Save's: it asks again with the next table
                    return
                self.mail.to_host(now, address, Replica(newest) if newest else Missing(name), blobs)
                self.endpoint.accept(letter)
            case Missing():
                self.endpoint.accept(letter)
                self._missing(now, name)

    def _park(self, letter: Letter) -> None:
        self._parked.append(letter)
        self._change(urgent=True)

    def _unpark(self, now: float) -> None:
        parked, self._parked = self._parked, []
        for letter in parked:
            self._arrived(now, letter)

    def _refuse(self, letter: Letter, reason: str) -> None:
        self._count(f"rejected_{reason}_total")
        self.endpoint.refuse(letter, reason)

    def _change(self, urgent: bool) -> None:
        self._urgent = urgent or bool(self._urgent)

    def _count(self, name: str, by: float = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by


def _same(old: Peer, new: Peer | None) -> bool:
    """Still the same instance of the task?"""
    return new is not None and (new.node, new.incarnation, new.since) == (old.node, old.incarnation, old.since) and new.live == old.live
