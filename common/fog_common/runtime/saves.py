"""The record that a `Save` makes durable: a task's state, the commands behind the Save, and its spool."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from fog_common.errors import WireError
from fog_common.runtime.machine import Blob, Cancel, Cast, Close, Command, Finish, Machine, Measure, Run, Save, Send, WakeAt, refs_in


class Program(Struct, frozen=True):
    """The part of a method that a host needs; made from fog_learning.methods.base.Method."""

    machines: dict[str, type[Machine]]
    """role -> machine type"""
    messages: tuple[type[Struct], ...]


class Record(Struct, frozen=True):
    """One Save. machine, rest (commands behind the Save) and kept (the spool) are msgpack of typed structs whose refs are all blobs.

    job_now, wake_at: seconds of job time. rounds: of a root task, from ClosedRounds.save; its pages are among the blobs.
    """

    task: str
    role: str
    label: int
    job_now: float
    machine: bytes
    rest: bytes
    kept: bytes
    blobs: tuple[Blob, ...]
    wake_at: float | None = None
    rounds: bytes = b""

    def digests(self) -> set[str]:
        return {blob.digest for blob in self.blobs}


_encoder = msgspec.msgpack.Encoder()
_record_decoder = msgspec.msgpack.Decoder(Record)
_commands_decoder = msgspec.msgpack.Decoder(list[Send | Cast | Run | Cancel | WakeAt | Save | Close | Measure | Finish])


class Codebook:
    """Typed encoding of one method's machines and messages."""

    def __init__(self, program: Program) -> None:
        self._messages: Any = program.messages[0] if len(program.messages) == 1 else _union(program.messages)
        self._message_decoder = msgspec.msgpack.Decoder(self._messages)
        self._machine_decoders = {role: msgspec.msgpack.Decoder(machine) for role, machine in program.machines.items()}

    def encode_message(self, message: Struct) -> bytes:
        return _encoder.encode(message)

    def decode_message(self, body: bytes) -> Any:
        """WireError if the body is not a message of the method."""
        try:
            return self._message_decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise WireError(f"message of a task: {error}") from None

    def encode_record(
        self,
        task: str,
        role: str,
        label: int,
        job_now: float,
        machine: Machine,
        rest: list[Command],
        kept: list[Send],
        wake_at: float | None,
        rounds: tuple[bytes, tuple[Blob, ...]] = (b"", ()),
    ) -> Record:
        """All refs in machine, rest and kept must be blobs already. rounds: as ClosedRounds.save returns them."""
        blobs = {blob.digest: blob for part in (machine, rest, kept, rounds[1]) for blob in refs_in(part) if isinstance(blob, Blob)}
        return Record(
            task=task,
            role=role,
            label=label,
            job_now=job_now,
            machine=_encoder.encode(machine),
            rest=_encoder.encode(rest),
            kept=_encoder.encode(kept),
            blobs=tuple(blobs[digest] for digest in sorted(blobs)),
            wake_at=wake_at,
            rounds=rounds[0],
        )

    def machine(self, record: Record) -> Machine:
        machine: Machine = self._machine_decoders[record.role].decode(record.machine)
        return machine

    def rest(self, record: Record) -> list[Command]:
        return [self._typed(command) for command in _commands_decoder.decode(record.rest)]

    def kept(self, record: Record) -> list[Send]:
        return [send for command in _commands_decoder.decode(record.kept) if isinstance(send := self._typed(command), Send)]

    def _typed(self, command: Command) -> Command:
        if isinstance(command, Send | Cast):
            return msgspec.structs.replace(command, message=msgspec.convert(command.message, self._messages))
        return command


def encode(record: Record) -> bytes:
    return _encoder.encode(record)


def decode(content: bytes | memoryview) -> Record:
    """WireError if the content is not a record (a torn or foreign file)."""
    try:
        return _record_decoder.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"save record: {error}") from None


def _union(types: tuple[type[Struct], ...]) -> Any:
    union: Any = types[0]
    for other in types[1:]:
        union = union | other
    return union
