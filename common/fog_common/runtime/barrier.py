"""The Save barrier of a host: commands are performed in order, and messages behind a Save leave only once the Save is durable.

The steps of one Save, in order:

1. `Save(label)`: state, spool and the commands behind the Save become one record, which goes to the disk (`Persist`);
2. Sends, Casts and Finish behind the Save are held; ops, alarms and measurements are not;
3. the record is on this disk (`persisted`): held commands leave, the record is copied to the task's buddy;
4. the copy is on the buddy's disk (`acked`; at once if no copy is kept): for the root, `root_saved` rises to the label;
5. every letter carries `root_saved`: spools drop messages that it covers, rounds up to it are history, the job's result may leave.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fog_common.errors import OpError
from fog_common.runtime.effects import Compute, Persist, Withdraw
from fog_common.runtime.hosted import Hosted
from fog_common.runtime.machine import Cancel, Cast, Close, Command, Finish, Handle, Measure, Ref, Run, Save, Send, WakeAt, map_refs
from fog_common.runtime.outbound import Outbound
from fog_common.runtime.saves import Record
from fog_common.runtime.task import Task
from fog_common.telemetry.metrics import REFUSED_UPDATES


class Barrier:
    def __init__(self, hosted: Hosted, outbound: Outbound) -> None:
        self._hosted = hosted
        self._outbound = outbound

    def perform(self, now: float, task: Task, commands: list[Command]) -> None:
        """Perform the commands of one step in order."""
        hosted = self._hosted
        for index, command in enumerate(commands):
            match command:
                case Send() | Cast() | Finish():
                    if isinstance(command, Send) and command.keep is not None:
                        command = self._outbound.keep(task, command)  # noqa: PLW2901
                    if task.saves_begun > task.saves_done:
                        task.held.append((task.saves_begun, command))
                    else:
                        self._outbound.perform(now, task, command)
                case Run():
                    serial = hosted.next_compute()
                    compute = Compute(serial, task.peer.task, task.epoch, command.tag, command.op, command.refs, command.numbers, command.into)
                    task.computing[serial] = compute
                    hosted.emit(compute)
                case Cancel(tag):
                    stale = [serial for serial, compute in task.computing.items() if compute.tag == tag and serial not in task.cancelled]
                    task.cancelled.update(stale)
                    for serial in stale:
                        hosted.emit(Withdraw(serial))
                case WakeAt(when):
                    task.wake_at = when
                case Save(label):
                    self._save(now, task, label, commands[index + 1 :])
                case Close(record):
                    task.closed.close(record)
                case Measure(name, value):
                    if name in REFUSED_UPDATES:
                        hosted.count(name, value)
                    else:
                        hosted.measured[name] = value

    # -- a Save ----------------------------------------------------------------------------

    def _save(self, now: float, task: Task, label: int, rest: list[Command]) -> None:
        refs, name = self._hosted.refs, task.peer.task

        def durable(ref: Ref) -> Ref:
            return refs.blob(name, ref)

        made: set[str] = set()  # handles that a Run behind the Save makes (anew): later commands refer to the new value

        def if_known(ref: Ref) -> Ref:
            if isinstance(ref, Handle) and ref.name in made:
                return ref
            try:
                return refs.blob(name, ref)
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
        codebook, role, job_now, rounds = self._hosted.codebook, task.peer.role, task.job_now(now), task.closed.save()
        record = codebook.encode_record(name, role, label, job_now, machine, commands, list(task.kept), task.wake_at, rounds)
        task.saving.append(label)
        task.saved = label
        task.saves_begun += 1
        self.persist(record)

    def persist(self, record: Record, replica: bool = False) -> None:
        self._hosted.persisting[record.task, record.label] = record
        self._hosted.emit(Persist(record, replica))

    def persisted(self, now: float, record: Record) -> None:
        """The record of a task of this host is on the disk."""
        task = self._hosted.tasks.get(record.task)
        if task is not None and record.label in task.saving:
            task.saving.remove(record.label)
            task.saves_done += 1
            held, task.held = task.held, []
            for number, command in held:
                if number <= task.saves_done:
                    self._outbound.perform(now, task, command)
                else:
                    task.held.append((number, command))
            self.replicate(now, record)
        self._hosted.change(urgent=False)

    # -- the copy --------------------------------------------------------------------------

    def replicate(self, now: float, record: Record, anew: bool = False) -> None:
        """Copy a durable Save to the task's buddy. A Save of the root is announced once its copy has arrived, or at once without a buddy."""
        hosted = self._hosted
        if not hosted.copies.offer(now, hosted.table, record, anew) and record.task == hosted.table.root:
            self._announce(now, record.label)

    def acked(self, now: float, key: Any, node: str) -> None:
        """A letter of this host has arrived at `node`; a copy is on the node's disk."""
        hosted = self._hosted
        hosted.mail.acked(now, key, node)
        if (copy := hosted.copies.acked(key)) is not None and copy[0] == hosted.table.root:
            self._announce(now, copy[1])
        hosted.copies.send_waiting(now, hosted.table)

    def _announce(self, now: float, label: int) -> None:
        """The root's Save(label) is safe: letters carry it from now on, and spools drop messages that it covers."""
        hosted = self._hosted
        if label > hosted.root_saved:
            self.heard(now, label)
            hosted.change(urgent=True)  # the rounds up to this label are history now
            if (root := hosted.tasks.get(hosted.table.root)) is not None:
                self._outbound.hand_in(now, root)

    def heard(self, now: float, label: int) -> None:
        """The root's Saves are safe up to this label: own letters carry it, own spools drop messages that it covers."""
        hosted = self._hosted
        hosted.root_saved = label
        hosted.endpoint.stamp(now, hosted.table.view, label)
        for task in hosted.tasks.values():
            task.kept = [send for send in task.kept if send.keep is not None and send.keep > label]
