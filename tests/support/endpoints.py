"""Pairs and groups of endpoints on a net in memory."""

from __future__ import annotations

import random

from fog_common.transfer import frames
from fog_common.transfer.endpoint import PublishFrame, TransferLimits
from support.letternet import Net, Site

SMALL = TransferLimits(chunk_bytes=4096, inline_bytes=1000, window_chunks=8)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def pair(net: Net, limits: TransferLimits | None = None) -> tuple[Site, Site]:
    return net.site("ada", limits=limits), net.site("bob", limits=limits)


def group(net: Net, size: int, limits: TransferLimits | None = None) -> tuple[Site, list[Site]]:
    return net.site("ada", limits=limits), [net.site(f"n{i}", roles=["trainer"], limits=limits) for i in range(size)]


def chunk_of(frame: PublishFrame) -> int | None:
    """Index of the chunk in a frame, None for a message."""
    return frames.decode_chunk(frame.payload).place if frame.payload[0] == frames.CHUNK_MAGIC else None


def only(site: Site) -> bytes:
    """The one blob of the one letter that came."""
    (letter,) = site.arrived
    (blob,) = letter.content.blobs
    return bytes(site.blobs[blob.digest])
