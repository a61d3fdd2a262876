"""The words between the endpoint and its host: addresses, limits, letters, outputs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from msgspec import Struct

from fog_common.errors import ConfigError

ONE_TIME: Final = "~"
"""First character of a blob name that is no hash: its bytes are checked by crc, chunk by chunk, and not as a whole."""
BODY: Final = "~~"
"""First characters of the name of a body that was too long for its letter's frame: never stored."""
HOST: Final = "@host"
"""`Content.to` of what is meant for the host itself."""
STALE_VIEW: Final = "stale_view"
"""The one reason of a refusal after which the sender keeps the letter and offers it again under a newer view."""


class Address(Struct, frozen=True):
    """Where an endpoint is reached. kind: last topic level of its inbox, e.g. `bulk~digits`."""

    node: str
    site: str
    tier: str
    kind: str


class TransferLimits(Struct, frozen=True, kw_only=True):
    """What this endpoint sends and takes."""

    chunk_bytes: int = 256 * 1024
    """Largest frame, header included: what the broker takes."""
    inline_bytes: int = 64 * 1024
    """Blobs of a letter that are not more than this together travel inside the letter's frame."""
    max_letter_bytes: int = 64 << 20
    """Of a letter's body, without its blobs."""
    max_blob_bytes: int = 2 << 30
    window_chunks: int = 32
    """Frames on the way to one receiver that it has not acknowledged."""
    inbox_messages: int = 900
    """All windows towards this receiver together: brokers drop from 1 000 on."""
    stall_s: float = 2.0
    """Nothing new from the receiver for this long: ask it what it has; doubled up to stall_max_s while it is silent."""
    stall_max_s: float = 30.0
    idle_s: float = 600.0
    """What was begun and not continued for this long is dropped."""

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1024:
            raise ConfigError(f"chunk_bytes must be at least 1024, got {self.chunk_bytes}")
        if not 2 <= self.window_chunks <= 65_535:
            raise ConfigError(f"window_chunks must be 2 to 65535, got {self.window_chunks}")
        if self.stall_s <= 0 or self.stall_max_s < self.stall_s:
            raise ConfigError(f"stall times must be 0 < stall_s <= stall_max_s, got {self.stall_s} and {self.stall_max_s}")


class BlobMeta(Struct, frozen=True, array_like=True):
    """digest: 64 hex digits of BLAKE3, or `~...` for bytes that are sent once."""

    digest: str
    size: int


class Content(Struct, frozen=True):
    """What one task says to another. to: a task; the role of a cast; or `@host`."""

    sender: str
    to: str
    body: bytes
    blobs: tuple[BlobMeta, ...] = ()


class Letter(Struct, frozen=True):
    """A received letter. view, incarnation, root_saved are those of the sender's host at the time it was offered."""

    content: Content
    view: int
    incarnation: int
    root_saved: int
    node: str
    site: str
    tier: str
    id: tuple[str, str, int]
    """(kind of the sender's inbox, stream, number in it): with node and incarnation the letter's name."""
    cast: bool = False


class PublishFrame(Struct, frozen=True):
    """Give this to the bus, QoS 0. plane: up, down, d2d or cast, for the count of bytes."""

    topic: str
    payload: bytes | bytearray
    plane: str


class Arrived(Struct, frozen=True):
    """A letter whose blobs are all in the table. The host calls accept() or refuse(); until then it stays parked."""

    letter: Letter


class Acked(Struct, frozen=True):
    """The host of `node` accepted the letter."""

    key: Hashable
    node: str


class LetterRefused(Struct, frozen=True):
    """The host of `node` refused the letter. After `stale_view` it is kept for the next view, else it is forgotten here."""

    key: Hashable
    node: str
    reason: str


Output = PublishFrame | Arrived | Acked | LetterRefused
