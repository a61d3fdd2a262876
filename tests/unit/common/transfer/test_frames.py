"""Frames that are none, or not allowed: counted by reason, dropped, never raised. And the small parts of transfer."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fog_common.errors import WireError
from fog_common.transfer import frames
from fog_common.transfer.assembly import Assembly
from fog_common.transfer.endpoint import PublishFrame, TransferLimits
from fog_common.transfer.frames import Ack, BlobPart, BlobState, Chunk, LetterState, Offer, Origin, StateProbe
from fog_common.transfer.window import Ranges, beyond_bytes, bits, mask_of
from fog_common.wire import topics
from support.letternet import JOB, KIND, Net, Site, content

ORIGIN = Origin(1, "hall", "edge", KIND)
ROUTE = topics.Route("d2d", "hall", "bob", "ada", KIND)
MODEL = random.Random(1).randbytes(10_000)
DIGEST = blake3(MODEL).hexdigest()
PART = BlobPart(DIGEST, len(MODEL), 1, 4000)


def offer(**changes: Any) -> Offer:
    plain = Offer(ORIGIN, view=0, root_saved=-1, stream="", seq=1, base=1, sender="s", to="t", body=b"", parts=(PART,))
    return msgspec.structs.replace(plain, **changes)


def chunk(place: int, body: bytes | None = None, **changes: Any) -> bytes:
    head = Chunk(32, 1, frames.origin_code(KIND), 1, place, 3)._replace(**changes)
    body = MODEL[place * 4000 : place * 4000 + 4000] if body is None else body
    return frames.encode_chunk(head, memoryview(body), frames.zlib.crc32(body))


def bob() -> Site:
    return Net().site("bob", limits=TransferLimits(max_letter_bytes=1_000_000, max_blob_bytes=1_000_000))


def feed(site: Site, *payloads: bytes | bytearray) -> dict[str, int]:
    for payload in payloads:
        site.endpoint.on_frame(0.0, ROUTE, payload)
    return site.endpoint.rejected


def test_chunks_in_any_order_make_the_blob() -> None:
    site = bob()
    assert feed(site, frames.encode(offer()), chunk(2), chunk(0), chunk(2), chunk(1)) == {}
    site.endpoint.take()
    assert site.blobs[DIGEST] == MODEL
    assert site.endpoint.counters == {"duplicate_chunks": 1}


@pytest.mark.parametrize("first", [0, (2 << 30) // 262_144 - 1], ids=["the first chunk", "the last chunk"])
def test_a_blob_that_is_announced_and_not_sent_costs_little_memory(first: int) -> None:
    """2 GiB announced, one chunk sent."""
    part = BlobPart(DIGEST, 2 << 30, 1, 262_144)
    site = Net().site("bob", limits=TransferLimits(max_blob_bytes=2 << 30))
    tracemalloc.start()
    try:
        feed(site, frames.encode(offer(parts=(part,))), chunk(first, bytes(262_144), total=part.count))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert site.endpoint.rejected == {}


@pytest.mark.thorough
def test_a_blob_grows_with_what_arrives() -> None:
    part = BlobPart(DIGEST, 64 << 20, 1, 1 << 20)
    growing = Assembly(part, 0.0)
    most = 0
    for index in (1, 0, 9, *range(2, 9), *range(10, 64)):
        assert not growing.ahead(index)
        growing.add(index, memoryview(bytes([index]) * (1 << 20)))
        assert len(growing.buffer) <= max(8 << 20, (index + 1) << 20, 2 * most)
        most = max(most, len(growing.buffer))
    assert growing.complete
    assert growing.content() == b"".join(bytes([index]) * (1 << 20) for index in range(64))


def test_received_blobs_cannot_be_written_to() -> None:
    site = bob()
    feed(site, frames.encode(offer()), chunk(0), chunk(1), chunk(2))
    assert site.blobs[DIGEST].readonly


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "malformed"),
        (b"\x00" * 100, "malformed"),
        (bytes([frames.MESSAGE_MAGIC]), "malformed"),
        (bytes([frames.CHUNK_MAGIC]), "malformed"),
        (chunk(0)[: frames.CHUNK_HEAD_BYTES], "malformed"),
        (bytes([frames.CHUNK_MAGIC, 9]) + chunk(0)[2:], "unknown_version"),
        (bytes([frames.MESSAGE_MAGIC, 9]) + bytes(20), "unknown_version"),
        (frames.encode(offer())[:-1], "wrong_crc"),
        (chunk(0), "unknown_blob"),
        (chunk(0, incarnation=7), "unknown_blob"),
        (frames.encode(offer(body=bytes(1_000_001), parts=())), "too_large"),
        (frames.encode(offer(body=bytes(2_000_000), parts=())), "too_large"),
        (frames.encode(offer(parts=(BlobPart(DIGEST, 1_000_001, 1, 4000),))), "too_large"),
        (frames.encode(offer(parts=(BlobPart(DIGEST, 1 << 61, 1, 4000),))), "too_large"),
        (frames.encode(offer(parts=tuple(BlobPart(f"~{i}", 1, i + 1, 100) for i in range(257)))), "too_large"),
        (frames.encode(offer(parts=(BlobPart(DIGEST, 1_000_000, 1, 0),))), "malformed"),
        (frames.encode(offer(parts=(BlobPart(DIGEST, 0, 1, 100),))), "malformed"),
        (frames.encode(offer(parts=(BlobPart("../../etc", 10, 1, 100),))), "malformed"),
        (frames.encode(offer(parts=(BlobPart(DIGEST.upper(), 10, 1, 100),))), "malformed"),
        (frames.encode(offer(parts=(PART, PART))), "malformed"),
        (frames.encode(offer(parts=(BlobPart(DIGEST, 10),))), "malformed"),
        (frames.encode(offer(parts=(BlobPart(DIGEST, 10),), inline=(memoryview(b"short"),))), "malformed"),
        (frames.encode(offer(parts=(BlobPart(DIGEST, 5),), inline=(memoryview(b"wrong"),))), "wrong_hash"),
        (frames.encode(offer(parts=(), inline=(memoryview(b"more"),))), "malformed"),
        (frames.encode(offer(parts=(), long=True)), "malformed"),
        (frames.encode(offer(base=2)), "malformed"),
        (frames.encode(offer(seq=-1)), "malformed"),
        (frames.encode(offer(stream="x" * 200)), "malformed"),
        (frames.encode(offer(origin=Origin(1, "a/b", "edge", KIND))), "malformed"),
        (frames.encode(offer(origin=Origin(1, "hall", "edge", "bulk~#"))), "malformed"),
        (frames.encode(offer(origin=Origin(1, "", "edge", KIND))), "malformed"),
        (frames.encode(Ack(ORIGIN, 9, 1, 0, 10)), "dead_incarnation"),
        (frames.encode(StateProbe(Origin(1, "+", "edge", KIND), 1, (), (), ())), "malformed"),
    ],
)
def test_what_is_not_right_is_counted_by_its_reason(payload: bytes, reason: str) -> None:
    site = bob()
    assert feed(site, payload) == {reason: 1}
    assert [output for output in site.endpoint.take() if not isinstance(output, PublishFrame)] == []
    assert len(site.blobs) == 0


def test_unknown_tags_and_fields() -> None:
    site = bob()
    body = msgspec.msgpack.encode(["gossip", 1, 2])
    head = frames._MESSAGE_HEAD.pack(frames.MESSAGE_MAGIC, frames.VERSION, 0, frames.zlib.crc32(body))
    assert feed(site, head + body) == {"unknown_tag": 1}
    longer = [*msgspec.msgpack.decode(frames.encode(offer(parts=(), body=b"new"))[8:]), "a field of a later version"]
    body = msgspec.msgpack.encode(longer)
    head = frames._MESSAGE_HEAD.pack(frames.MESSAGE_MAGIC, frames.VERSION, 0, frames.zlib.crc32(body))
    assert feed(site, head + body) == {"unknown_tag": 1}
    assert len(site.endpoint.take()) == 1  # the letter arrived


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (chunk(0, body=b"x"), "misfit"),
        (chunk(0, body=bytes(4001)), "misfit"),
        (chunk(2, body=bytes(4000)), "misfit"),
        (chunk(0, total=4), "misfit"),
        (chunk(3, body=bytes(4000)), "misfit"),
        (chunk(0, number=2), "unknown_blob"),
        (chunk(0, incarnation=0), "dead_incarnation"),
        (chunk(0)[:-1] + b"\x00", "wrong_crc"),
    ],
)
def test_chunks_that_do_not_fit_change_nothing(payload: bytes, reason: str) -> None:
    site = bob()
    feed(site, frames.encode(offer()))
    assert feed(site, payload) == {reason: 1}
    feed(site, chunk(0), chunk(1), chunk(2))
    assert site.blobs[DIGEST] == MODEL


def test_a_promise_of_much_allocates_nothing() -> None:
    site = bob()
    feed(site, *(frames.encode(offer(seq=i, base=0, parts=(BlobPart(f"~{i}", 1_000_000, i, 4000),))) for i in range(1, 300)))
    assert site.endpoint.rejected == {"full": 299 - 256}
    (source,) = site.endpoint._receiver._sources.values()
    assert not any(assembly.buffer for assembly in source.assemblies.values())


def test_bytes_that_do_not_match_their_name_are_asked_for_again_and_then_refused() -> None:
    net = Net()
    ada, other = net.site("ada"), net.site("bob")
    ada.blobs.put("0" * 64, MODEL * 20)
    ada.endpoint.send(0.0, other.address, content("s", "t", b"", frames_meta("0" * 64, len(MODEL) * 20)), "k")
    net.run()
    assert other.endpoint.rejected == {"wrong_hash": 3}
    assert ada.refused == [("k", "bob", "wrong_hash")]
    assert other.arrived == []
    assert ada.endpoint.pending() == []


def frames_meta(digest: str, size: int) -> Any:
    from fog_common.transfer.endpoint import BlobMeta

    return BlobMeta(digest, size)


def test_acks_of_chunks_that_do_not_exist_are_refused() -> None:
    net = Net()
    ada, other = net.site("ada"), net.site("bob")
    ada.endpoint.send(0.0, other.address, content("s", "t", b"", ada.add(MODEL * 30)), "k")
    ada.endpoint.take()
    route = topics.Route("d2d", "hall", "ada", "bob", KIND)
    for state in (
        BlobState(1, frames.KNOWN, 3),
        BlobState(1, frames.KNOWN, 0, b"\xff"),
        BlobState(1, frames.KNOWN, 1 << 31),
        BlobState(1, 1, 0, bytes(9999)),
    ):
        ada.endpoint.on_frame(0.0, route, frames.encode(Ack(ORIGIN, 1, 1, 0, 10, blobs=(state,))))
    assert ada.endpoint.rejected == {"malformed": 4}
    assert ada.endpoint.pending() == [("k", "bob", 300_000, 0.0)]


messages = st.one_of(
    st.builds(
        Offer,
        st.just(ORIGIN),
        st.integers(0, 3),
        st.integers(-1, 3),
        st.sampled_from(["", "all/t"]),
        st.integers(0, 5),
        st.integers(0, 5),
        st.just("s"),
        st.just("t"),
        st.binary(max_size=5),
        st.lists(
            st.builds(BlobPart, st.sampled_from([DIGEST, "~1", "~~2", "bad"]), st.integers(0, 9999), st.integers(0, 3), st.integers(0, 5000)),
            max_size=3,
        ).map(tuple),
        st.lists(st.binary(max_size=3).map(memoryview), max_size=2).map(tuple),
        st.booleans(),
        st.booleans(),
        st.integers(0, 5),
    ),
    st.builds(
        StateProbe,
        st.just(ORIGIN),
        st.integers(0, 5),
        st.lists(st.tuples(st.sampled_from(["", "all/t"]), st.integers(0, 9)), max_size=2).map(tuple),
        st.lists(st.tuples(st.sampled_from(["", "all/t"]), st.integers(0, 9)), max_size=4).map(tuple),
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
        st.integers(0, 9),
    ),
    st.builds(
        Ack,
        st.builds(Origin, st.integers(0, 2), st.just("hall"), st.just("edge"), st.just(KIND)),
        st.integers(0, 2),
        st.integers(0, 9),
        st.integers(0, 3),
        st.integers(0, 40),
        st.lists(
            st.builds(
                LetterState,
                st.sampled_from(["", "hall/t"]),
                st.integers(0, 5),
                st.integers(0, 6),
                st.integers(0, 3),
                st.sampled_from(["", "stale_view"]),
            ),
            max_size=4,
        ).map(tuple),
        st.lists(st.builds(BlobState, st.integers(0, 4), st.integers(0, 4), st.integers(0, 40), st.binary(max_size=6)), max_size=4).map(tuple),
    ),
)
chunks = st.builds(
    lambda place, changes, body: chunk(place, body, **changes),
    st.integers(0, 3),
    st.fixed_dictionaries(
        {}, optional={"total": st.integers(0, 4), "number": st.integers(0, 3), "window": st.integers(0, 9), "incarnation": st.integers(0, 2)}
    ),
    st.one_of(st.none(), st.binary(max_size=4001)),
)


@pytest.mark.thorough
@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(messages.map(lambda message: bytes(frames.encode(message))), chunks, st.binary(max_size=60)), max_size=20), st.data())
@example([b""], None)
def test_nothing_that_a_peer_sends_raises(payloads: list[bytes], data: Any) -> None:
    """Well-formed nonsense, in both directions, with a sender that has letters and casts on the way."""
    net = Net()
    site, peer = net.site("bob", roles=["t"], limits=TransferLimits(chunk_bytes=1024, inline_bytes=10)), net.site("ada", roles=["t"])
    site.endpoint.send(0.0, peer.address, content("s", "t", b"", site.add(MODEL)), "k1")
    site.endpoint.cast(0.0, "hall", "t", [peer.address], content("s", "t", b"", site.add(MODEL[1:]), site.add(MODEL)), "k2")
    site.endpoint.take()
    routes = [ROUTE, topics.Route("cast", "hall", f"{JOB}~t", "ada", KIND)]
    now = 0.0
    for number, payload in enumerate(payloads):
        if data is not None and payload and data.draw(st.booleans()) and data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(payload) - 1))
            payload = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]  # noqa: PLW2901
        now += 1.0
        site.endpoint.on_frame(now, routes[number % 2], payload)
        site.endpoint.on_timer(now)
        for output in site.endpoint.take():
            assert not isinstance(output, PublishFrame) or len(output.payload) <= 1024 + 64
    assert site.endpoint.in_flight("ada") >= 0


# -- the small parts -----------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(0, 32))
def test_ranges_are_a_set(numbers: list[int], base: int) -> None:
    ranges, plain = Ranges(), set()
    for number in numbers:
        ranges.add(number)
        plain.add(number)
    ranges.drop_below(base)
    plain = {number for number in plain if number >= base}
    assert {number for number in range(40) if number in ranges} == plain
    assert len(ranges) == sum(number - 1 not in plain for number in plain)


@given(st.integers(0, 50), st.sets(st.integers(0, 100)))
def test_bitmaps_go_through(first: int, beyond: set[int]) -> None:
    indexes = {first + index for index in beyond}
    mask = mask_of(first, beyond_bytes(first, indexes))
    assert set(bits(mask)) == set(range(first)) | indexes


def test_a_frame_is_what_was_encoded() -> None:
    for message in (
        offer(),
        StateProbe(ORIGIN, 1, (("", 1),), (("", 2),), (3,)),
        Ack(ORIGIN, 1, 2, 3, 4, (LetterState("", 1, 2),), (BlobState(1, 1, 2, b"3"),)),
    ):
        assert frames.decode(bytes(frames.encode(message)), 10_000) == message
    with pytest.raises(WireError, match="limit 10 B"):
        frames.decode(bytes(frames.encode(offer())), 10)
