"""The pipe between daemon and worker: length-prefixed msgpack frames on a Unix socket. EOF from the daemon ends the worker."""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

import msgspec

from fog_agent.worker.frames import Frame
from fog_common.errors import TooLarge, WireError

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""A longer frame comes from a writer that has lost its place in the stream."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)
_LENGTH = struct.Struct("<I")


def send(sock: socket.socket, frame: Frame) -> None:
    payload: Any = _encoder.encode(frame)
    sock.sendall(_LENGTH.pack(len(payload)) + payload)


def receive(sock: socket.socket) -> Frame | None:
    """The next frame; None at the end of the stream. Blocks. WireError for bytes that are not a frame."""
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
