"""Blobs of tensors: the safetensors format, without numpy. 8-byte little-endian header length, JSON header, raw little-endian buffers.

A blob is what it says it is before anything is allocated: dtype from a closed list, shape x item size equal to the offsets,
no overlap, no gap, nothing beyond the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, Final

import msgspec

from fog_common.errors import TooLarge, WireError

ITEM_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
MAX_HEADER_BYTES: Final = 4 << 20
MAX_DIMENSIONS: Final = 16
_ALIGN: Final = 8

Entry = tuple[str, str, tuple[int, ...], memoryview]
_decoder = msgspec.json.Decoder(dict[str, Any])


def pack(entries: Iterable[tuple[str, str, tuple[int, ...], Any]]) -> bytearray:
    """One blob of (name, dtype, shape, buffer of bytes) entries; each buffer is copied once. ValueError if one does not fit its shape."""
    header: dict[str, Any] = {}
    buffers: list[memoryview] = []
    offset = 0
    for name, dtype, shape, buffer in entries:
        view = memoryview(buffer).cast("B") if not isinstance(buffer, memoryview) or buffer.format != "B" or buffer.ndim != 1 else buffer
        if len(view) != prod(shape) * ITEM_BYTES[dtype]:
            raise ValueError(f"tensor {name!r}: {len(view)} B do not make {dtype} {list(shape)}")
        if name in header:
            raise ValueError(f"tensor {name!r} is there twice")
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(view)]}
        buffers.append(view)
        offset += len(view)
    head = msgspec.json.encode(header)
    head += b" " * (-len(head) % _ALIGN)
    blob = bytearray(8 + len(head) + offset)
    blob[:8] = len(head).to_bytes(8, "little")
    blob[8 : 8 + len(head)] = head
    at = 8 + len(head)
    for view in buffers:
        blob[at : at + len(view)] = view
        at += len(view)
    return blob


def unpack(buffer: bytes | bytearray | memoryview, max_bytes: int | None = None) -> list[Entry]:
    """(name, dtype, shape, view into `buffer`) in the order of the data. WireError for what is not well-formed, TooLarge over max_bytes."""
    view = memoryview(buffer).cast("B") if not isinstance(buffer, memoryview) else buffer
    if max_bytes is not None and len(view) > max_bytes:
        raise TooLarge(len(view), max_bytes, "tensors")
    if len(view) < 8:
        raise WireError(f"tensors: {len(view)} B are too short for a header")
    size = int.from_bytes(view[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise TooLarge(size, MAX_HEADER_BYTES, "header of tensors")
    if 8 + size > len(view):
        raise WireError(f"tensors: header of {size} B in {len(view)} B")
    try:
        header = _decoder.decode(view[8 : 8 + size])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"tensors: header: {error}") from None
    data = view[8 + size :]
    entries = [_entry(name, item, data) for name, item in header.items() if name != "__metadata__"]
    entries.sort(key=lambda entry: entry[0])
    at = 0
    for (begin, end), _ in entries:
        if begin != at:
            raise WireError(f"tensors: overlap or gap at byte {min(at, begin)}")
        at = end
    if at != len(data):
        raise WireError(f"tensors: {len(data) - at} B behind the last tensor")
    return [entry for _, entry in entries]


def _entry(name: str, item: Any, data: memoryview) -> tuple[tuple[int, int], Entry]:
    match item:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if dtype in ITEM_BYTES:
            if len(shape) > MAX_DIMENSIONS or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape):
                raise WireError(f"tensors: {name[:80]!r} has the shape {str(shape)[:80]}")
            if not 0 <= begin <= end <= len(data) or end - begin != prod(shape) * ITEM_BYTES[dtype]:
                raise WireError(f"tensors: {name[:80]!r}: bytes {begin} to {end} of {len(data)} do not make {dtype} {shape}")
            return (begin, end), (name, dtype, tuple(shape), data[begin:end])
        case _:
            raise WireError(f"tensors: {name[:80]!r} is no tensor of a known dtype ({', '.join(ITEM_BYTES)})")
