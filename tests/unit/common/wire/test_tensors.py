"""Blobs of tensors: what we write others read and the other way round; what is not right is refused before it costs anything."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fog_common.errors import TooLarge, WireError
from fog_common.wire import tensors

DTYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8}
DTYPES |= {"U8": np.uint8, "BOOL": np.bool_}

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
tables = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != tensors.METADATA), st.tuples(st.sampled_from(sorted(DTYPES)), shapes), max_size=6
)


def array(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 2, shape).astype(DTYPES[dtype])


def blob(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@settings(max_examples=60, deadline=None)
@given(tables)
def test_the_safetensors_package_reads_what_we_write(table: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    arrays = {name: array(*kind) for name, kind in table.items()}
    packed = tensors.pack((name, kind[0], kind[1], arrays[name].tobytes()) for name, kind in table.items())
    loaded = load(bytes(packed))
    assert set(loaded) == set(arrays)
    for name, value in arrays.items():
        assert loaded[name].dtype == value.dtype
        np.testing.assert_array_equal(loaded[name], value)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_we_read_what_the_safetensors_package_writes(table: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    arrays = {name: array(*kind, seed=1) for name, kind in table.items()}
    found = tensors.unpack(save(arrays, metadata={"made_by": "test"}))
    assert {entry.name for entry in found} == set(arrays)
    for name, dtype, shape, buffer in found:
        assert (DTYPES[dtype], shape) == (arrays[name].dtype, arrays[name].shape)
        assert bytes(buffer) == arrays[name].tobytes()


def test_views_lie_in_the_blob_and_keep_the_order() -> None:
    packed = tensors.pack([("b", "F32", (2,), struct.pack("<2f", 1.0, 2.0)), ("a", "BF16", (1, 1), b"\x80\x3f"), ("none", "I8", (0, 3), b"")])
    found = tensors.unpack(packed)
    assert [(name, dtype, shape) for name, dtype, shape, _ in found] == [("b", "F32", (2,)), ("a", "BF16", (1, 1)), ("none", "I8", (0, 3))]
    packed[-2:] = b"\x00\x40"
    assert bytes(found[1].buffer) == b"\x00\x40"
    assert (len(packed) - 10) % 8 == 0  # the buffers begin on a multiple of 8


def test_metadata_goes_through() -> None:
    packed = tensors.pack([("w", "U8", [2], b"ab")], metadata={"made_by": "us"})
    assert tensors.metadata_of(packed) == {"made_by": "us"}
    assert [name for name, *_ in tensors.unpack(packed)] == ["w"]
    assert tensors.metadata_of(tensors.pack([])) == {}


@pytest.mark.parametrize(
    "entries",
    [
        [("w", "F32", [2], b"1234")],
        [("w", "F31", [1], b"1234")],
        [("w", "U8", [1], b"1"), ("w", "U8", [1], b"2")],
        [("__metadata__", "U8", [1], b"1")],
    ],
)
def test_pack_refuses_what_does_not_fit(entries: Any) -> None:
    with pytest.raises(ValueError, match="tensor"):
        tensors.pack(entries)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"1234567", "truncated"),
        (struct.pack("<Q", 100) + b"{}", "truncated"),
        (struct.pack("<Q", 1 << 60), "too_large"),
        (blob(b"[]", b""), "malformed"),
        (blob(b"{", b""), "malformed"),
        (blob(b"\xff\xfe", b""), "malformed"),
        (blob(b"[" * 100_000, b""), "malformed"),
        (blob(b'{"w":' * 100_000, b""), "malformed"),
        (blob({"w": 1}, b""), "malformed"),
        (blob({"w": {**entry(), "more": 1}}, b"1234"), "malformed"),
        (blob({"w": entry(shape=[1.5])}, b"1234"), "malformed"),
        (blob({"w": entry(shape=[True])}, b"1234"), "malformed"),
        (blob({"w": entry(offsets=(0, 4, 8))}, b"1234"), "malformed"),
        (blob({"w": entry(dtype="O")}, b"1234"), "dtype"),
        (blob({"w": entry(shape=[-1])}, b"1234"), "shape"),
        (blob({"w": entry(shape=[2])}, b"1234"), "shape"),
        (blob({"w": entry(shape=[1 << 62, 1 << 62])}, b"1234"), "shape"),
        (blob({"w": entry(offsets=(0, 8), shape=[2])}, b"1234"), "offsets"),
        (blob({"w": entry(offsets=(4, 0))}, b"1234"), "offsets"),
        (blob({"w": entry(offsets=(-4, 0))}, b"1234"), "offsets"),
        (blob({"w": entry(), "v": entry()}, b"1234"), "overlap"),
        (blob({"w": entry(offsets=(4, 8))}, b"12345678"), "gap"),
        (blob({"w": entry()}, b"12345"), "gap"),
        (blob({"w": entry(shape=[1] * 17)}, b"1234"), "too_large"),
        (blob({"__metadata__": {"a": 1}}, b""), "malformed"),
        (blob(b'{"w":' + json.dumps(entry()).encode() + b',"w":' + json.dumps(entry()).encode() + b"}", b"1234"), "duplicate_name"),
    ],
)
def test_what_is_not_right_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        tensors.unpack(content)
    assert caught.value.reason == reason


def test_limits_hold() -> None:
    packed = tensors.pack([("a", "U8", [4], b"1234"), ("b", "U8", [4], b"1234")])
    for limits in (tensors.TensorLimits(max_bytes=20), tensors.TensorLimits(max_header_bytes=20), tensors.TensorLimits(max_tensors=1)):
        with pytest.raises(TooLarge):
            tensors.unpack(packed, limits)
    assert len(tensors.unpack(packed, tensors.TensorLimits(max_bytes=len(packed), max_tensors=2))) == 2


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        found = tensors.unpack(content)
    except WireError:
        return
    assert sum(len(buffer) for *_, buffer in found) <= len(content)


@pytest.mark.thorough
@settings(max_examples=300, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255), tables)
def test_a_changed_byte_is_refused_or_read_as_the_safetensors_package_reads_it(at: int, value: int, table: Any) -> None:
    packed = tensors.pack((name, dtype, shape, array(dtype, shape).tobytes()) for name, (dtype, shape) in table.items())
    packed[at % len(packed)] = value
    try:
        found = tensors.unpack(packed)
    except WireError:
        return
    try:
        theirs = load(bytes(packed))
    except (SafetensorError, KeyError, UnicodeDecodeError):
        return  # e.g. a header that does not begin with '{', or a dtype that numpy has not
    assert {entry.name: bytes(entry.buffer) for entry in found} == {name: value.tobytes() for name, value in theirs.items()}
