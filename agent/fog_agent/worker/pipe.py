"""What daemon and worker say to each other: length-prefixed msgpack frames on a Unix socket. EOF from the daemon ends the worker."""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgspec
from msgspec import Struct

from fog_common.bus.base import BrokerConfig
from fog_common.errors import TooLarge, WireError
from fog_common.wire.messages import DesiredJob, WorkerState


class Setup(Struct, frozen=True, tag=True):
    """First frame to a worker: all it needs to know of its node."""

    node: str
    site: str
    tier: str
    fleet: str
    broker: BrokerConfig
    state_dir: str
    """The node's state; the worker keeps to {state_dir}/blobs and {state_dir}/jobs/{job}."""
    job: str
    incarnation: int
    datasets: dict[str, str] = {}
    weights: dict[str, str] = {}
    allow_models: tuple[str, ...] = ()
    chunk_bytes: int = 256 * 1024
    backend: str = "torch"
    """Op backend: torch, or `standin` (torch-free, for chaos tests)."""
    duty: float = 1.0
    """Fraction of the time in which the worker may compute."""
    metrics: bool = True
    """Count and measure, for the reports; off: only bytes by plane, and what placement asks for."""
    log_level: str = "INFO"


class Assign(Struct, frozen=True, tag=True):
    """Daemon -> worker: what the coordinator wants of this job here; repeated on every change."""

    desired: DesiredJob


class Stop(Struct, frozen=True, tag=True):
    """Daemon -> worker: end now. The state on disk stays."""


class State(Struct, frozen=True, tag=True):
    """Worker -> daemon: how I am. Sent on every change worth a heartbeat, and periodically. urgent: pass it on at once."""

    state: WorkerState
    urgent: bool = False


MAX_FRAME_BYTES = 64 * 1024 * 1024
"""More is not one of ours: whoever wrote it has lost its place in the stream."""

Frame = Setup | Assign | Stop | State

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)
_LENGTH = struct.Struct("<I")


def send(sock: socket.socket, frame: Frame) -> None:
    payload: Any = _encoder.encode(frame)
    sock.sendall(_LENGTH.pack(len(payload)) + payload)


def receive(sock: socket.socket) -> Frame | None:
    """The next frame; None at the end of the stream. Blocks. WireError for what is no frame."""
    head = _exactly(sock, _LENGTH.size)
    if head is None:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > MAX_FRAME_BYTES:
        raise TooLarge(size, MAX_FRAME_BYTES, "frame")
    body = _exactly(sock, size)
    try:
        return None if body is None else _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(f"frame: {error}") from None


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = sock.recv(size - len(parts))
        except OSError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)
