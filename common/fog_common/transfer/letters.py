"""Types between the endpoint and its host: addresses, limits, letters, outputs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from msgspec import Struct

from fog_common.errors import ConfigError

ONE_TIME: Final = "~"
"""First character of a blob name other than a hash: the bytes are checked by a crc per chunk, not as a whole."""
BODY: Final = "~~"
"""First characters of the name of a body that is too long for its letter's frame; such bodies are never stored."""

STALE_VIEW: Final = "stale_view"
"""The only reason of a refusal after which the sender keeps the letter and offers it again under a newer view."""


class Address(Struct, frozen=True):
    """Address of an endpoint. kind: last topic level of its inbox, e.g. `bulk~digits`."""

    node: str
    site: str
    tier: str
    kind: str


class TransferLimits(Struct, frozen=True, kw_only=True):
    """Limits of what this endpoint sends and accepts. ConfigError if they contradict each other."""

    chunk_bytes: int = 256 * 1024
    """Largest frame that the broker takes, including the header."""
    inline_bytes: int = 64 * 1024
    """Largest sum of a letter's blobs that travels inside the letter's frame."""
    max_letter_bytes: int = 64 << 20
    """Largest body of a letter, without its blobs."""
    max_blob_bytes: int = 2 << 30
    window_chunks: int = 32
    """Largest number of unacknowledged frames on the way to one receiver."""
    inbox_messages: int = 900
    """Largest sum of all windows towards this endpoint; brokers drop messages from 1 000 on."""
    stall_s: float = 2.0
    """Silence of a receiver after which the sender probes it; doubled up to stall_max_s while the silence lasts."""
    stall_max_s: float = 30.0
    idle_s: float = 600.0
    """Time after which a transfer without progress is dropped."""

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1024:
            raise ConfigError(f"chunk_bytes must be at least 1024, got {self.chunk_bytes}")
        if not 2 <= self.window_chunks <= 65_535:
            raise ConfigError(f"window_chunks must be 2 to 65535, got {self.window_chunks}")
        if self.stall_s <= 0 or self.stall_max_s < self.stall_s:
            raise ConfigError(f"stall times must be 0 < stall_s <= stall_max_s, got {self.stall_s} and {self.stall_max_s}")


class BlobMeta(Struct, frozen=True, array_like=True):
    """Name and size of a blob. digest: 64 hex digits of BLAKE3, or `~...` for bytes that are sent once."""

    digest: str
    size: int
    """Bytes."""


class Content(Struct, frozen=True):
    """Message of a task or host. to: a task, the role of a cast, or `@host`."""

    sender: str
    to: str
    body: bytes
    blobs: tuple[BlobMeta, ...] = ()


class Letter(Struct, frozen=True):
    """A received letter. view, incarnation, root_saved: those of the sender's host when it offered the letter."""

    content: Content
    view: int
    incarnation: int
    root_saved: int
    node: str
    site: str
    tier: str
    id: tuple[str, str, int]
    """(kind of the sender's inbox, stream, number in the stream): with node and incarnation the letter's name."""
    cast: bool = False


class PublishFrame(Struct, frozen=True):
    """A frame for the bus, QoS 0. plane: up, down, d2d or cast, by which bytes are counted."""

    topic: str
    payload: bytes | bytearray
    plane: str


class Arrived(Struct, frozen=True):
    """A letter whose blobs are all in the table. The letter stays parked until the host calls accept() or refuse()."""

    letter: Letter


class Acked(Struct, frozen=True):
    """The host of `node` accepted the letter."""

    key: Hashable
    node: str


class LetterRefused(Struct, frozen=True):
    """The host of `node` refused the letter. After `stale_view` the endpoint keeps the letter for the next view, otherwise it forgets it."""

    key: Hashable
    node: str
    reason: str


Output = PublishFrame | Arrived | Acked | LetterRefused
