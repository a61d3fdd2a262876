"""The endpoint between two hosts: letters, blobs, chunks, windows."""

from __future__ import annotations

import pytest

from fog_common.errors import FogError, TooLarge
from fog_common.transfer.endpoint import Address, BlobMeta, PublishFrame, TransferLimits
from support.endpoints import SMALL, chunk_of, noise, only, pair
from support.letternet import KIND, Net, Weather, content


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
    limits = TransferLimits(chunk_bytes=2048, inline_bytes=64 * 1024)
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
    ada, bob = pair(net, TransferLimits(chunk_bytes=64 * 1024, inline_bytes=8000))
    model = noise(900_000)
    ada.endpoint.send(0.0, bob.address, content("s", "t", noise(5000), ada.add(model)), "k1")
    ada.endpoint.send(0.0, bob.address, content("s", "u", noise(9000), ada.add(noise(3000))), "k2")
    net.lose = lambda frame, receiver: len(frame.payload) > 2000  # the broker drops what is too large for it
    net.at(1.0, lambda: ada.endpoint.set_limits(TransferLimits(chunk_bytes=2000, inline_bytes=1000)))
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
    root = net.site("root", limits=TransferLimits(chunk_bytes=1024, inline_bytes=0, window_chunks=32, inbox_messages=60))
    senders = [net.site(f"n{i}", limits=TransferLimits(chunk_bytes=1024, inline_bytes=0, window_chunks=32)) for i in range(10)]
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
        assert isinstance(frame, PublishFrame)
        assert frame.plane == plane
    cloud.endpoint.send(0.0, edge.address, content("s", "t", b""), "k")
    assert [frame.plane for frame in cloud.endpoint.take() if isinstance(frame, PublishFrame)] == ["down"]


def test_what_cannot_be_sent_is_refused_here_with_its_numbers() -> None:
    ada = Net().site("ada", limits=TransferLimits(max_letter_bytes=100, max_blob_bytes=1000))
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
