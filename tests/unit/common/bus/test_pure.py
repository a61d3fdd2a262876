"""The pure parts of the bus: what is kept and what is dropped, how long to stay away, what the configuration allows."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_common.bus.access import HEADER_ROOM, MQTT_MAX_PAYLOAD, payload_limit
from fog_common.bus.backoff import Backoff
from fog_common.bus.base import BrokerConfig
from fog_common.bus.sendqueue import MAX_TRIES, Queued, SendQueue


def longest(low: float, high: float) -> float:
    return high


def letters(queue: SendQueue, window: int = 1_000_000) -> list[bytes]:
    taken = []
    while (letter := queue.take(window)) is not None:
        taken.append(letter.payload)
    return taken


def test_control_goes_before_bulk_and_each_keeps_its_order() -> None:
    queue = SendQueue()
    for number in range(3):
        queue.put(Queued("bulk", b"b%d" % number, 0), connected=True)
        queue.put(Queued("control", b"c%d" % number, 1), connected=True)
    assert letters(queue) == [b"c0", b"c1", b"c2", b"b0", b"b1", b"b2"]


def test_a_full_window_holds_control_back_and_lets_bulk_through() -> None:
    queue = SendQueue()
    queue.put(Queued("control", b"c", 1), connected=True)
    queue.put(Queued("bulk", b"b", 0), connected=True)
    assert (letters(queue, window=0), queue.ready(0), queue.ready(1)) == ([b"b"], False, True)


def test_bulk_makes_room_before_control() -> None:
    queue = SendQueue(max_bytes=10)
    queue.put(Queued("control", b"12345", 1), connected=True)
    for payload in (b"old", b"mid", b"new"):
        queue.put(Queued("bulk", payload, 0), connected=True)
    assert (queue.dropped, letters(queue)) == (2, [b"12345", b"new"])


def test_what_was_not_acknowledged_goes_first_again_until_it_was_tried_too_often() -> None:
    queue = SendQueue()
    queue.put(Queued("c", b"waits", 1), connected=False)
    given_up = queue.put_back([Queued("c", b"one", 1), Queued("c", b"poison", 1, tries=MAX_TRIES - 1), Queued("c", b"two", 1)])
    assert [letter.payload for letter in given_up] == [b"poison"]
    assert (queue.dropped, letters(queue)) == (1, [b"one", b"two", b"waits"])


step = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 1), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("take"), st.integers(0, 3)),
    st.tuples(st.just("lost")),
)


@given(st.lists(step, max_size=60))
def test_the_bounds_hold_and_nothing_is_lost_uncounted(steps: list[tuple[str, int, int, bool]]) -> None:
    queue, out, put, done = SendQueue(max_control=4, max_bytes=40), [], 0, 0
    for kind, *rest in steps:
        if kind == "put":
            put += 1
            queue.put(Queued("t", bytes(rest[1]), rest[0]), connected=bool(rest[2]))
        elif kind == "take":
            letter = queue.take(rest[0])
            if letter is not None and letter.qos:
                out.append(letter)
            elif letter is not None:
                done += 1
        else:
            queue.put_back(out)
            out = []
            queue.drop_bulk()
        assert queue.bytes >= 0
        assert kind != "put" or queue.bytes <= max(40, 30)
        assert put == queue.dropped + len(queue) + len(out) + done


def test_the_wait_grows_to_its_cap_and_a_good_connection_makes_it_short_again() -> None:
    backoff = Backoff(first_s=1.0, cap_s=30.0, uniform=longest)
    assert [backoff.wait_s("unreachable", 0.0) for _ in range(8)] == [1, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.wait_s("lost", 59.0) == 30
    assert backoff.wait_s("lost", 1000.0) == 1


def test_a_short_absence_of_the_broker_is_not_made_a_long_one() -> None:
    for seed in range(200):
        backoff, away_s = Backoff(uniform=Random(seed).uniform), 0.0
        while away_s < 1.0:  # it is back after a second
            away_s += backoff.wait_s("lost" if not away_s else "unreachable", 1000.0 if not away_s else 0.0)
        assert away_s <= 2.0


def test_a_fleet_does_not_come_back_in_step() -> None:
    waits = [Backoff().wait_s("lost", 1000.0) for _ in range(200)]
    assert all(0 <= wait <= 1 for wait in waits)
    assert len({round(wait, 6) for wait in waits}) > 190


def test_of_two_with_one_id_the_older_stays_away_ever_longer() -> None:
    backoff = Backoff(uniform=longest)
    assert [backoff.wait_s("taken_over", 100.0) for _ in range(8)] == [10, 20, 40, 80, 160, 320, 600, 600]
    assert backoff.wait_s("taken_over", 601.0) == 10
    low = Backoff(uniform=lambda low, high: low)
    assert low.wait_s("taken_over", 100.0) == 5


@pytest.mark.parametrize(
    ("cap", "packet", "limit"),
    [
        (0, None, MQTT_MAX_PAYLOAD),
        (0, 2_000_000, 2_000_000 - HEADER_ROOM),
        (131_072, None, 131_072),
        (131_072, 2_000_000, 131_072),
        (131_072, 65_536, 65_536 - HEADER_ROOM),
        (0, 100, 1),
    ],
)
def test_the_smaller_of_the_brokers_and_the_configured_limit_counts(cap: int, packet: int | None, limit: int) -> None:
    assert payload_limit(BrokerConfig(max_payload_bytes=cap), packet) == limit
