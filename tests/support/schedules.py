"""Runs all machines of a job against each other in random but legal schedules, as hosts and a coordinator would.

Letters are shuffled, delayed, duplicated; wake-ups come late, early, or not at all; tasks are killed at any moment and restored from
their newest durable Save (encoded and decoded; the commands behind it performed again, then Rewound; kept sends repeated), leave and
come back. Refs are swept after every step as the host does it, so a machine that loses a ref it needs fails here. Ops are plain
functions on plain values. Everything is a function of the seed.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Any

import msgspec

from fog_common.errors import OpError
from fog_common.runtime.machine import (
    Blob,
    Cancel,
    Cast,
    Close,
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
    Peer,
    Ran,
    Ref,
    Rewound,
    RoundRecord,
    Run,
    Save,
    Send,
    Started,
    WakeAt,
    Woke,
    map_refs,
    refs_in,
)
from fog_common.runtime.saves import Codebook, Program, Record
from fog_learning.job.sections import JobFile
from fog_learning.methods import resolve_method

Op = Callable[[str, dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, float]]]
"""(task, inputs, numbers) -> (outputs, numbers). OpError fails it."""


@dataclass(frozen=True)
class Faults:
    """How often what goes wrong; probabilities per action unless said otherwise."""

    duplicate: float = 0.1
    early_wake: float = 0.02
    lost_wake: float = 0.0
    crashes: int = 0
    """Kills of a task, at most; it comes back after a while."""
    leaves: int = 0
    """Tasks of data nodes that go for good, at most."""
    absent: tuple[str, ...] = ()
    """Tasks that come only later."""
    spare: tuple[str, ...] = ()
    """Tasks that are never killed."""


@dataclass
class Letter:
    sender: str
    incarnation: int
    to: str
    message: Any
    latest: bool
    view: int | None = None
    """Not None: the sender is dead, this was the view of its last word."""


@dataclass
class Seat:
    """One task and the little host around it."""

    peer: Peer
    machine: Machine | None = None
    view: int = 0
    zero: float = 0.0
    wake_at: float | None = None
    wake_lost: bool = False
    ops: deque[Run] = field(default_factory=deque)
    changes: deque[tuple[int, tuple[Peer, ...], tuple[Peer, ...]]] = field(default_factory=deque)
    saving: deque[Record] = field(default_factory=deque)
    records: list[Record] = field(default_factory=list)
    held: list[tuple[int, Command]] = field(default_factory=list)
    saves: tuple[int, int] = (0, 0)
    kept: list[Send] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)
    finished: Finish | None = None
    lives: int = 0
    history: list[RoundRecord] = field(default_factory=list)
    """Rounds that it closed."""
    histories: dict[int, list[RoundRecord]] = field(default_factory=dict)
    """The same at each Save, by label."""


class Stuck(AssertionError):
    """Nothing can happen any more, and the root does not say what it waits for."""


class Schedule:
    """One run. watch(task, event, commands, now) is called after every step of every machine."""

    def __init__(
        self,
        job: JobFile,
        data_tasks: int,
        ops: dict[str, Op],
        seed: int,
        faults: Faults = Faults(),
        watch: Callable[[Schedule, Seat, Event, list[Command]], None] = lambda *_: None,
        peers: tuple[Peer, ...] = (),
    ) -> None:
        """peers: the tasks of a job with a tree; without, one of each role and `data_tasks` of the one with data."""
        self.job, self.ops, self.faults, self.watch = job, ops, faults, watch
        self.random = random.Random(seed)
        self.now = 0.0
        self.method, self.plan = resolve_method(job)
        self.codebook = Codebook(Program({role.name: role.machine for role in self.method.roles}, self.method.messages))
        self.letters: list[Letter] = []
        self.contents: dict[str, Any] = {}
        self.view = 1
        self.incarnations = 0
        self.root_saved = -1
        self.crashes, self.leaves = faults.crashes, faults.leaves
        self.returning: list[tuple[float, str]] = []
        self.actions = 0
        self.sent: dict[str, int] = {}
        self.measured: dict[str, float] = {}
        self.seats: dict[str, Seat] = {}
        for peer in peers:
            self.seats[peer.task] = Seat(peer)
        for role in self.method.roles if not peers else ():
            names = [f"{role.name}-{slot}" for slot in range(data_tasks)] if role.bound == "slot" else [role.name]
            for slot, name in enumerate(names):
                self.seats[name] = Seat(Peer(name, role.name, slot if role.bound == "slot" else -1, f"node-{name}", "site", "edge"))
        self.root = next(name for name, seat in self.seats.items() if seat.peer.role == self.method.root)
        for name in sorted(self.seats):
            if name in faults.absent:
                self.returning.append((self.random.expovariate(0.05), name))
            else:
                self._place(self.seats[name])
        for name in sorted(self.seats):
            if self.seats[name].peer.live:
                self._open(self.seats[name])

    # -- running ---------------------------------------------------------------------------

    def run(self, limit: int = 200_000) -> Finish:
        """Until the root has finished. Stuck if it never can, AssertionError if it takes more than `limit` actions."""
        while self.seats[self.root].finished is None:
            self.actions += 1
            assert self.actions < limit, f"no end after {limit} actions: {self.describe()}"
            self.act()
        finish = self.seats[self.root].finished
        assert finish is not None
        return finish

    def act(self) -> None:
        self.now += self.random.expovariate(10.0)
        self._fault()
        choices = self._choices()
        if choices:
            self.random.choice(choices)()
            return
        times = [seat.zero + seat.wake_at for seat in self.seats.values() if seat.machine and seat.wake_at is not None and not seat.finished]
        times += [at for at, _ in self.returning]
        if times:
            self.now = max(self.now, min(times) + 1e-6)
            for seat in self.seats.values():
                seat.wake_lost = False  # all is quiet: a wake-up that got lost comes after all
            return
        root = self.seats[self.root]
        waiting = root.machine.waiting(self.now) if root.machine else None
        raise Stuck(self.describe() + f"\nroot waits for {waiting}")

    def describe(self) -> str:
        lines = [f"t={self.now:.2f} view={self.view} letters={[(x.sender, x.to, type(x.message).__name__, x.view) for x in self.letters]}"]
        lines += [
            f"{name}: view={seat.view} wake={seat.wake_at} ops={[run.tag for run in seat.ops]} {seat.machine}" for name, seat in self.seats.items()
        ]
        return "\n".join(lines)

    def _choices(self) -> list[Callable[[], None]]:
        choices: list[Callable[[], None]] = [lambda letter=letter: self._deliver(letter) for letter in self.letters if self._deliverable(letter)]
        for seat in self.seats.values():
            if seat.machine is None:
                continue
            if seat.ops:
                choices.append(lambda seat=seat: self._compute(seat))
            if seat.saving:
                choices.append(lambda seat=seat: self._persist(seat))
            if seat.changes:
                choices.append(lambda seat=seat: self._change(seat))
            if seat.wake_at is not None and not seat.wake_lost and self.now >= seat.zero + seat.wake_at:
                choices.append(lambda seat=seat: self._wake(seat))
        return choices

    def _wake(self, seat: Seat) -> None:
        if self.random.random() < self.faults.lost_wake:
            seat.wake_lost = True
            return
        seat.wake_at = None
        self._step(seat, Woke())

    # -- faults ----------------------------------------------------------------------------

    def _fault(self) -> None:
        for entry in [entry for entry in self.returning if entry[0] <= self.now]:
            self.returning.remove(entry)
            self._return(entry[1])
        up = [name for name in sorted(self.seats) if self.seats[name].peer.live and name not in self.faults.spare]
        if self.crashes and up and self.random.random() < 0.03:
            self.crashes -= 1
            name = self.random.choice(up)
            if self.random.random() < 0.5:
                self._kill(name, publish=True)
                self.returning.append((self.now + self.random.expovariate(0.3), name))
            else:  # back before anybody noticed
                old = self._kill(name, publish=False)
                self._return(name, gone=(old,))
        data = [name for name in up if self.seats[name].peer.slot >= 0]
        if self.leaves and len(data) > 1 and self.random.random() < 0.02:
            self.leaves -= 1
            self._kill(self.random.choice(data), publish=True)
        if self.random.random() < self.faults.early_wake:
            seat = self.seats[self.random.choice(sorted(self.seats))]
            if seat.machine is not None and not seat.finished:
                self._step(seat, Woke())

    def _kill(self, name: str, publish: bool) -> Peer:
        seat = self.seats[name]
        old = seat.peer
        for letter in self.letters:
            if letter.sender == name and letter.view is None:
                letter.view = seat.view
        self.letters = [letter for letter in self.letters if letter.view is None or self.random.random() < 0.5]
        seat.machine, seat.wake_at, seat.wake_lost = None, None, False
        for queue in (seat.ops, seat.changes, seat.saving, seat.held, seat.kept):
            queue.clear()
        seat.saves = (0, 0)
        seat.values.clear()
        seat.peer = msgspec.structs.replace(old, incarnation=0)
        if publish:
            self.view += 1
            self._publish(gone=(old,), come=(), but=name)
        return old

    def _return(self, name: str, gone: tuple[Peer, ...] = ()) -> None:
        seat = self.seats[name]
        self.view += 1
        self._place(seat)
        self._publish(gone, (seat.peer,), but=name)
        self._open(seat)

    def _place(self, seat: Seat) -> None:
        self.incarnations += 1
        seat.peer = msgspec.structs.replace(seat.peer, incarnation=self.incarnations, since=self.view)

    def _publish(self, gone: tuple[Peer, ...], come: tuple[Peer, ...], but: str) -> None:
        for name, seat in self.seats.items():
            if name != but and seat.machine is not None:
                seat.changes.append((self.view, gone, come))

    def _roster(self) -> tuple[Peer, ...]:
        return tuple(seat.peer for seat in self.seats.values() if seat.peer.live)

    def _open(self, seat: Seat) -> None:
        seat.view = self.view
        seat.lives += 1
        if not seat.records:
            seat.zero = self.now if seat.lives == 1 else seat.zero
            seat.machine, seat.history = self.method.build(self.job, self.plan, seat.peer), []
            self._step(seat, Started(self._roster()))
            return
        record = seat.records[-1]
        seat.history = list(seat.histories[record.label])
        seat.machine = self.codebook.machine(record)
        seat.zero, seat.wake_at = self.now - record.job_now, record.wake_at
        seat.blobs = {blob.digest for old in seat.records for blob in old.blobs}
        for send in self.codebook.kept(record):
            self._send(seat, send)
        self._perform(seat, self.codebook.rest(record))
        self._step(seat, Rewound(record.label, self._roster()))

    def _change(self, seat: Seat) -> None:
        view, gone, come = seat.changes.popleft()
        seat.view = view
        names = {peer.task for peer in gone}
        self.letters = [letter for letter in self.letters if letter.sender != seat.peer.task or letter.view is not None or letter.to not in names]
        for peer in gone:
            self._step(seat, Left(peer, view=view))
        for peer in come:
            self._step(seat, Joined(peer, view))
        arrived = {peer.task for peer in come}
        held = [map_refs(command, lambda ref: self._blob(seat, ref)) for _, command in seat.held]
        for send in list(seat.kept):
            if send.to in arrived and send not in held:
                self._send(seat, send)

    # -- letters ---------------------------------------------------------------------------

    def _deliverable(self, letter: Letter) -> bool:
        receiver, sender = self.seats[letter.to], self.seats[letter.sender]
        if receiver.machine is None or receiver.finished:
            return False
        return receiver.view == (sender.view if letter.view is None else letter.view)

    def _deliver(self, letter: Letter) -> None:
        if self.random.random() >= self.faults.duplicate:
            self.letters.remove(letter)
        seat = self.seats[letter.to]
        message = self.codebook.decode_message(self.codebook.encode_message(letter.message))
        seat.blobs |= {ref.digest for ref in refs_in(message) if isinstance(ref, Blob)}
        self._step(seat, Delivered(letter.sender, message))

    def _post(self, seat: Seat, to: str, message: Any, latest: bool) -> None:
        self.sent[type(message).__name__] = self.sent.get(type(message).__name__, 0) + 1
        name = seat.peer.task
        if latest:
            kind = type(message)
            self.letters = [x for x in self.letters if not (x.sender == name and x.to == to and type(x.message) is kind and x.view is None)]
        self.letters.append(Letter(name, seat.peer.incarnation, to, message, latest))

    def _known_live(self, seat: Seat) -> list[Peer]:
        """The live tasks as this seat's table has them."""
        live = {peer.task: peer for peer in self._roster()}
        for _, gone, come in reversed(seat.changes):
            for peer in come:
                live.pop(peer.task, None)
            for peer in gone:
                live[peer.task] = peer
        return [live[name] for name in sorted(live)]

    def _send(self, seat: Seat, send: Send) -> None:
        fixed: Send = map_refs(send, lambda ref: self._blob(seat, ref))
        if fixed.keep is not None:
            if fixed.keep <= self.root_saved:
                return
            if fixed not in seat.kept:
                seat.kept.append(fixed)
        if any(peer.task == fixed.to for peer in self._known_live(seat)):
            self._post(seat, fixed.to, fixed.message, fixed.latest)

    def _blob(self, seat: Seat, ref: Ref) -> Blob:
        if isinstance(ref, Blob):
            assert ref.digest in seat.blobs, f"{seat.peer.task} names a blob that it let go"
            return ref
        if ref.name not in seat.values:
            raise OpError(f"{seat.peer.task}: handle {ref.name!r} has no value")
        content = json.dumps(seat.values[ref.name], sort_keys=True)
        blob = Blob(blake2s(content.encode()).hexdigest(), len(content))
        self.contents[blob.digest] = seat.values[ref.name]
        seat.blobs.add(blob.digest)
        return blob

    # -- ops, saves ------------------------------------------------------------------------

    def _compute(self, seat: Seat) -> None:
        run = seat.ops[0]
        try:
            inputs = {}
            for name, ref in run.refs.items():
                if isinstance(ref, Blob):
                    assert ref.digest in seat.blobs, f"{seat.peer.task}: {run.op} needs a blob that was let go"
                    inputs[name] = self.contents[ref.digest]
                elif ref.name in seat.values:
                    inputs[name] = seat.values[ref.name]
            outputs, numbers = self.ops[run.op](seat.peer.task, inputs, dict(run.numbers))
        except OpError as error:
            seat.ops.popleft()
            self._step(seat, Failed(run.tag, str(error)))
            return
        refs: dict[str, Ref] = {}
        for name, value in outputs.items():
            handle = run.into.get(name) or Handle(f"h{self.actions}-{name}")
            seat.values[handle.name] = json.loads(json.dumps(value))
            refs[name] = handle
        seat.ops.popleft()
        self._step(seat, Ran(run.tag, refs, numbers))

    def _save(self, seat: Seat, label: int, rest: list[Command]) -> None:
        def if_known(ref: Ref) -> Ref:
            return ref if isinstance(ref, Handle) and ref.name not in seat.values else self._blob(seat, ref)

        assert seat.machine is not None
        machine = map_refs(seat.machine, lambda ref: self._blob(seat, ref))
        commands = [
            msgspec.structs.replace(map_refs(later, if_known), into=later.into) if isinstance(later, Run) else map_refs(later, if_known)
            for later in rest
        ]
        now = self.now - seat.zero
        record = self.codebook.encode_record(seat.peer.task, seat.peer.role, label, now, machine, commands, list(seat.kept), seat.wake_at)
        seat.saving.append(record)
        seat.histories[label] = list(seat.history)
        seat.saves = (seat.saves[0] + 1, seat.saves[1])

    def _persist(self, seat: Seat) -> None:
        record = seat.saving.popleft()
        seat.records = [*(old for old in seat.records if old.label < record.label), record][-2:]
        seat.saves = (seat.saves[0], seat.saves[1] + 1)
        if seat.peer.task == self.root:
            self.root_saved = max(self.root_saved, record.label)
            for other in self.seats.values():
                other.kept = [send for send in other.kept if send.keep is not None and send.keep > self.root_saved]
        held, seat.held = seat.held, []
        for number, command in held:
            if number <= seat.saves[1]:
                self._leave(seat, command)
            else:
                seat.held.append((number, command))
        self._sweep(seat)

    def _leave(self, seat: Seat, command: Command) -> None:
        match command:
            case Send():
                self._send(seat, command)
            case Cast(role, message, latest):
                fixed = map_refs(message, lambda ref: self._blob(seat, ref))
                for peer in self._known_live(seat):
                    if peer.role == role and peer.task != seat.peer.task:
                        self._post(seat, peer.task, fixed, latest)
            case Finish():
                for ref in command.refs.values():
                    self._blob(seat, ref)
                seat.finished = map_refs(command, lambda ref: self._blob(seat, ref))

    # -- steps -----------------------------------------------------------------------------

    def _step(self, seat: Seat, event: Event) -> None:
        machine = seat.machine
        if machine is None or seat.finished:
            return
        at = self.now - seat.zero
        twin = msgspec.msgpack.decode(msgspec.msgpack.encode(machine), type=type(machine)) if self.random.random() < 0.2 else None
        commands = machine.step(event, at)
        if twin is not None:
            assert twin.step(event, at) == commands, f"{seat.peer.task}: a decoded machine answers {event} differently"
            assert msgspec.msgpack.encode(twin) == msgspec.msgpack.encode(machine)
        machine.waiting(at)
        self._perform(seat, commands)
        self.watch(self, seat, event, commands)
        self._sweep(seat)

    def _perform(self, seat: Seat, commands: list[Command]) -> None:
        for index, command in enumerate(commands):
            match command:
                case Send() | Cast() | Finish():
                    if isinstance(command, Send) and command.keep is not None:
                        kept = map_refs(command, lambda ref: self._blob(seat, ref))
                        if kept not in seat.kept and command.keep > self.root_saved:
                            seat.kept.append(kept)
                    if seat.saves[0] > seat.saves[1]:
                        seat.held.append((seat.saves[0], command))
                    else:
                        self._leave(seat, command)
                case Run():
                    seat.ops.append(command)
                case Cancel(tag):
                    seat.ops = deque(run for run in seat.ops if run.tag != tag)
                case WakeAt(when):
                    seat.wake_at, seat.wake_lost = when, False
                case Save(label):
                    self._save(seat, label, commands[index + 1 :])
                case Close(record):
                    seat.history = [*(old for old in seat.history if old.round < record.round), record]
                case Measure(name, value):
                    self.measured[name] = self.measured.get(name, 0.0) + value

    def _sweep(self, seat: Seat) -> None:
        parts: list[Any] = [seat.machine, seat.kept, [command for _, command in seat.held], [[run.refs, run.into] for run in seat.ops]]
        reachable = list(refs_in(parts))
        handles = {ref.name for ref in reachable if isinstance(ref, Handle)}
        seat.values = {name: value for name, value in seat.values.items() if name in handles}
        digests = {ref.digest for ref in reachable if isinstance(ref, Blob)}
        digests |= {blob.digest for record in [*seat.records, *seat.saving] for blob in record.blobs}
        seat.blobs &= digests
