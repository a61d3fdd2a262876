"""The endpoint: what the host decides about a letter, and hosts that restart."""

from __future__ import annotations

import pytest

from fog_common.transfer.endpoint import PublishFrame
from support.endpoints import SMALL, noise, only, pair
from support.letternet import KIND, Net, content

# -- the host's decision -------------------------------------------------------------------


def test_a_parked_letter_is_reported_once_and_acknowledged_when_it_is_taken() -> None:
    net = Net()
    ada, bob = pair(net)
    net.decide = lambda site, letter: "park"
    ada.endpoint.send(0.0, bob.address, content("s", "t", b""), "k")
    net.run(until=100.0)
    assert len(bob.arrived) == 1
    assert ada.acked == []
    bob.endpoint.accept(bob.arrived[0])
    net.run()
    assert ada.acked == [("k", "bob")]
    assert len(bob.arrived) == 1


def test_a_stale_letter_waits_for_the_next_view() -> None:
    net = Net()
    ada, bob = pair(net)
    net.decide = lambda site, letter: "accept" if letter.view >= 2 else "stale_view"
    ada.endpoint.stamp(0.0, 1, 0)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b""), "k")
    net.run()
    assert (ada.refused, ada.acked) == ([("k", "bob", "stale_view")], [])
    frames_before = net.frames
    net.run(until=net.now + 1000)
    assert net.frames == frames_before
    ada.endpoint.stamp(net.now, 2, 0)
    net.run()
    assert [letter.view for letter in bob.arrived] == [1, 2]
    assert ada.acked == [("k", "bob")]


def test_a_letter_refused_for_another_reason_is_over() -> None:
    net = Net()
    ada, bob = pair(net)
    net.decide = lambda site, letter: "no_such_task"
    ada.endpoint.send(0.0, bob.address, content("s", "t", b""), "k")
    net.run()
    assert ada.refused == [("k", "bob", "no_such_task")]
    assert ada.endpoint.pending() == []


def test_a_parked_letter_that_is_refused_as_stale_later_comes_again_under_the_newer_view() -> None:
    net = Net()
    ada, bob = pair(net)
    net.decide = lambda site, letter: "park" if letter.view == 1 else "accept"
    ada.endpoint.stamp(0.0, 1, 0)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b""), "k")
    net.run(until=10.0)
    ada.endpoint.stamp(10.0, 2, 0)
    net.run(until=20.0)
    assert len(bob.arrived) == 1
    bob.endpoint.refuse(bob.arrived[0], "stale_view")
    net.run()
    assert [letter.view for letter in bob.arrived] == [1, 2]
    assert ada.acked == [("k", "bob")]


def test_a_cancelled_letter_stops_and_the_receiver_drops_what_it_had() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"old", ada.add(noise(4_000_000))), "old")
    net.run(until=0.5)
    ada.endpoint.cancel("old")
    ada.endpoint.send(net.now, bob.address, content("s", "t", b"new"), "new")
    net.run()
    assert [letter.content.body for letter in bob.arrived] == [b"new"]
    assert net.payload_bytes["d2d"] < 2_000_000
    assert ada.endpoint.digests() == set()
    assert bob.endpoint.digests() == set()
    assert bob.endpoint.next_timer() is None


def test_a_forgotten_peer_gets_nothing_more() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", ada.add(noise(4_000_000))), "k")
    net.run(until=0.5)
    ada.endpoint.forget_peer("bob")
    sent = net.frames
    net.run(until=400.0)
    assert net.frames - sent <= 1  # an acknowledgement that was due
    assert ada.endpoint.pending() == []
    assert ada.endpoint.digests() == set()
    ada.endpoint.send(net.now, bob.address, content("s", "t", b"again"), "k")
    net.run()
    assert [letter.content.body for letter in bob.arrived] == [b"again"]


# -- lives and deaths ----------------------------------------------------------------------


def test_a_receiver_that_restarts_gets_everything_again() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", ada.add(noise(2_000_000))), "k")
    net.at(1.0, lambda: net.restart("bob") and None)
    net.run()
    assert only(net.sites["bob"]) == noise(2_000_000)
    assert bob.arrived == []
    assert ada.acked == [("k", "bob")]


def test_what_the_dead_instance_sends_is_dropped() -> None:
    net = Net(delay_s=0.5)
    ada, bob = pair(net)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"late"), "k")
    late = next(frame for frame in ada.endpoint.take() if isinstance(frame, PublishFrame))
    reborn = net.restart("ada")
    reborn.endpoint.send(0.0, bob.address, content("s", "t", b"new"), "k")
    net.at(2.0, lambda: net._publish(reborn, late))
    net.run()
    assert [(letter.incarnation, letter.content.body) for letter in bob.arrived] == [(2, b"new")]
    assert bob.endpoint.rejected == {"dead_incarnation": 1}


def test_what_is_not_continued_is_dropped_after_a_while() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", ada.add(noise(2_000_000))), "k")
    net.at(0.5, lambda: net.cut("ada", back_at=5000.0))
    net.run(until=400.0)
    assert bob.endpoint._receiver._sources["ada", KIND].assemblies
    net.run(until=1000.0)
    assert not bob.endpoint._receiver._sources["ada", KIND].assemblies
    assert bob.endpoint.counters["idle_dropped"] == 1
    net.run(until=6000.0)
    assert only(bob) == noise(2_000_000)


def test_the_memory_of_what_was_accepted_stays_small() -> None:
    net = Net()
    ada, bob = pair(net)
    net.decide = lambda site, letter: "park" if letter.content.body == b"0" else "accept"
    for number in range(2000):
        ada.endpoint.send(0.0, bob.address, content("s", "t", b"%d" % number), number)
    net.run(until=50.0)
    memory = bob.endpoint._receiver._sources["ada", KIND].streams[""]
    assert len(bob.arrived) == 2000
    assert len(memory) <= 3


def test_too_many_parked_letters_are_refused_for_now_and_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fog_common.transfer.receiver.MAX_LETTERS", 20)
    net = Net()
    ada, bob = pair(net, SMALL)
    net.decide = lambda site, letter: "park" if net.now < 60.0 else "accept"
    for number in range(50):
        ada.endpoint.send(0.0, bob.address, content("s", "t", b"%d" % number), number)
    net.run(until=59.0)
    assert len(bob.arrived) == 20
    assert bob.endpoint.rejected["full"] > 0
    net.at(60.0, lambda: [bob.endpoint.accept(letter) for letter in bob.arrived] and net.pump(bob))
    net.run()
    assert len(bob.arrived) == 50
    assert len(ada.acked) == 50
