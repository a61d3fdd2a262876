"""The endpoint under random weather: whatever the network and the machines do, every letter arrives once, and nothing is left behind."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_common.transfer.endpoint import BlobMeta, TransferLimits
from support.letternet import KIND, Net, Site, Weather, content

pytestmark = pytest.mark.thorough

weathers = st.builds(
    Weather,
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
    repeat=st.sampled_from([0.0, 0.1]),
    corrupt=st.sampled_from([0.0, 0.05]),
    reorder=st.booleans(),
    until=st.sampled_from([5.0, 60.0]),
)
limits = st.builds(
    TransferLimits,
    chunk_bytes=st.sampled_from([1024, 4096]),
    inline_bytes=st.sampled_from([0, 500, 5000]),
    window_chunks=st.sampled_from([2, 4, 16]),
)
BLIPS = ["cut", "freeze", "restart", "cut sender", "restart sender", "smaller chunks", "sweep", "stale"]


@dataclass
class Story:
    """What happens: letters and mishaps at their times, all from one seed."""

    seed: int
    net: Net
    nodes: list[str]
    random: random.Random
    sites: list[Site]
    """Every instance that ever was."""
    want: dict[tuple[Any, str], tuple[bytes, list[BlobMeta]]] = field(default_factory=dict)
    stale_below: int = 0

    def send(self, key: int, pool: list[bytes], casts: bool) -> None:
        ada = self.net.sites["ada"]
        blobs = list({blob.digest: blob for blob in (ada.add(part) for part in self.random.sample(pool, self.random.randint(0, 2)))}.values())
        body = self.random.randbytes(self.random.choice([3, 200, 6000]))
        if casts and self.random.random() < 0.5:
            ada.endpoint.cast(self.net.now, "hall", "t", [self.net.sites[node].address for node in self.nodes], content("s", "t", body, *blobs), key)
            self.want |= {(key, node): (body, blobs) for node in self.nodes}
        else:
            node = self.random.choice(self.nodes)
            ada.endpoint.send(self.net.now, self.net.sites[node].address, content("s", "x", body, *blobs), key)
            self.want[key, node] = (body, blobs)
        self.net.pump(ada)

    def mishap(self, what: str) -> None:
        net, node, until = self.net, self.random.choice(self.nodes), self.net.now + self.random.random() * 20
        match what:
            case "cut" if net.sites[node].online:
                net.cut(node, until)
            case "cut sender" if net.sites["ada"].online:
                net.cut("ada", until)
            case "freeze":
                net.freeze(node, until, keep=30)
            case "restart":
                self.sites.append(net.restart(node))
            case "restart sender":
                self.restart_sender()
            case "smaller chunks":
                ada = net.sites["ada"]
                ada.limits = TransferLimits(chunk_bytes=1024, inline_bytes=100, window_chunks=ada.limits.window_chunks)
                ada.endpoint.set_limits(ada.limits)
                net.pump(ada)
            case "sweep":
                net.sites[node].blobs.clear()
            case "stale":
                self.stale_below = 2
                net.at(until, self.renew)

    def renew(self) -> None:
        ada = self.net.sites["ada"]
        ada.endpoint.stamp(self.net.now, 2, -1)
        self.net.pump(ada)

    def restart_sender(self) -> None:
        """Its host sends again what was not acknowledged, as the spool does."""
        old, new = self.net.sites["ada"], self.net.restart("ada")
        self.sites.append(new)
        new.blobs.update(old.blobs)
        new.acked = list(old.acked)
        new.endpoint.stamp(self.net.now, self.stale_below, -1)
        for (key, node), (body, blobs) in self.want.items():
            if (key, node) not in old.acked:
                new.endpoint.send(self.net.now, self.net.sites[node].address, content("s", "x", body, *blobs), key)
        self.net.pump(new)


def play(seed: int, weather: Weather, limits: TransferLimits, nodes: int, letters: int, mishaps: list[str], casts: bool) -> Story:
    chance = random.Random(seed)
    net = Net(seed, weather, delay_s=chance.choice([0.001, 0.05]))
    sites = [net.site("ada", limits=limits), *(net.site(f"n{i}", roles=["t"], limits=limits) for i in range(nodes))]
    story = Story(seed, net, [f"n{i}" for i in range(nodes)], chance, sites)
    net.decide = lambda site, letter: "stale_view" if letter.view < story.stale_below else "accept"
    pool = [chance.randbytes(chance.choice([0, 1, 300, 5000, 40_000])) for _ in range(3)]
    for key in range(letters):
        net.at(chance.random() * 10, lambda key=key: story.send(key, pool, casts))  # type: ignore[misc]
    for what in mishaps:
        net.at(chance.random() * 12, lambda what=what: story.mishap(what))  # type: ignore[misc]
    return story


def all_is_well(story: Story) -> None:
    net, ada = story.net, story.net.sites["ada"]
    assert set(ada.acked) == set(story.want)
    assert ada.endpoint.pending() == []
    for site in story.sites:
        names = [(letter.node, letter.incarnation, letter.id, letter.view) for letter in site.arrived]
        assert len(names) == len(set(names))
    bodies = {(site.address.node, letter.content.body) for site in story.sites for letter in site.arrived}
    assert {(node, body) for (_, node), (body, _) in story.want.items()} <= bodies
    # nothing is left behind
    outbox = ada.endpoint._sender.outbox
    assert not (outbox.parcels or outbox.keys or outbox.casts or outbox.ready or outbox.casting)
    for line in outbox.lines.values():
        assert not (line.letters or line.offers or line.unanswered or line.flows or line.numbers)
        assert line.in_flight == 0
    for node in story.nodes:
        for source in net.sites[node].endpoint._receiver._sources.values():
            assert not source.assemblies
            assert all(len(memory) <= len(story.want) for memory in source.streams.values())
            assert not any(memory.waiting or memory.parked for memory in source.streams.values())


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**9),
    weathers,
    limits,
    st.sampled_from([1, 2, 4, 5]),
    st.sampled_from([1, 5, 20]),
    st.lists(st.sampled_from(BLIPS), max_size=3, unique=True),
)
def test_every_letter_arrives_once_and_nothing_is_left(
    seed: int, weather: Weather, limits: TransferLimits, nodes: int, letters: int, mishaps: list[str]
) -> None:
    story = play(seed, weather, limits, nodes, letters, mishaps, casts=True)
    story.net.run()
    all_is_well(story)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), weathers, limits, st.lists(st.sampled_from(BLIPS), max_size=2, unique=True))
def test_windows_hold_in_any_weather(seed: int, weather: Weather, limits: TransferLimits, mishaps: list[str]) -> None:
    story = play(seed, weather, limits, nodes=2, letters=10, mishaps=mishaps, casts=False)

    def watch(net: Net) -> None:
        for node in story.nodes:  # one letter may always go, so that chunks never hold up all letters
            assert net.sites["ada"].endpoint.in_flight(node) <= limits.window_chunks + 1

    story.net.watch = watch
    story.net.run()
    all_is_well(story)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), weathers, limits, st.booleans())
def test_peers_that_send_the_same_blobs_to_each_other(seed: int, weather: Weather, limits: TransferLimits, restart: bool) -> None:
    """Every node is sender and receiver, and one blob may come from several sides at once."""
    chance = random.Random(seed)
    net = Net(seed, weather)
    names = ["n0", "n1", "n2"]
    every = [net.site(name, roles=["peer"], limits=limits) for name in names]
    pool = [chance.randbytes(size) for size in (300, 9000, 60_000)]
    want: dict[str, set[tuple[Any, str]]] = {name: set() for name in names}

    def send(name: str, key: int) -> None:
        site = net.sites[name]
        others = [net.sites[other].address for other in names if other != name]
        blobs = [site.add(part) for part in chance.sample(pool, 2)]
        if chance.random() < 0.5:
            site.endpoint.cast(net.now, "hall", "peer", others, content(name, "peer", b"", *blobs), key)
            want[name] |= {(key, other.node) for other in others}
        else:
            site.endpoint.send(net.now, others[0], content(name, "x", b"", *blobs), key)
            want[name].add((key, others[0].node))
        net.pump(site)

    for key in range(12):
        net.at(chance.random() * 8, lambda key=key: send(chance.choice(names[: 2 if restart else 3]), key))  # type: ignore[misc]
    if restart:
        net.at(chance.random() * 10, lambda: every.append(net.restart("n2")))
    net.run()
    for name in names:
        endpoint = net.sites[name].endpoint
        assert set(net.sites[name].acked) == want[name]
        assert endpoint.pending() == []
        assert endpoint.digests() == set()
        assert not any(source.assemblies for source in endpoint._receiver._sources.values())
    for site in every:
        letters = [(letter.node, letter.id) for letter in site.arrived]
        assert len(letters) == len(set(letters))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([0.0, 0.01, 0.05]))
def test_loss_costs_what_was_lost(seed: int, loss: float) -> None:
    """A connection keeps the order of its frames, so a gap is a loss: repairs are those chunks that were lost, and a part of one window where
    what was lost is an acknowledgement."""
    net = Net(seed, Weather(loss=loss))
    small = TransferLimits(chunk_bytes=4096, window_chunks=16)
    ada, bob = net.site("ada", limits=small), net.site("bob", limits=small)
    model = random.Random(seed).randbytes(500_000)
    ada.endpoint.send(0.0, bob.address, content("s", "t", b"", ada.add(model)), "k")
    net.run(until=600.0)
    assert bytes(next(iter(bob.blobs.values()))) == model
    assert net.payload_bytes["d2d"] < len(model) * (1.02 + 4 * loss) + (8 + small.window_chunks // 2) * small.chunk_bytes


def test_the_network_of_these_tests_does_what_it_says() -> None:
    """A storm in which nothing is lost would prove nothing."""
    story = play(
        7, Weather(loss=0.3, repeat=0.1, corrupt=0.05, reorder=True), TransferLimits(chunk_bytes=1024), 4, 20, ["cut", "freeze", "restart"], True
    )
    story.net.run()
    ada, others = story.net.sites["ada"].endpoint, [story.net.sites[node].endpoint for node in story.nodes]
    assert ada.counters["repaired_chunks"] > 10
    assert ada.counters["probes"] > 0
    assert sum(other.rejected.get("wrong_crc", 0) for other in others) > 0
    assert sum(other.counters.get("duplicate_chunks", 0) for other in others) > 0
    assert {KIND} == {site.address.kind for site in story.sites}
