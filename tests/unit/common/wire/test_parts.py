"""Messages in parts: any message comes out as it went in, whatever comes twice or is lost; what a stranger sends is refused and bounded."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_common.errors import TooLarge, WireError
from fog_common.runtime.machine import Peer
from fog_common.wire import messages, parts
from fog_common.wire.messages import Control, Desired, DesiredJob, Goodbye, MessagePart, Placement, Probe
from fog_common.wire.parts import MAX_MESSAGE_BYTES, MAX_SENDERS, MAX_WAITING_BYTES, PART_BYTES, ControlCodec


def probe(size: int, number: int = 1) -> Probe:
    return Probe(number, random.Random(number).randbytes(size))


def taken(receiver: ControlCodec, payloads: list[bytes], sender: str = "pi-1") -> list[Control]:
    found = [receiver.message(sender, "ctl", payload) for payload in payloads]
    return [message for message in found if message is not None]


def table(tasks: int) -> Desired:
    peers = tuple(Peer(f"trainer-{n}", "trainer", n, f"pi-{n}", f"site-{n % 50}", "edge") for n in range(tasks))
    return Desired(3, "c1", (DesiredJob("digits", {"name": "digits"}, Placement("digits", 4, "trainer-0", peers)),))


def test_a_short_message_travels_as_it_is() -> None:
    message = Goodbye("pi-1", "n")
    assert ControlCodec("a").payloads(message) == [messages.encode(message)]


@pytest.mark.parametrize("broker", [0, 131_072 - 1024, 20_000, 10_000_000])
def test_a_table_of_six_thousand_tasks_goes_through(broker: int) -> None:
    sender = ControlCodec("coordinator-1")
    sender.connected(broker)
    payloads = sender.payloads(table(6000))
    assert len(payloads) > 3
    assert max(map(len, payloads)) <= min(broker or PART_BYTES, PART_BYTES)
    assert taken(ControlCodec("pi-1"), payloads) == [table(6000)]


@given(
    sizes=st.lists(st.integers(0, 12_000), min_size=1, max_size=6),
    limit=st.integers(2000, 6000),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_message_comes_whole_and_once_or_not_at_all(sizes: list[int], limit: int, seed: int) -> None:
    """Parts come twice, are lost, and come in any order within a message."""
    rng = random.Random(seed)
    sender, receiver = ControlCodec("n1"), ControlCodec("n2")
    sender.connected(limit)
    for number, size in enumerate(sizes):
        sent = probe(size, number)
        payloads = sender.payloads(sent)
        lost = {payload for payload in payloads if rng.random() < 0.1}
        coming = [payload for payload in payloads for _ in range(rng.choice((1, 1, 2))) if payload not in lost]
        rng.shuffle(coming)
        came = taken(receiver, coming)
        assert came[:1] == ([] if lost else [sent])
        assert len(came) <= 1 or len(payloads) == 1, "a message in parts came twice"
    assert 0 <= receiver.waiting_bytes <= 12_000


def test_what_was_lost_is_given_up_when_the_next_message_begins() -> None:
    sender, receiver = ControlCodec("n1"), ControlCodec("n2")
    sender.connected(5000)
    first, second = sender.payloads(probe(20_000, 1)), sender.payloads(probe(20_000, 2))
    assert taken(receiver, [*first[:2], *second]) == [probe(20_000, 2)]
    assert taken(receiver, second) == [], "the broker repeats what it did not hear confirmed"
    assert receiver.waiting_bytes == 0


def test_senders_and_topics_are_kept_apart() -> None:
    receiver = ControlCodec("n")
    codecs = {name: ControlCodec("same") for name in ("pi-1", "pi-2")}
    payloads = {name: codec.payloads(probe(250_000, at)) for at, (name, codec) in enumerate(codecs.items())}
    came = [receiver.message(name, "ctl", payloads[name][at]) for at in range(3) for name in payloads]
    assert came == [None] * 4 + [probe(250_000, 0), probe(250_000, 1)]


def test_a_message_over_the_limit_is_refused_by_its_sender_with_the_numbers() -> None:
    with pytest.raises(TooLarge, match=r"Probe message is 16\d{6} B, limit 16000000 B"):
        ControlCodec("n").payloads(Probe(1, bytes(MAX_MESSAGE_BYTES)))


@pytest.mark.parametrize(
    "part",
    [
        MessagePart("a", 0, 1, bytes(2000)),
        MessagePart("a", 2, 2, bytes(2000)),
        MessagePart("a", -1, 2, bytes(2000)),
        MessagePart("a", 0, 10**9, bytes(2000)),
        MessagePart("", 0, 2, bytes(2000)),
        MessagePart("a" * 101, 0, 2, bytes(2000)),
        MessagePart("a", 0, 2, bytes(10)),
        MessagePart("a", 1, 2, b""),
    ],
    ids=lambda part: f"{part.index} of {part.count}, {len(part.id)}, {len(part.data)} B",
)
def test_numbers_that_no_sender_writes_are_refused(part: MessagePart) -> None:
    receiver = ControlCodec("n")
    with pytest.raises(WireError) as caught:
        receiver.message("mallory", "ctl", messages.encode(part))
    assert caught.value.reason == "bad_part"
    assert receiver.waiting_bytes == 0


@pytest.mark.parametrize("other", [MessagePart("a", 0, 2, b"y" * 2000), MessagePart("a", 1, 3, bytes(2000))], ids=["data", "count"])
def test_parts_that_contradict_each_other_are_dropped_together(other: MessagePart) -> None:
    receiver = ControlCodec("n")
    receiver.message("mallory", "ctl", messages.encode(MessagePart("a", 0, 2, b"x" * 2000)))
    with pytest.raises(WireError, match="contradicts"):
        receiver.message("mallory", "ctl", messages.encode(other))
    assert receiver.waiting_bytes == 0


def test_a_part_within_a_part_and_nonsense_in_parts_are_refused() -> None:
    inner = messages.encode(MessagePart("b", 0, 2, bytes(3000)))
    for whole, reason in ((inner, "bad_part"), (b"\xc1" * 3000, "malformed")):
        receiver = ControlCodec("n")
        receiver.message("mallory", "ctl", messages.encode(MessagePart("a", 0, 2, whole[:2000])))
        with pytest.raises(WireError) as caught:
            receiver.message("mallory", "ctl", messages.encode(MessagePart("a", 1, 2, whole[2000:])))
        assert caught.value.reason == reason


def test_a_flood_is_bounded_and_takes_nobody_elses_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_WAITING_BYTES", MAX_WAITING_BYTES // 64)
    receiver, honest = ControlCodec("n"), ControlCodec("pi-1").payloads(probe(250_000))
    assert taken(receiver, honest[:2]) == []
    for number in range(50):
        receiver.message("mallory", f"kind-{number}", messages.encode(MessagePart("a", 0, 2, bytes(100_000))))
        assert receiver.waiting_bytes <= MAX_WAITING_BYTES // 64
    assert taken(receiver, honest[2:]) == [probe(250_000)]


def test_what_is_remembered_of_finished_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_SENDERS", MAX_SENDERS // 1000)
    sender, receiver = ControlCodec("n1"), ControlCodec("n2")
    for number in range(100):
        for payload in sender.payloads(probe(150_000, number)):
            receiver.message("ada", f"request~{number}", payload)
    assert len(receiver._unfinished) <= MAX_SENDERS // 1000


@given(
    st.lists(
        st.builds(MessagePart, st.sampled_from("ab"), st.integers(-1, 4), st.integers(-1, 4), st.sampled_from([b"", b"x" * 10, b"y" * 1500])),
        max_size=30,
    )
)
@pytest.mark.thorough
@settings(max_examples=100, deadline=None)
def test_any_parts_are_a_message_or_refused(given_parts: list[MessagePart]) -> None:
    receiver = ControlCodec("n")
    for part in given_parts:
        try:
            message = receiver.message("mallory", "ctl", messages.encode(part))
        except WireError:
            continue
        assert message is None or isinstance(message, msgspec.Struct)
    assert 0 <= receiver.waiting_bytes <= sum(len(part.data) for part in given_parts)
