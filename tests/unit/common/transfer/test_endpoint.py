"""The endpoint, case by case: what one sees of letters and blobs between hosts."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fog_common.errors import FogError, TooLarge
from fog_common.transfer import assembly, frames
from fog_common.transfer.endpoint import Address, BlobMeta, Limits, Publish
from support.letternet import KIND, Net, Site, Weather, content

SMALL = Limits(chunk_bytes=4096, inline_bytes=1000, window_chunks=8)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def pair(net: Net, limits: Limits | None = None) -> tuple[Site, Site]:
    return net.site("ada", limits=limits), net.site("bob", limits=limits)


def group(net: Net, size: int, limits: Limits | None = None) -> tuple[Site, list[Site]]:
    return net.site("ada", limits=limits), [net.site(f"n{i}", roles=["trainer"], limits=limits) for i in range(size)]


def chunk_of(frame: Publish) -> int | None:
    """Index of the chunk in a frame, None for a message."""
    return frames.decode_chunk(frame.payload).place if frame.payload[0] == frames.CHUNK_MAGIC else None


def only(site: Site) -> bytes:
    """The one blob of the one letter that came."""
    (letter,) = site.arrived
    (blob,) = letter.content.blobs
    return bytes(site.blobs[blob.digest])


# -- one to one ----------------------------------------------------------------------------


def test_a_letter_without_blobs_is_two_frames() -> None:
    net = Net()
    ada, bob = pair(net)
    ada.endpoint.stamp(0.0, view=3, root_saved=7)
    ada.endpoint.send(0.0, bob.address, content("server", "trainer-1", b"hello"), "k")
    net.run()
    (letter,) = bob.arrived
    assert letter.content == content("server", "trainer-1", b"hello")
    assert (letter.view, letter.root_saved, letter.incarnation, letter.node, letter.cast) == (3, 7, 1, "ada", False)
    assert ada.acked == [("k", "bob")]
    assert net.frames == 2


def test_small_blobs_travel_inside_the_letter() -> None:
    net = Net()
    ada, bob = pair(net)
    blobs = [ada.add(noise(30_000, seed)) for seed in range(2)]
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", *blobs, ada.add(b"")), "k")
    net.run()
    assert [len(bob.blobs[blob.digest]) for blob in bob.arrived[0].content.blobs] == [30_000, 30_000, 0]
    assert net.frames == 2


@pytest.mark.parametrize("name", ["", "~ada-1-1"])
def test_a_model_costs_its_bytes(name: str) -> None:
    net = Net()
    ada, bob = pair(net)
    model = noise(4 << 20)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", ada.add(model, name)), "k")
    net.run()
    assert only(bob) == model
    assert sum(net.payload_bytes.values()) <= 1.02 * len(model)


def test_frames_keep_to_the_brokers_limit() -> None:
    net = Net()
    limits = Limits(chunk_bytes=2048, inline_bytes=64 * 1024)
    ada, bob = pair(net, limits)
    sizes: list[int] = []
    net.lose = lambda frame, receiver: sizes.append(len(frame.payload)) is not None
    blobs = [ada.add(noise(700, seed)) for seed in range(4)]
    ada.endpoint.send(0.0, bob.address, content("s", "t", noise(50_000), *blobs), "long body")
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", *blobs), "no room inside")
    net.run()
    assert sorted(letter.content.body for letter in bob.arrived) == [b"", noise(50_000)]
    assert max(sizes) <= 2048
    assert set(bob.blobs) == {blob.digest for blob in blobs}  # a body is no blob


def test_smaller_limits_cut_what_is_on_the_way_anew() -> None:
    net = Net()
    ada, bob = pair(net, Limits(chunk_bytes=64 * 1024, inline_bytes=8000))
    model = noise(900_000)
    ada.endpoint.send(0.0, bob.address, content("s", "t", noise(5000), ada.add(model)), "k1")
    ada.endpoint.send(0.0, bob.address, content("s", "u", noise(9000), ada.add(noise(3000))), "k2")
    net.lose = lambda frame, receiver: len(frame.payload) > 2000  # the broker drops what is too large for it
    net.at(1.0, lambda: ada.endpoint.set_limits(Limits(chunk_bytes=2000, inline_bytes=1000)))
    net.at(1.0, lambda: net.pump(ada))
    net.run()
    assert sorted(ada.acked) == [("k1", "bob"), ("k2", "bob")]
    assert {letter.content.to: letter.content.body for letter in bob.arrived} == {"t": noise(5000), "u": noise(9000)}


def test_a_blob_that_is_there_is_not_sent_again() -> None:
    net = Net()
    ada, bob = pair(net)
    model = ada.add(noise(3_000_000))
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"1", model), "k1")
    net.run()
    before = net.payload_bytes["d2d"]
    ada.endpoint.send(net.now, bob.address, content("s", "t", b"2", model), "k2")
    net.run()
    assert len(bob.arrived) == 2
    assert net.payload_bytes["d2d"] - before < 2000


def test_a_blob_that_was_dropped_there_is_sent_again() -> None:
    net = Net()
    ada, bob = pair(net)
    model = ada.add(noise(3_000_000))
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"1", model), "k1")
    net.run()
    bob.blobs.clear()
    ada.endpoint.send(net.now, bob.address, content("s", "t", b"2", model), "k2")
    started = net.now
    net.run(until=started + 1.0)
    assert len(bob.arrived) == 2
    assert bytes(bob.blobs[model.digest]) == noise(3_000_000)


def test_two_letters_share_the_blob_on_its_way() -> None:
    net = Net()
    ada, bob = pair(net)
    model = ada.add(noise(3_000_000))
    for key in ("k1", "k2"):
        ada.endpoint.send(0.0, bob.address, content("s", "t", key.encode(), model), key)
    net.run()
    assert len(bob.arrived) == 2
    assert net.payload_bytes["d2d"] < 1.02 * model.size


def test_a_blob_dropped_by_the_table_while_the_letters_other_blob_comes_is_put_back() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    first, second = ada.add(noise(5000, 1)), ada.add(noise(200_000, 2))
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", first, second), "k")
    swept: list[float] = []

    def sweep(net: Net) -> None:
        if not bob.arrived and bob.blobs.pop(first.digest, None) is not None:
            swept.append(net.now)

    net.watch = sweep
    net.run()
    assert swept
    assert {first.digest, second.digest} == set(bob.blobs)


def test_lost_chunks_alone_are_sent_again_and_soon() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    model = ada.add(noise(400_000))
    lost = {5, 40, 41, 42}
    net.lose = lambda frame, receiver: chunk_of(frame) in lost and not lost.discard(chunk_of(frame) or 0)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", model), "k")
    net.run(until=1.9)  # before any stall timer
    assert only(bob) == noise(400_000)
    assert ada.endpoint.counters["repaired_chunks"] == 4
    assert "duplicate_chunks" not in bob.endpoint.counters


def test_a_lost_last_chunk_is_asked_for_after_the_stall_time() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    model = ada.add(noise(4096 * 10))
    lost = {10}
    net.lose = lambda frame, receiver: chunk_of(frame) in lost and not lost.discard(10)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", model), "k")
    net.run(until=1.99)
    assert not bob.arrived
    net.run(until=2.5)
    assert only(bob) == noise(4096 * 10)
    assert ada.endpoint.counters == {"probes": 1, "repaired_chunks": 1}


def test_a_reconnect_resumes_and_repeats_nothing_that_arrived() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    model = ada.add(noise(4_000_000))
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", model), "k")
    net.at(1.0, lambda: net.cut("ada", back_at=500.0))
    net.run(until=499.0)
    half = net.payload_bytes["d2d"]
    assert model.size * 0.1 < half < model.size * 0.9
    net.run()
    assert only(bob) == noise(4_000_000)
    assert net.payload_bytes["d2d"] < 1.05 * model.size


def test_nothing_is_published_while_the_bus_is_away() -> None:
    net = Net()
    ada, bob = pair(net)
    ada.endpoint.disconnected(0.0)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b""), "k")
    assert ada.endpoint.take() == []
    assert ada.endpoint.next_timer() is None
    ada.endpoint.connected(5.0)
    net.run()
    assert ada.acked == [("k", "bob")]


def test_a_frozen_receiver_is_asked_ever_more_rarely_and_its_queue_stays_small() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    for number in range(50):
        ada.endpoint.send(0.0, bob.address, content("s", "t", noise(500), ada.add(noise(40_000, number))), number)
    net.freeze("bob", until=300.0)
    net.run(until=299.0)
    assert len(bob.backlog) <= SMALL.window_chunks + 15
    assert ada.endpoint.in_flight("bob") <= SMALL.window_chunks + 1
    net.run()
    assert len(bob.arrived) == 50
    assert ada.endpoint.pending() == []


def test_windows_are_never_exceeded_and_used() -> None:
    net = Net(3, Weather(loss=0.05, repeat=0.05))
    ada, bob = pair(net, SMALL)
    for number in range(10):
        ada.endpoint.send(0.0, bob.address, content("s", "t", b"", ada.add(noise(100_000, number))), number)
    most: list[int] = []
    net.watch = lambda net: most.append(ada.endpoint.in_flight("bob"))
    net.run()
    assert max(most) in {SMALL.window_chunks, SMALL.window_chunks + 1}
    assert len(bob.arrived) == 10


def test_many_senders_together_keep_the_receivers_inbox_bounded() -> None:
    net = Net(delay_s=0.001)
    root = net.site("root", limits=Limits(chunk_bytes=1024, inline_bytes=0, window_chunks=32, inbox_messages=60))
    senders = [net.site(f"n{i}", limits=Limits(chunk_bytes=1024, inline_bytes=0, window_chunks=32)) for i in range(10)]
    for number, site in enumerate(senders):
        site.endpoint.send(0.0, root.address, content("s", "t", b"", site.add(noise(300_000, number))), "k")
    most: list[int] = []
    net.watch = lambda net: most.append(sum(site.endpoint.in_flight("root") for site in senders) if net.now > 0.01 else 0)
    net.run()
    assert len(root.arrived) == 10
    assert max(most) <= 60


def test_chunks_of_several_blobs_come_in_turn() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    small, large = ada.add(noise(20_000, 1)), ada.add(noise(4_000_000, 2))
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"large", large), "large")
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"small", small), "small")
    net.run()
    assert [letter.content.body for letter in bob.arrived] == [b"small", b"large"]


def test_planes_follow_the_tiers_and_sites() -> None:
    net = Net()
    edge = net.site("edge-1", site="hall", tier="edge")
    other = net.site("edge-2", site="yard", tier="edge")
    cloud = net.site("cloud-1", site="cloud", tier="cloud")
    near = net.site("fog-1", site="hall", tier="fog")
    for target, plane in ((other, "up"), (cloud, "up"), (near, "d2d")):
        edge.endpoint.send(0.0, target.address, content("s", "t", b""), "k")
        (frame,) = edge.endpoint.take()
        assert isinstance(frame, Publish)
        assert frame.plane == plane
    cloud.endpoint.send(0.0, edge.address, content("s", "t", b""), "k")
    assert [frame.plane for frame in cloud.endpoint.take() if isinstance(frame, Publish)] == ["down"]


def test_what_cannot_be_sent_is_refused_here_with_its_numbers() -> None:
    ada = Net().site("ada", limits=Limits(max_letter_bytes=100, max_blob_bytes=1000))
    to = Address("bob", "hall", "edge", KIND)
    with pytest.raises(TooLarge, match="101 B, limit 100 B"):
        ada.endpoint.send(0.0, to, content("s", "t", bytes(101)), "k")
    with pytest.raises(TooLarge, match="1001 B, limit 1000 B"):
        ada.endpoint.send(0.0, to, content("s", "t", b"", ada.add(bytes(1001))), "k")
    with pytest.raises(FogError, match="is not here"):
        ada.endpoint.send(0.0, to, content("s", "t", b"", BlobMeta("0" * 64, 5)), "k")
    assert ada.endpoint.take() == []
    assert ada.endpoint.pending() == []


def test_pending_says_what_is_missing_since_when() -> None:
    net = Net()
    ada, bob = pair(net, SMALL)
    ada.endpoint.send(1.5, bob.address, content("s", "t", b"", ada.add(noise(100_000))), "k")
    assert ada.endpoint.pending() == [("k", "bob", 100_000, 1.5)]
    net.run(until=0.05)
    ((_, _, left, _),) = ada.endpoint.pending()
    assert 0 < left < 100_000
    net.run()
    assert ada.endpoint.pending() == []


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
    late = next(frame for frame in ada.endpoint.take() if isinstance(frame, Publish))
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


# -- one to many ---------------------------------------------------------------------------


def test_a_cast_is_published_once() -> None:
    net = Net()
    ada, nodes = group(net, 8)
    model = noise(4 << 20)
    ada.endpoint.cast(0.0, "hall", "trainer", [node.address for node in nodes], content("server", "trainer", b"r1", ada.add(model)), "k")
    net.run()
    assert all(only(node) == model and node.arrived[0].cast for node in nodes)
    assert net.payload_bytes["cast"] < 1.01 * len(model)
    assert net.payload_bytes["d2d"] < 0.01 * len(model)
    assert sorted(ada.acked) == [("k", node.address.node) for node in nodes]


def test_a_small_cast_is_one_frame() -> None:
    net = Net()
    ada, nodes = group(net, 5)
    ada.endpoint.cast(0.0, "all", "trainer", [node.address for node in nodes], content("server", "trainer", b"r1", ada.add(noise(9000))), "k")
    net.run()
    assert len(ada.acked) == 5
    assert net.frames == 1 + 5


def test_ones_own_cast_is_not_heard() -> None:
    net = Net()
    ada, bob = net.site("ada", roles=["peer"]), net.site("bob", roles=["peer"])
    ada.endpoint.cast(0.0, "hall", "peer", [bob.address], content("p1", "peer", b""), "k")
    net.run()
    assert (len(ada.arrived), len(bob.arrived)) == (0, 1)


def test_chunks_that_one_member_misses_go_to_it_alone() -> None:
    net = Net()
    ada, nodes = group(net, 4, SMALL)
    model = ada.add(noise(400_000))
    net.lose = lambda frame, receiver: frame.plane == "cast" and receiver == "n2" and (chunk_of(frame) or 0) % 10 == 1
    ada.endpoint.cast(0.0, "hall", "trainer", [node.address for node in nodes], content("s", "trainer", b"", model), "k")
    net.run()
    assert len(ada.acked) == 4
    assert "casts_repaired" not in ada.endpoint.counters
    assert ada.endpoint.counters["repaired_chunks"] == 10
    assert net.payload_bytes["cast"] < 1.02 * model.size


def test_chunks_that_many_miss_are_cast_again() -> None:
    net = Net()
    ada, nodes = group(net, 4, SMALL)
    model = ada.add(noise(400_000))
    lost = {(place, node) for place in (3, 50, 51) for node in ("n0", "n1", "n2")}
    net.lose = lambda frame, receiver: (chunk_of(frame), receiver) in lost and not lost.discard((chunk_of(frame) or 0, receiver))
    ada.endpoint.cast(0.0, "hall", "trainer", [node.address for node in nodes], content("s", "trainer", b"", model), "k")
    net.run()
    assert len(ada.acked) == 4
    assert ada.endpoint.counters["casts_repaired"] == 3
    assert "repaired_chunks" not in ada.endpoint.counters


def test_a_member_far_behind_drops_what_it_has_no_room_for_and_gets_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "FIRST_BYTES", 8 * 4096)
    monkeypatch.setattr(assembly, "AHEAD_BYTES", 20 * 4096)
    net = Net()
    ada, nodes = group(net, 4, SMALL)
    model = ada.add(noise(400_000))
    net.lose = lambda frame, receiver: frame.plane == "cast" and receiver == "n2" and 0 < (chunk_of(frame) or 0) < 60
    ada.endpoint.cast(0.0, "hall", "trainer", [node.address for node in nodes], content("s", "trainer", b"", model), "k")
    net.run()
    assert len(ada.acked) == 4
    assert only(nodes[2]) == noise(400_000)
    assert nodes[2].endpoint.counters["chunks_far_ahead"] > 0
    assert all("chunks_far_ahead" not in node.endpoint.counters for node in nodes if node is not nodes[2])


def test_a_frozen_member_does_not_stop_the_others() -> None:
    net = Net()
    ada, nodes = group(net, 2, SMALL)
    model = ada.add(noise(1_000_000))
    net.freeze("n1", until=200.0)
    ada.endpoint.cast(0.0, "hall", "trainer", [node.address for node in nodes], content("s", "trainer", b"", model), "k")
    net.run(until=10.0)
    assert ada.acked == [("k", "n0")]
    net.run()
    assert sorted(ada.acked) == [("k", "n0"), ("k", "n1")]


def test_members_that_hold_the_blob_are_asked_before_it_is_cast() -> None:
    net = Net()
    ada, nodes = group(net, 4)
    model = ada.add(noise(3_000_000))
    members = [node.address for node in nodes]
    ada.endpoint.cast(0.0, "hall", "trainer", members, content("s", "trainer", b"1", model), "k1")
    net.run()
    nodes[3].blobs.clear()
    before = dict(net.payload_bytes)
    ada.endpoint.cast(net.now, "hall", "trainer", members, content("s", "trainer", b"2", model), "k2")
    net.run()
    assert all(len(node.arrived) == 2 for node in nodes)
    assert net.payload_bytes["cast"] - before["cast"] < 2000
    assert net.payload_bytes["d2d"] - before["d2d"] < 1.02 * model.size  # the one that dropped it


def test_a_cast_refused_as_stale_by_all_is_cast_again_under_the_newer_view() -> None:
    net = Net()
    ada, nodes = group(net, 4)
    net.decide = lambda site, letter: "accept" if letter.view >= 1 else "stale_view"
    ada.endpoint.cast(0.0, "hall", "trainer", [node.address for node in nodes], content("s", "trainer", b"", ada.add(noise(2_000_000))), "k")
    net.run()
    assert len(ada.refused) == 4
    before = dict(net.payload_bytes)
    ada.endpoint.stamp(net.now, 1, 0)
    net.run()
    assert len(ada.acked) == 4
    assert net.payload_bytes["cast"] - before["cast"] < 3000
    assert net.payload_bytes["d2d"] - before["d2d"] < 3000


def test_a_forgotten_member_no_longer_counts() -> None:
    net = Net()
    ada, nodes = group(net, 3, SMALL)
    net.freeze("n0", until=10_000.0)
    ada.endpoint.cast(0.0, "hall", "trainer", [node.address for node in nodes], content("s", "trainer", b"", ada.add(noise(200_000))), "k")
    net.run(until=5.0)
    assert [node for _, node, _, _ in ada.endpoint.pending()] == ["n0"]
    ada.endpoint.forget_peer("n0")
    assert ada.endpoint.pending() == []
    assert ada.endpoint.digests() == set()


def test_a_large_model_reaches_eight_nodes() -> None:
    net = Net(delay_s=0.001)
    ada, nodes = group(net, 8, Limits(chunk_bytes=120 * 1024))
    model = noise(64 << 20)
    named = ada.add(model)
    for node in nodes[:4]:
        ada.endpoint.send(0.0, node.address, content("s", "t", b"", named), "k")
    ada.endpoint.cast(0.0, "hall", "trainer", [node.address for node in nodes[4:]], content("s", "trainer", b"", named), "c")
    net.run()
    assert all(bytes(node.blobs[named.digest]) == model for node in nodes)


@pytest.mark.parametrize("probes", [0, 7, 21])
def test_a_peer_that_was_given_up_and_is_back_says_what_it_has_as_soon_as_it_is_asked(probes: int) -> None:
    """The numbers of probes go on: with those of a new line the receiver's echo, of the old one, would mean nothing for a long time."""
    net = Net()
    ada, bob = net.site("ada"), net.site("bob")
    net.decide = lambda site, letter: "park" if letter.content.body == b"park" else "accept"
    ada.endpoint.send(net.now, bob.address, content("x", "y", b"park"), "parked")
    for each in range(probes):  # each reconnection asks once more
        net.at(1.0 + each, lambda: (ada.endpoint.disconnected(net.now), ada.endpoint.connected(net.now), net.pump(ada)))
    net.run(until=probes + 5.0)
    ada.endpoint.forget_peer("bob")
    net.run(until=probes + 6.0)
    model = ada.add(noise(600_000))
    net.now = probes + 6.0
    lost: list[bytes] = []

    def lose(frame: Any, receiver: str) -> bool:
        chunk = frames.decode_chunk(frame.payload) if receiver == "bob" and frame.payload[0] == frames.CHUNK_MAGIC else None
        last = chunk is not None and chunk.place == chunk.total - 1
        if last:
            lost.append(frame.payload)
        return last and len(lost) == 1

    net.lose = lose
    ada.endpoint.send(net.now, bob.address, content("x", "y", b"", model), "model")
    arrived: list[float] = []
    net.watch = lambda each: arrived.append(each.now) if not arrived and any(key == "model" for key, _ in ada.acked) else None
    net.run(until=net.now + 1000.0)
    assert len(lost) == 2 and arrived[0] - (probes + 6.0) < 5.0
