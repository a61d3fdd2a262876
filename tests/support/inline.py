"""Runs a job's machines with real tensor ops in one thread, letters in order, everything that crosses the wire encoded and decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from fog_common.runtime.machine import (
    Blob,
    Cast,
    Command,
    Delivered,
    Event,
    Finish,
    Handle,
    Machine,
    Measure,
    Peer,
    Ran,
    Ref,
    Rewound,
    Run,
    Save,
    Send,
    Started,
    map_refs,
    refs_in,
)
from fog_common.runtime.saves import Codebook, Program, Record
from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import JobFile
from fog_learning.methods import resolve_method


class Inline:
    """One run, without faults. measured: what the root measured, in order."""

    def __init__(self, job: JobFile, backend: TorchBackend, slots: int, on_save: Callable[[Inline, str, int], None] = lambda *_: None) -> None:
        self.method, plan = resolve_method(job)
        self.backend, self.on_save = backend, on_save
        self.codebook = Codebook(Program({role.name: role.machine for role in self.method.roles}, self.method.messages))
        self.peers: dict[str, Peer] = {}
        for role in self.method.roles:
            names = [f"{role.name}-{slot}" for slot in range(slots)] if role.bound == "slot" else [role.name]
            for slot, name in enumerate(names):
                self.peers[name] = Peer(name, role.name, slot if role.bound == "slot" else -1, f"n-{name}", "s", "edge", incarnation=1, since=1)
        self.root = next(name for name, peer in self.peers.items() if peer.role == self.method.root)
        self.machines: dict[str, Machine] = {name: self.method.build(job, plan, peer) for name, peer in self.peers.items()}
        self.values: dict[tuple[str, str], Any] = {}
        self.blobs: dict[str, bytes] = {}
        self.queue: deque[tuple[str, Event]] = deque((name, Started(tuple(self.peers.values()))) for name in self.machines)
        self.records: dict[str, Record] = {}
        self.measured: dict[str, list[float]] = {}
        self.sent_bytes: dict[str, int] = {}
        """Payload by type of message; a cast counts once."""
        self.finished: Finish | None = None
        self._invented = 0

    def run(self) -> Finish:
        while self.finished is None:
            assert self.queue, f"stuck: {self.machines[self.root].waiting(0.0)}"
            name, event = self.queue.popleft()
            self._perform(name, self.machines[name].step(event, 0.0))
        assert self.finished.why == "", self.finished.why
        return self.finished

    def weights(self) -> Any:
        assert self.finished is not None
        return self._value(self.root, self.finished.refs["weights"])

    def restart(self, name: str) -> None:
        """The task dies and comes back from its last Save as a new instance; what it had sent is lost."""
        peer = self.peers[name]
        self.peers[name] = Peer(peer.task, peer.role, peer.slot, peer.node, peer.site, peer.tier, peer.incarnation + 1, peer.since + 1)
        record = self.records[name]
        self.queue = deque((to, event) for to, event in self.queue if to != name and not (isinstance(event, Delivered) and event.sender == name))
        self.machines[name] = self.codebook.machine(record)
        self._perform(name, self.codebook.rest(record))
        self.queue.append((name, Rewound(record.label, tuple(self.peers.values()))))

    def _value(self, name: str, ref: Ref) -> Any:
        return self.values.get((name, ref.name)) if isinstance(ref, Handle) else self.backend.decode(self.blobs[ref.digest])

    def _blob(self, name: str, ref: Ref) -> Blob:
        if isinstance(ref, Blob):
            return ref
        content = bytes(self.backend.encode(self.values[name, ref.name]))
        self._invented += 1
        blob = Blob(f"~{self._invented}", len(content))
        self.blobs[blob.digest] = content
        return blob

    def _blob_if_known(self, name: str, ref: Ref) -> Ref:
        return ref if isinstance(ref, Handle) and (name, ref.name) not in self.values else self._blob(name, ref)

    def _perform(self, name: str, commands: list[Command]) -> None:
        for index, command in enumerate(commands):
            match command:
                case Send(to, message):
                    self._post(name, [to], message)
                case Cast(role, message):
                    self._post(name, [peer.task for peer in self.peers.values() if peer.role == role], message)
                case Run():
                    self._compute(name, command)
                case Save(label):
                    machine = map_refs(self.machines[name], lambda ref: self._blob(name, ref))
                    rest = [map_refs(later, lambda ref: self._blob_if_known(name, ref)) for later in commands[index + 1 :]]
                    self.records[name] = self.codebook.encode_record(name, self.peers[name].role, label, 0.0, machine, rest, [], None)
                    self.on_save(self, name, label)
                case Measure(what, value):
                    if name == self.root:
                        self.measured.setdefault(what, []).append(value)
                case Finish() if name == self.root:
                    self.finished = command

    def _compute(self, name: str, run: Run) -> None:
        inputs = {key: value for key, ref in run.refs.items() if (value := self._value(name, ref)) is not None}
        outputs, numbers = self.backend.run(run.op, name, inputs, run.numbers)
        refs: dict[str, Ref] = {}
        for key, value in outputs.items():
            self._invented += 1
            handle = run.into.get(key) or Handle(f"h{self._invented}")
            self.values[name, handle.name] = value
            refs[key] = handle
        self.queue.append((name, Ran(run.tag, refs, numbers)))

    def _post(self, name: str, targets: list[str], message: Any) -> None:
        fixed = map_refs(message, lambda ref: self._blob(name, ref))
        kind = type(message).__name__
        self.sent_bytes[kind] = self.sent_bytes.get(kind, 0) + sum(ref.size for ref in refs_in(fixed) if isinstance(ref, Blob))
        for to in targets:
            if to in self.machines and to != name:
                self.queue.append((to, Delivered(name, self.codebook.decode_message(self.codebook.encode_message(fixed)))))
