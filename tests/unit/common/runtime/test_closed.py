"""Closed rounds between a root and the coordinator: nothing is lost, nothing comes out of order, and Saves stay small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_common.errors import WireError
from fog_common.runtime.closed import FAN, PAGE, REPORT_BYTES, REPORT_ROUNDS, ClosedRounds
from fog_common.runtime.machine import RoundRecord
from fog_common.runtime.refs import BlobTable

NUMBERS = {"loss": 0.1, "slots": 20.0, "accuracy": 0.9, "rated_loss": 0.2}


def record(number: int, wave: int = 0) -> RoundRecord:
    """wave: how often the root fell back before it closed the round."""
    return RoundRecord(number, number * 1.5, 20, 2000 + wave, NUMBERS)


def closed(rounds: int) -> ClosedRounds:
    log = ClosedRounds(BlobTable())
    for number in range(1, rounds + 1):
        log.close(record(number))
        log.save()
    return log


def test_a_round_is_reported_once_it_is_safe_until_it_is_acknowledged():
    log = closed(3)
    assert log.report(0) == ((), False)
    assert log.report(2) == ((record(1), record(2)), False)
    log.acknowledge(1)
    assert log.report(3) == ((record(2), record(3)), False)
    log.acknowledge(3)
    assert log.report(9) == ((), False) and log.save() == (b"", ())


def test_a_report_is_bounded_and_says_that_there_is_more():
    records, more = closed(300).report(300)
    assert [each.round for each in records] == list(range(1, len(records) + 1)) and more
    assert len(records) <= REPORT_ROUNDS
    log = ClosedRounds(BlobTable())
    for number in range(1, 9):
        log.close(RoundRecord(number, 1.0, 1, 1, {f"a number with quite a long name {index}": 1.0 for index in range(200)}))
    records, more = log.report(8)
    assert 1 <= len(records) <= max(1, REPORT_BYTES // 8000) and more


def test_a_save_stays_small_however_long_the_coordinator_is_away():
    sizes = {}
    log = ClosedRounds(BlobTable())
    for number in range(1, 5001):
        log.close(record(number))
        content, pages = log.save()
        sizes[number] = len(content)
        assert len(pages) < 3 * FAN
    assert max(sizes.values()) < 6_000
    assert all(size <= 100 * number for number, size in sizes.items() if number > 4)
    assert [each.round for each in log.whole()] == list(range(1, 5001))


def test_pages_go_once_their_last_round_is_acknowledged():
    log = closed(PAGE * 3)
    assert len(log.pages) == 3
    log.acknowledge(2 * PAGE - 1)
    assert len(log.pages) == 2
    assert [each.round for each in log.report(9 * PAGE)[0]][:2] == [2 * PAGE, 2 * PAGE + 1]


def test_a_page_that_cannot_be_read_holds_up_what_comes_behind_it():
    blobs = BlobTable()
    log = ClosedRounds(blobs)
    for number in range(1, PAGE + 5):
        log.close(record(number))
        log.save()
    blobs.keep_only(set())
    assert log.report(999) == ((), True)


def test_a_torn_log_is_an_error_of_the_wire():
    with pytest.raises(WireError, match="rounds of a save"):
        ClosedRounds(BlobTable(), b"\x93\x01")


STEPS = st.lists(
    st.sampled_from(["close", "close", "close", "save", "persist", "report", "lose", "repeat", "kill", "move"]), min_size=1, max_size=400
)


@given(STEPS, st.integers(1, 40))
def test_the_coordinator_ends_with_every_round_in_order_as_it_was_closed_last(steps: list[str], burst: int):
    """Rounds are closed in bursts; reports are lost and repeated; the root is killed between Save and acknowledgement, or moves with its
    newest copy. What is shown as closed is never taken back."""
    disk = BlobTable()  # holds all blobs: that Saves name what they need is seen in `save`
    log, number, saved, durable, wave = ClosedRounds(disk), 0, (0, b""), (0, b""), 0
    truth: dict[int, RoundRecord] = {}
    coordinator: dict[int, RoundRecord] = {}
    seen, last = 0, ()
    for step in [*steps, "save", "persist", *["report"] * (2 + len(steps) * burst // 30)]:
        match step:
            case "close":
                for _ in range(burst):
                    number += 1
                    truth[number] = record(number, wave)
                    log.close(truth[number])
            case "save":
                saved = (number, log.save()[0])
            case "persist":
                durable = saved
            case "report" | "lose" | "repeat":
                if step != "repeat":
                    last = log.report(durable[0])[0]
                if step != "lose":
                    for each in last:
                        assert each.round <= seen + 1, "a round is missing before it"
                        if each.round <= seen:
                            assert coordinator[each.round] == each, "a round that was shown is taken back"
                        coordinator[each.round] = each
                        seen = max(seen, each.round)
                    log.acknowledge(seen)
            case "kill" | "move":
                wave += 1
                number, saved = durable[0], durable
                log, last = ClosedRounds(disk, durable[1]), ()
                log.acknowledge(seen if step == "kill" else 0)
    assert coordinator == {number: truth[number] for number in range(1, number + 1)}
