"""The ledger of rounds: what is rated, what leaves, in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fog_common.runtime.machine import Blob, Close, Finish, Measure, RoundRecord
from fog_learning.job.sections import Evaluation
from fog_learning.rounds.ledger import Ledger


def ledger(rounds: int = 5, **evaluation: object) -> Ledger:
    return Ledger(rounds, Evaluation(**evaluation))  # type: ignore[arg-type]


def record(number: int) -> RoundRecord:
    return RoundRecord(number, float(number), 2, 20, {"loss": 1.0 / number})


def closed(commands: list[object]) -> list[int]:
    return [command.record.round for command in commands if isinstance(command, Close)]


def test_rounds_are_counted_from_one_and_the_round_after_the_last_is_shown_as_the_last():
    book = ledger(2)
    assert [book.open(), book.last, book.open(), book.last, book.open(), book.shown] == [1, False, 2, True, 3, 2]


def test_every_k_th_round_and_the_last_are_rated_where_the_job_says():
    assert [number for number in range(7) if ledger(5, every=2).rates_here(number)] == [2, 4, 5, 6]
    assert not any(ledger(5, where="none").rates(number) for number in range(7))
    federated = ledger(5, where="federated")
    assert federated.rates(1) and not federated.rates_here(1)


def test_a_round_that_is_to_be_rated_leaves_with_its_rating():
    book = ledger()
    assert book.close(record(1), rate=True) == []
    assert book.waits_for(1) and book.numbers == {}
    commands = book.rate(1, {"accuracy": 0.5})
    assert closed(commands) == [1]
    assert Measure("accuracy", 0.5) in commands
    assert book.numbers == {"loss": 1.0, "accuracy": 0.5}
    assert book.rate(1, {"accuracy": 0.9}) == [], "a second rating of the same round"


def test_a_round_whose_rating_came_early_waits_for_the_older_one():
    book = ledger()
    book.close(record(1), rate=True)
    assert closed(book.close(record(2))) == []
    assert closed(book.rate(1, {"accuracy": 0.1})) == [1, 2]


@given(st.permutations(range(1, 9)), st.sets(st.integers(1, 8)))
def test_rounds_leave_in_order_and_once_whatever_the_order_of_their_ratings(order: list[int], unrated: set[int]):
    book, left = ledger(8), []
    for number in range(1, 9):
        left += closed(book.close(record(number), rate=number not in unrated))
    for number in order:
        left += closed(book.rate(number, {"accuracy": number / 10}))
    assert left == list(range(1, 9))
    assert not book.unrated and not book.rated
    assert book.newest is not None and book.newest.round == 8


def test_a_round_that_is_asked_for_again_lets_those_before_it_leave():
    book = ledger()
    book.close(record(1), rate=True)
    book.close(record(2))
    assert closed(book.reopen(1, 9.0)) == [2] and book.waits_for(1)
    assert closed(book.rate(1, {"accuracy": 0.2})) == [1]


def test_the_end_hands_in_the_newest_numbers_or_says_why_there_are_none():
    book, weights = ledger(1), Blob("0" * 64, 8)
    book.close(record(1))
    assert book.finish(weights) == [Finish({"weights": weights}, {"loss": 1.0})] and book.over
    other = ledger()
    assert other.fail("no trainer is left") == [Finish(why="no trainer is left")] and other.over
