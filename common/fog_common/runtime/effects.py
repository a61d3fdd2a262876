"""What a host asks of its shell, and what hosts say to each other beside the tasks' own messages."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from fog_common.errors import WireError
from fog_common.runtime.machine import Blob, Handle, Numbers, Ref, RoundRecord, Tag
from fog_common.runtime.saves import Record
from fog_common.transfer.endpoint import PublishFrame

HOST: Final = "@host"
"""Addressee of letters between hosts (replicas of Saves)."""
RESULT: Final = "@coordinator"
"""Addressee of a job's result."""

# -- effects -------------------------------------------------------------------------------


class Compute(Struct, frozen=True):
    """Run `op` for a task. epoch: of the task; its end is reported with it, and is ignored if the task was rewound meanwhile."""

    serial: int
    """Differs between all Computes of a host: a tag may come again, after a Cancel."""
    task: str
    epoch: int
    tag: Tag
    op: str
    refs: dict[str, Ref]
    numbers: dict[str, float | int | str]
    into: dict[str, Handle]


class Withdraw(Struct, frozen=True):
    """Nobody waits for that Compute any more: if it has not begun, it is not run, and `on_withdrawn` says so; else it ends as ever."""

    serial: int


class Persist(Struct, frozen=True):
    """replica: the record belongs to a task of another node and is only kept here."""

    record: Record
    replica: bool = False


class Listen(Struct, frozen=True):
    roles: tuple[str, ...]


class Changed(Struct, frozen=True):
    urgent: bool


Effect = PublishFrame | Compute | Withdraw | Persist | Listen | Changed


# -- letters between hosts -----------------------------------------------------------------


class Replica(Struct, frozen=True, tag="Replica"):
    """Keep this Save for me (to a buddy), or: here is the Save you asked for."""

    record: Record


class Fetch(Struct, frozen=True, tag="Fetch"):
    """Send me your newest Save of this task, of label at_most or older."""

    task: str
    at_most: int | None = None


class Missing(Struct, frozen=True, tag="Missing"):
    """There is no Save of that task here: it never made one."""

    task: str


class Result(Struct, frozen=True, tag="Result"):
    """Root's host -> coordinator: the job is done. refs in `weights` order are the letter's blobs, by name."""

    job: str
    task: str
    numbers: Numbers
    refs: dict[str, Blob]
    history: tuple[RoundRecord, ...] = ()
    """Rounds that the coordinator has not acknowledged."""
    why: str = ""


HostMessage = Replica | Fetch | Missing
_decoder: msgspec.msgpack.Decoder[HostMessage] = msgspec.msgpack.Decoder(HostMessage)
_result_decoder = msgspec.msgpack.Decoder(Result)


def decode_host_message(body: bytes) -> HostMessage:
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"letter between hosts: {error}") from None


def decode_result(body: bytes) -> Result:
    try:
        return _result_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"result of a job: {error}") from None
