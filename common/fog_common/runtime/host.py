"""The host of a job's tasks on one node: runs machines between a shell and the endpoint. Sans-IO.

A shell (the live worker, the simulator) calls the handlers with `now` (its own monotonic seconds), performs the effects of
`take()` in order, and reports their ends by further handlers. Effects:

- `PublishFrame(topic, payload, plane)` (from the endpoint): publish the frame on the bus;
- `Compute(...)`: run an op after all earlier ones, store outputs named in `into` with `refs.store` at once, then `on_ran` or `on_failed`;
- `Withdraw(serial)`: do not run that op if it has not begun, then `on_withdrawn`;
- `Persist(record)`: write the record and its blobs, one fsync, keep the last two labels of the task, then `on_persisted`;
- `Listen(roles)`: subscribe to the casts of these roles, and no others;
- `Changed(urgent)`: the worker's report changed (see `task_states`).

Parts, each of which knows only earlier ones: `hosted` (shared state), `outbound` (sends), `barrier` (commands, Saves, copies),
`placing` (tables; the order of its steps), `inbound` (letters). The host has the handlers and the loop. A handler takes over its
event, then repeats until none is left: letters of the endpoint, acknowledgements, refusals, then one event of one task with all
its commands; last, unreachable values are swept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fog_common.runtime.barrier import Barrier
from fog_common.runtime.effects import Compute, Effect
from fog_common.runtime.hosted import Hosted
from fog_common.runtime.inbound import Inbound
from fog_common.runtime.machine import Blob, Delivered, Failed, Handle, Machine, Numbers, Peer, Ran, Ref, Woke, refs_in
from fog_common.runtime.mail import Mail
from fog_common.runtime.outbound import Outbound
from fog_common.runtime.placing import Placer
from fog_common.runtime.refs import Refs
from fog_common.runtime.saves import Program, Record
from fog_common.runtime.shelf import Shelf
from fog_common.runtime.table import Table
from fog_common.transfer.endpoint import Acked, Address, Arrived, Endpoint, LetterRefused, PublishFrame
from fog_common.wire import topics
from fog_common.wire.messages import DesiredJob, ReplicaState, TaskState


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
    ) -> None:
        """build: makes the initial machine of a task. incarnation: of this worker process, from 1."""
        self.me = me
        self.job = job
        self.incarnation = incarnation
        self.refs = refs
        self.endpoint = endpoint
        self.shelf = shelf
        self._hosted = Hosted(me, job, incarnation, program, build, refs, endpoint, shelf)
        self._outbound = Outbound(self._hosted)
        self._barrier = Barrier(self._hosted, self._outbound)
        self._placing = Placer(self._hosted, self._outbound, self._barrier)
        self._inbound = Inbound(self._hosted, self._barrier, self._placing)

    # -- from the shell --------------------------------------------------------------------

    def on_placement(self, now: float, desired: DesiredJob) -> None:
        """Take over a table of the coordinator, and the rounds that it has. An older view is ignored; the same view changes no task."""
        hosted, view = self._hosted, desired.placement.view
        if view <= hosted.table.view:
            if view == hosted.table.view and desired.history_seen != hosted.history_seen:
                self.on_history_seen(desired.history_seen)
            return
        hosted.stimuli.note(now, "placement", "", view)
        self._placing.place(now, desired)
        self._inbound.unpark(now)
        hosted.change(urgent=True)
        self._pump(now)

    def on_history_seen(self, seen: int) -> None:
        """The coordinator has the rounds up to `seen` durably; reports continue with the next ones."""
        self._hosted.acknowledge(seen)
        self._hosted.change(urgent=True)

    def on_frame(self, now: float, route: topics.Route, payload: bytes) -> None:
        """A frame of the bus for this host's inbox."""
        if route.kind != self.me.kind:
            self._hosted.count("rejected_unknown_topic_total")  # some brokers deliver more than the filters match
            return
        self.endpoint.on_frame(now, route, payload)
        self._pump(now)

    def on_ran(self, now: float, compute: Compute, outputs: dict[str, Any], numbers: Numbers) -> None:
        """The op is done. outputs: its values by name."""
        task = self._hosted.tasks.get(compute.task)
        refs: dict[str, Ref] = {}
        if task is not None and task.epoch == compute.epoch:
            for name, value in outputs.items():
                handle = compute.into.get(name) or self.refs.invent()
                if name not in compute.into:
                    self.refs.store(compute.task, handle, value)
                refs[name] = handle
        self._end_op(now, compute, Ran(compute.tag, refs, numbers))

    def on_failed(self, now: float, compute: Compute, why: str) -> None:
        """The op ended with an error."""
        self._end_op(now, compute, Failed(compute.tag, why))

    def on_withdrawn(self, compute: Compute) -> None:
        """The op had not begun, and will not run."""
        task = self._hosted.tasks.get(compute.task)
        if task is not None and task.epoch == compute.epoch:
            task.computing.pop(compute.serial, None)
            task.cancelled.discard(compute.serial)

    def on_persisted(self, now: float, record: Record, replica: bool) -> None:
        """The record and its blobs are on disk."""
        hosted = self._hosted
        hosted.stimuli.note(now, "replica persisted" if replica else "persisted", record.task, record.label)
        hosted.persisting.pop((record.task, record.label), None)
        if replica:
            self._inbound.replica_persisted(now, record)
        else:
            self.shelf.add(record, replica=False)
            self._barrier.persisted(now, record)
        self._pump(now)

    def on_connected(self, now: float) -> None:
        self._hosted.stimuli.note(now, "connected", "")
        self.endpoint.connected(now)
        self._pump(now)

    def on_disconnected(self, now: float) -> None:
        self._hosted.stimuli.note(now, "disconnected", "")
        self.endpoint.disconnected(now)

    def on_timer(self, now: float) -> None:
        """Call when `next_timer()` is reached (or at any other time)."""
        self.endpoint.on_timer(now)
        for task in self._hosted.tasks.values():
            if task.wake_at is not None and task.job_now(now) >= task.wake_at:
                task.wake_at = None
                self._hosted.post(task.peer.task, Woke())
        self._pump(now)

    def next_timer(self) -> float | None:
        """Host time at which `on_timer` is due; None without a timer."""
        times = [at for task in self._hosted.tasks.values() if (at := task.wakes_at) is not None]
        at = self.endpoint.next_timer()
        return min(times if at is None else [*times, at], default=None)

    def take(self) -> list[Effect]:
        """The effects since the last call, in order."""
        return self._hosted.take()

    # -- reports ---------------------------------------------------------------------------

    def task_states(self, now: float) -> tuple[TaskState, ...]:
        """States of all tasks of this host, and of earlier tasks whose Saves are still on this disk."""
        hosted, states = self._hosted, []
        for name, task in hosted.tasks.items():
            at = task.job_now(now)
            history, more = task.closed.report(hosted.root_saved) if name == hosted.table.root else ((), False)
            states.append(
                TaskState(
                    task=name,
                    since=task.peer.since,
                    labels=self.shelf.labels(name),
                    round=task.machine.progress(),
                    waiting=None if task.finished else task.machine.waiting(at),
                    now=at,
                    history=history,
                    finished=task.finished and not more,
                    why=task.why,
                    note="" if task.finished else task.machine.note(),
                    busy=bool(task.computing or task.saving or task.held) or hosted.mail.under_way(name),
                )
            )
        running = {state.task for state in states}
        for name in sorted(self.shelf.own() - running):  # earlier tasks, whose Saves the coordinator may need
            states.append(TaskState(task=name, since=0, labels=self.shelf.labels(name)))
        return tuple(states)

    def replica_states(self) -> tuple[ReplicaState, ...]:
        return tuple(ReplicaState(task, labels) for task, labels in self.shelf.replicas())

    @property
    def kept_bytes(self) -> int:
        """Bytes in the spools, which hold updates that the root has not saved yet."""
        sends = [send for task in self._hosted.tasks.values() for send in task.kept]
        return sum(ref.size for send in sends for ref in refs_in(send.message) if isinstance(ref, Blob))

    @property
    def backlog(self) -> int:
        """Number of waiting letters and events."""
        hosted = self._hosted
        return len(hosted.queue) + len(hosted.parked) + sum(map(len, hosted.early.values()))

    @property
    def table(self) -> Table:
        return self._hosted.table

    @property
    def view(self) -> int:
        return self._hosted.table.view

    @property
    def root_saved(self) -> int:
        """Newest label of the root that is known to be safe; -1 without one."""
        return self._hosted.root_saved

    @property
    def mail(self) -> Mail:
        return self._hosted.mail

    @property
    def counters(self) -> dict[str, float]:
        return self._hosted.counters

    @property
    def measured(self) -> dict[str, float]:
        """Last value of every `Measure`, by name."""
        return self._hosted.measured

    # -- for debugging ---------------------------------------------------------------------

    def story(self, task: str = "") -> Iterator[str]:
        """Lines about the last stimuli of one task, or of all."""
        return self._hosted.stimuli.story(task)

    def validate(self) -> list[str]:
        """Violated invariants, one line each; must be [] between two handlers."""
        return self._hosted.validate()

    # -- the loop --------------------------------------------------------------------------

    def _pump(self, now: float) -> None:
        """Handle letters and events until none is left."""
        hosted = self._hosted
        while True:
            if self._take_letters(now):
                self._outbound.retry_refused(now)
                continue
            if not hosted.queue:
                break
            name, epoch, event = hosted.queue.popleft()
            task = hosted.tasks.get(name)
            if task is None or task.epoch != epoch or task.finished:
                continue
            hosted.stimuli.note(now, type(event).__name__, name, event)
            self._barrier.perform(now, task, task.machine.step(event, task.job_now(now)))
        if self.refs.grown:
            self._sweep()

    def _take_letters(self, now: float) -> bool:
        """Take the outputs of the endpoint; returns whether a refused letter is to be tried again."""
        hosted, retry = self._hosted, False
        for output in self.endpoint.take():
            match output:
                case PublishFrame():
                    hosted.emit(output)
                case Arrived(letter):
                    self._inbound.arrived(now, letter)
                case Acked(key, node):
                    self._barrier.acked(now, key, node)
                case LetterRefused(key, node, reason):
                    hosted.count(f"refused_{reason}_total")
                    hosted.stimuli.note(now, "refused", "", (node, reason))
                    if reason in {"not_placed", "no_such_task"} and hosted.mail.refused(key, node):
                        retry = True
        return retry

    def _end_op(self, now: float, compute: Compute, event: Ran | Failed) -> None:
        task = self._hosted.tasks.get(compute.task)
        if task is not None and task.epoch == compute.epoch and task.computing.pop(compute.serial, None) is not None:
            if compute.serial in task.cancelled:
                task.cancelled.discard(compute.serial)
            else:
                self._hosted.post(compute.task, event)
        self._pump(now)

    def _sweep(self) -> None:
        """Drop unreachable values and bytes."""
        hosted = self._hosted
        handles: set[tuple[str, str]] = set()
        digests: set[str] = {*self.endpoint.digests(), *hosted.mail.digests()}
        for name, task in hosted.tasks.items():
            digests |= {page.digest for page in task.closed.pages}
            parts: list[Any] = [task.machine, task.kept, task.result, [command for _, command in task.held]]
            parts.append(hosted.unheard.of(name))
            parts += [[compute.refs, compute.into] for compute in task.computing.values()]
            for ref in refs_in(parts):
                if isinstance(ref, Handle):
                    handles.add((name, ref.name))
                else:
                    digests.add(ref.digest)
        for ref in refs_in([event.message for events in hosted.early.values() for event in events if isinstance(event, Delivered)]):
            if isinstance(ref, Blob):
                digests.add(ref.digest)
        for letter in [*hosted.parked, *hosted.replica_letters.values()]:
            digests |= {meta.digest for meta in letter.content.blobs}
        for saving in [record.digests() for record in hosted.persisting.values()]:
            digests |= saving
        self.refs.sweep(handles, digests)
