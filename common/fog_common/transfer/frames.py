"""The frames of transfer: a message (8-byte head + msgpack) or a chunk (32-byte head with a crc32 + raw bytes).

All frames go with QoS 0 to the inbox of the receiver, or to a cast. Reliability is end to end:

    Offer        sender -> receiver(s)   a letter: header, body, manifest of its blobs, small blobs inside
    chunk        sender -> receiver(s)   a slice of a blob that an offer announced
    Ack          receiver -> sender      letters and chunks received, and the number of frames that may be on the way
    StateProbe   sender -> receiver      request for the state of letters and blobs (after silence or a reconnect)

Numbers are little-endian. The crc32 of a frame covers all bytes but the crc itself; for a chunk it covers the content
first, then the head, so that the sender reads the content once for all receivers.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from fog_common.errors import TooLarge, WireError
from fog_common.transfer.letters import ONE_TIME

VERSION: Final = 1
MESSAGE_MAGIC: Final = 0xF6
CHUNK_MAGIC: Final = 0xF7
MAX_PARTS: Final = 256
"""Largest number of blobs of one letter."""
MAX_CHUNKS: Final = 1 << 20
"""Largest number of chunks of one blob; bounds the bitmaps."""

_MESSAGE_HEAD = struct.Struct("<BBHI")  # magic, version, 0, crc32
_CHUNK_HEAD = struct.Struct("<BBHQIIII")  # magic, version, window, incarnation, origin, number, index, count; then the crc32
_CRC = struct.Struct("<I")
CHUNK_HEAD_BYTES: Final = _CHUNK_HEAD.size + _CRC.size
_CRC_AT: Final = _CHUNK_HEAD.size
_DIGEST = re.compile(r"[0-9a-f]{64}|~[!-~]{0,127}")
_LEVEL = re.compile(r"[^+#/\x00]{1,128}")

Whole = Annotated[int, Meta(ge=0, le=(1 << 62))]
Small = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]


class Origin(Struct, frozen=True, array_like=True):
    """The sender of a frame: with the node name from the topic, enough to address an answer."""

    incarnation: Whole
    site: str
    tier: str
    kind: str


class BlobPart(Struct, frozen=True, array_like=True):
    """A blob in a manifest. size: bytes; number: its name in chunk heads, 0 if its bytes are in the offer; chunk: bytes of each chunk."""

    digest: str
    size: Whole
    number: Small = 0
    chunk: Small = 0

    @property
    def count(self) -> int:
        return -(-self.size // self.chunk)


class Offer(Struct, frozen=True, array_like=True, tag="offer"):
    """A letter with the manifest of its blobs; see the module text."""

    origin: Origin
    view: Whole
    root_saved: Annotated[int, Meta(ge=-1, le=(1 << 62))]
    stream: str
    seq: Whole
    base: Whole
    """No letter of this stream below `base` is outstanding."""
    sender: str
    to: str
    body: bytes
    parts: tuple[BlobPart, ...] = ()
    inline: tuple[memoryview, ...] = ()
    """Bytes of the parts with number 0, in their order."""
    long: bool = False
    """The last part is the body."""
    ask: bool = False
    """The sender pushes no chunk before the receiver has reported those that it has."""
    window: Small = 32


class StateProbe(Struct, frozen=True, array_like=True, tag="probe"):
    """Request for the state of letters, (stream, seq), and of blobs, by number; bases: of each stream."""

    origin: Origin
    number: Whole
    bases: tuple[tuple[str, Whole], ...]
    letters: tuple[tuple[str, Whole], ...]
    blobs: tuple[Small, ...]
    window: Small = 32


UNKNOWN: Final = 0
KNOWN: Final = 1
"""A letter waits for its blobs or the host's decision; a blob is partly received."""
DONE: Final = 2
"""A letter is accepted; a blob is complete."""
REFUSED: Final = 3
BUSY: Final = 4
"""A letter is dropped for want of room; the sender offers it again later."""


class LetterState(Struct, frozen=True, array_like=True):
    stream: str
    seq: Whole
    status: Small
    view: Whole = 0
    """View of the offer that was refused."""
    reason: str = ""


class BlobState(Struct, frozen=True, array_like=True):
    """count: chunks received without a gap from the first; beyond: bitmap of later chunks, bit 0 = chunk `count`."""

    number: Small
    status: Small
    count: Small = 0
    beyond: bytes = b""


class Ack(Struct, frozen=True, array_like=True, tag="ack"):
    """State of letters and blobs at a receiver. Acks are numbered; one older than another that came before is not fresh."""

    origin: Origin
    of: Whole
    """Incarnation of the sender's endpoint."""
    number: Whole
    echo: Whole
    """Number of the last probe received; 0 = none."""
    grant: Small
    """Frames that may be on the way to this receiver."""
    letters: tuple[LetterState, ...] = ()
    blobs: tuple[BlobState, ...] = ()


Message = Offer | StateProbe | Ack
Payload = bytes | bytearray | memoryview


class Chunk(NamedTuple):
    """Head of a chunk frame. origin: see origin_code; number: of the blob in its offer; place: index of the chunk; total: chunks of the blob."""

    window: int
    incarnation: int
    origin: int
    number: int
    place: int
    total: int


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_EMPTY_HEAD = bytes(_MESSAGE_HEAD.size)


def encode(message: Message) -> bytearray:
    frame = bytearray(_EMPTY_HEAD)
    _encoder.encode_into(message, frame, len(_EMPTY_HEAD))
    _MESSAGE_HEAD.pack_into(frame, 0, MESSAGE_MAGIC, VERSION, 0, zlib.crc32(memoryview(frame)[_MESSAGE_HEAD.size :]))
    return frame


def decode(payload: Payload, limit_bytes: int) -> Message:
    """The message in a frame other than a chunk. WireError: malformed, unknown_version, wrong_crc, unknown_tag, too_large."""
    if len(payload) > limit_bytes:
        raise TooLarge(len(payload), limit_bytes, "letter frame")
    if len(payload) < _MESSAGE_HEAD.size or payload[0] != MESSAGE_MAGIC:
        raise WireError(f"not a frame: {len(payload)} B")
    _, version, _, crc = _MESSAGE_HEAD.unpack_from(payload)
    if version != VERSION:
        raise WireError(f"frame version {version}, this program speaks {VERSION}; update the older one", "unknown_version")
    content = memoryview(payload)[_MESSAGE_HEAD.size :]
    if zlib.crc32(content) != crc:
        raise WireError("frame does not match its crc", "wrong_crc")
    try:
        return _decoder.decode(content)
    except msgspec.ValidationError as error:
        raise WireError(f"frame: {error}", "unknown_tag" if "Invalid value" in str(error) else "malformed") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"frame: {error}") from None


def check_origin(origin: Origin) -> None:
    """WireError unless an answer can be addressed."""
    if not (_LEVEL.fullmatch(origin.site) and _LEVEL.fullmatch(origin.kind)):
        raise WireError(f"cannot be answered: site {origin.site[:40]!r}, kind {origin.kind[:40]!r}")


def check_offer(offer: Offer, max_letter_bytes: int, max_blob_bytes: int) -> None:
    """WireError for a manifest that contradicts itself or a limit; called before any allocation."""
    if len(offer.body) > max_letter_bytes:
        raise TooLarge(len(offer.body), max_letter_bytes, "letter")
    if offer.base > offer.seq or len(offer.stream) > 128:
        raise WireError(f"letter {offer.seq} of stream {offer.stream[:40]!r} with base {offer.base}")
    if len(offer.parts) > MAX_PARTS:
        raise TooLarge(len(offer.parts), MAX_PARTS, "number of blobs in a letter")
    if offer.long and not offer.parts:
        raise WireError("a long letter without its body")
    inside = 0
    names = set()
    for part in offer.parts:
        if part.size > max_blob_bytes:
            raise TooLarge(part.size, max_blob_bytes, "blob")
        if not _DIGEST.fullmatch(part.digest) or part.digest in names:
            raise WireError(f"blob name {part.digest[:80]!r} is none, or named twice")
        names.add(part.digest)
        if part.number == 0:
            if inside >= len(offer.inline) or len(offer.inline[inside]) != part.size:
                raise WireError(f"blob {part.digest[:12]} of {part.size} B is not in its letter")
            inside += 1
        elif part.size == 0 or part.chunk == 0 or part.count > MAX_CHUNKS:
            raise WireError(f"blob {part.digest[:12]} of {part.size} B in chunks of {part.chunk} B")
    if inside != len(offer.inline):
        raise WireError("more bytes inside a letter than its manifest names")
    if offer.long and offer.parts[-1].size > max_letter_bytes:
        raise TooLarge(offer.parts[-1].size, max_letter_bytes, "letter")


def is_hash(digest: str) -> bool:
    return not digest.startswith(ONE_TIME)


def encode_chunk(chunk: Chunk, content: memoryview, crc: int) -> bytes:
    """The frame of one chunk, the only copy of its bytes on the way out. crc: crc32 of the content."""
    head = _CHUNK_HEAD.pack(CHUNK_MAGIC, VERSION, *chunk)
    return b"".join((head, _CRC.pack(zlib.crc32(head, crc)), content))


def decode_chunk(payload: Payload) -> Chunk:
    """The head of a chunk frame. WireError if it is malformed; the crc is checked later, by chunk_content, if the chunk is needed."""
    if len(payload) <= CHUNK_HEAD_BYTES:
        raise WireError(f"a chunk frame of {len(payload)} B")
    _, version, window, incarnation, origin, number, place, total = _CHUNK_HEAD.unpack_from(payload)
    if version != VERSION:
        raise WireError(f"chunk version {version}, this program speaks {VERSION}; update the older one", "unknown_version")
    return Chunk(window, incarnation, origin, number, place, total)


def chunk_content(payload: Payload) -> memoryview:
    """The bytes of a chunk frame. WireError if the crc does not match."""
    view = memoryview(payload)
    content = view[CHUNK_HEAD_BYTES:]
    if zlib.crc32(view[:_CRC_AT], zlib.crc32(content)) != _CRC.unpack_from(payload, _CRC_AT)[0]:
        raise WireError("chunk does not match its crc", "wrong_crc")
    return content


def origin_code(kind: str) -> int:
    """Number that stands for an inbox kind in chunk heads, because one node may run several endpoints."""
    return zlib.crc32(kind.encode())
