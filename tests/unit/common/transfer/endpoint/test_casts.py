"""The endpoint: casts from one host to many."""

from __future__ import annotations

from typing import Any

import pytest

from fog_common.transfer import assembly, frames
from fog_common.transfer.endpoint import TransferLimits
from support.endpoints import SMALL, chunk_of, group, noise, only
from support.letternet import Net, content


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


@pytest.mark.thorough
def test_a_large_model_reaches_eight_nodes() -> None:
    net = Net(delay_s=0.001)
    ada, nodes = group(net, 8, TransferLimits(chunk_bytes=120 * 1024))
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
