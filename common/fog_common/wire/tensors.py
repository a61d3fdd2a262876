"""The format of tensors in blobs and files: safetensors. 8 bytes header length, JSON header, raw little-endian buffers.

    {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"made_by": "…"}}

No numpy, no torch: buffers go in and come out as bytes. Everything is checked before anything is allocated, and unpack()
allocates nothing but its list.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from fog_common.errors import TooLarge, WireError

ITEM_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
METADATA: Final = "__metadata__"
_LENGTH = struct.Struct("<Q")
_ALIGN = 8

Buffer = bytes | bytearray | memoryview


class TensorLimits(Struct, frozen=True, kw_only=True):
    """What unpack() takes."""

    max_bytes: int = 2 << 30
    max_header_bytes: int = 4_000_000
    max_tensors: int = 65_536
    max_dimensions: int = 16


class Tensor(NamedTuple):
    """One entry: raw little-endian bytes in row-major order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    buffer: memoryview


class _Entry(Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def size_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Bytes of a tensor. WireError for a dtype that is not one of ITEM_BYTES, or a negative length."""
    if dtype not in ITEM_BYTES:
        raise WireError(f"dtype {dtype[:20]!r} is not allowed; allowed: {', '.join(ITEM_BYTES)}", "dtype")
    size = ITEM_BYTES[dtype]
    for length in shape:
        if length < 0:
            raise WireError(f"negative length {length} in a shape", "shape")
        size *= length
    return size


def pack(entries: Iterable[tuple[str, str, Iterable[int], Buffer]], metadata: dict[str, str] | None = None) -> bytearray:
    """Tensors as one blob, in the given order. entries: (name, dtype, shape, raw bytes), each copied once. ValueError if one does not fit its shape."""
    header: dict[str, Any] = {} if metadata is None else {METADATA: metadata}
    buffers: list[memoryview] = []
    end = 0
    for name, dtype, lengths, buffer in entries:
        shape = list(lengths)
        view = _bytes(buffer)
        if name in header or name == METADATA:
            raise ValueError(f"tensor {name!r} is named twice or has a reserved name")
        if dtype not in ITEM_BYTES:
            raise ValueError(f"tensor {name!r} has dtype {dtype!r}; allowed: {', '.join(ITEM_BYTES)}")
        if size_bytes(dtype, shape) != len(view):
            raise ValueError(f"tensor {name!r}: {dtype} {shape} is {size_bytes(dtype, shape)} B, its buffer has {len(view)} B")
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(view)]}
        buffers.append(view)
        end += len(view)
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _ALIGN)
    blob = bytearray(_LENGTH.size + len(text) + end)
    _LENGTH.pack_into(blob, 0, len(text))
    at = _LENGTH.size
    blob[at : at + len(text)] = text
    at += len(text)
    whole = memoryview(blob)
    for view in buffers:
        whole[at : at + len(view)] = view
        at += len(view)
    return blob


def unpack(buffer: Buffer, limits: TensorLimits = TensorLimits()) -> list[Tensor]:
    """The tensors of a blob, as views into it, ordered by their place in it. WireError (TooLarge) for whatever is not right:
    header length, JSON, dtype, shape times item size against the offsets, gaps, overlaps, names that come twice."""
    view = _bytes(buffer)
    header, start = _header(view, limits)
    entries: list[tuple[int, int, str, _Entry]] = []
    _metadata(header)
    for name, value in header.items():
        if name == METADATA:
            continue
        entry = _entry(name, value)
        if len(entry.shape) > limits.max_dimensions:
            raise TooLarge(len(entry.shape), limits.max_dimensions, f"number of dimensions of tensor {name[:40]!r}")
        first, last = entry.data_offsets
        if first < 0 or last < first or last > len(view) - start:
            raise WireError(f"tensor {name[:40]!r} lies at {first}..{last} of {len(view) - start} B", "offsets")
        if size_bytes(entry.dtype, entry.shape) != last - first:
            size = size_bytes(entry.dtype, entry.shape)
            raise WireError(f"tensor {name[:40]!r}: {entry.dtype} {entry.shape} is {size} B, its place has {last - first} B", "shape")
        entries.append((first, last, name, entry))
    entries.sort(key=lambda entry: entry[:2])
    end = 0
    for first, last, name, _ in entries:
        if first != end:
            raise WireError(f"tensor {name[:40]!r} begins at {first}, the one before ends at {end}", "overlap" if first < end else "gap")
        end = last
    if end != len(view) - start:
        raise WireError(f"{len(view) - start - end} B behind the last tensor", "gap")
    return [Tensor(name, entry.dtype, tuple(entry.shape), view[start + first : start + last]) for first, last, name, entry in entries]


def metadata_of(buffer: Buffer, limits: TensorLimits = TensorLimits()) -> dict[str, str]:
    """The blob's metadata; {} if it has none. WireError as in unpack()."""
    return _metadata(_header(_bytes(buffer), limits)[0])


def _bytes(buffer: Buffer) -> memoryview:
    view = memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(b"")


def _header(view: memoryview, limits: TensorLimits) -> tuple[dict[str, Any], int]:
    """(the decoded header, where the buffers begin)."""
    if len(view) > limits.max_bytes:
        raise TooLarge(len(view), limits.max_bytes, "tensor blob")
    if len(view) < _LENGTH.size:
        raise WireError(f"{len(view)} B are no tensor blob: the header's length alone has 8 B", "truncated")
    (length,) = _LENGTH.unpack_from(view)
    if length > limits.max_header_bytes:
        raise TooLarge(length, limits.max_header_bytes, "tensor header")
    if length > len(view) - _LENGTH.size:
        raise WireError(f"tensor header of {length} B in a blob of {len(view)} B", "truncated")
    text = str(view[_LENGTH.size : _LENGTH.size + length], "utf-8", "replace")
    try:
        header = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise WireError(f"tensor header: {error}") from None
    if not isinstance(header, dict):
        raise WireError("tensor header is not a JSON object")
    if len(header) > limits.max_tensors:
        raise TooLarge(len(header), limits.max_tensors, "number of tensors")
    return header, _LENGTH.size + length


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different: decoders that keep the last one would hide the others."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WireError("a name comes twice in a tensor header", "duplicate_name")
    return found


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    try:
        return msgspec.convert(header.get(METADATA, {}), dict[str, str])
    except msgspec.ValidationError as error:
        raise WireError(f"tensor metadata: {error}") from None


def _entry(name: str, value: Any) -> _Entry:
    try:
        return msgspec.convert(value, _Entry)
    except msgspec.ValidationError as error:
        raise WireError(f"tensor {name[:40]!r}: {error}") from None
