"""What a silent task did not hear, and when it hears it after all."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from fog_common.runtime.machine import Peer, Send
from fog_common.runtime.unheard import Unheard


class Word(Struct, frozen=True):
    number: int


class Other(Struct, frozen=True):
    number: int


WAS = Peer("head", "aggregator", -1, "edge-3", "site", "edge", incarnation=4, since=2)
SILENT = replace(WAS, incarnation=0)


def silent(*sent: Send) -> Unheard:
    unheard = Unheard()
    unheard.silent(WAS, SILENT, [("trainer-1", send) for send in sent])
    return unheard


def test_who_is_back_as_it_was_hears_what_was_under_way_and_what_came_since_in_order() -> None:
    unheard = silent(Send("head", Word(1)))
    unheard.note("trainer-2", Send("head", Word(2)))
    assert unheard.of("trainer-2") == [Send("head", Word(2))]
    assert unheard.back(WAS) == [("trainer-1", Send("head", Word(1))), ("trainer-2", Send("head", Word(2)))]
    assert "head" not in unheard
    assert unheard.back(WAS) == []


def test_a_new_instance_hears_nothing_of_it() -> None:
    assert silent(Send("head", Word(1))).back(replace(WAS, incarnation=5)) == []


def test_what_is_placed_elsewhere_is_forgotten() -> None:
    unheard = silent(Send("head", Word(1)))
    unheard.forget_moved({"head": SILENT})
    assert "head" in unheard
    unheard.forget_moved({"head": replace(SILENT, node="edge-4", since=7)})
    assert "head" not in unheard
    unheard.silent(WAS, replace(SILENT, node="edge-4"), [("trainer-1", Send("head", Word(1)))])
    assert "head" not in unheard


def test_only_the_latest_of_its_kind_waits_and_nothing_twice_and_nothing_that_is_kept() -> None:
    unheard = silent(Send("head", Word(1), latest=True), Send("head", Other(1), latest=True))
    unheard.note("trainer-1", Send("head", Word(2), latest=True))
    unheard.note("trainer-1", Send("head", Other(7)))
    unheard.note("trainer-1", Send("head", Other(7)))
    unheard.note("trainer-1", Send("head", Other(8), keep=3))
    assert [send.message for _, send in unheard.back(WAS)] == [Other(1), Word(2), Other(7)]
