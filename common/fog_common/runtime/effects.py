"""Effects that a host asks of its shell, and the letters between hosts."""

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
    """Run `op` for a task. epoch: that of the task; the op's end carries it, and is ignored if the task was rewound meanwhile."""

    serial: int
    """Unique among all Computes of a host; a tag may come again after a Cancel."""
    task: str
    epoch: int
    tag: Tag
    op: str
    refs: dict[str, Ref]
    numbers: dict[str, float | int | str]
    into: dict[str, Handle]


class Withdraw(Struct, frozen=True):
    """Drop a Compute that has not begun and report it by `on_withdrawn`; one that has begun ends as usual."""

    serial: int


class Persist(Struct, frozen=True):
    """Write a Save to the disk. replica: the record belongs to a task of another node and is only kept here."""

    record: Record
    replica: bool = False


class Listen(Struct, frozen=True):
    """Receive the casts to these roles of the job, and to no others."""

    roles: tuple[str, ...]


class Changed(Struct, frozen=True):
    """The worker's report changed. urgent: send it now, rather than with the next one that is due."""

    urgent: bool


Effect = PublishFrame | Compute | Withdraw | Persist | Listen | Changed


# -- letters between hosts -----------------------------------------------------------------


class Replica(Struct, frozen=True, tag="Replica"):
    """A Save for a buddy to keep, or the answer to a Fetch."""

    record: Record


class Fetch(Struct, frozen=True, tag="Fetch"):
    """Request for the receiver's newest Save of a task, of label `at_most` or older."""

    task: str
    at_most: int | None = None


class Missing(Struct, frozen=True, tag="Missing"):
    """Answer to a Fetch: the sender has no Save of that task."""

    task: str


class Result(Struct, frozen=True, tag="Result"):
    """Root's host -> coordinator: the job is done. refs: the result's blobs by name, which travel with the letter."""

    job: str
    task: str
    numbers: Numbers
    refs: dict[str, Blob]
    history: tuple[RoundRecord, ...] = ()
    """Rounds that the coordinator has not acknowledged."""
    why: str = ""
    """Reason of a failed job; '' if it succeeded."""


HostMessage = Replica | Fetch | Missing
_decoder: msgspec.msgpack.Decoder[HostMessage] = msgspec.msgpack.Decoder(HostMessage)
_result_decoder = msgspec.msgpack.Decoder(Result)


def decode_host_message(body: bytes) -> HostMessage:
    """WireError if the body is not a letter between hosts."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"letter between hosts: {error}") from None


def decode_result(body: bytes) -> Result:
    """WireError if the body is not a Result."""
    try:
        return _result_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"result of a job: {error}") from None
