"""Facts of nodes on the wire, and the matrix of links between nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_common.facts import INSIDE, Link, Links, NodeFacts, NodeLink
from fog_common.wire.messages import Announce, Profile, decode, encode

USUAL = NodeLink(rtt_s=0.002, bandwidth_bytes_s=1e7)
DIRECT = Link(0.0005, 5e7)
known_links = st.builds(NodeLink, rtt_s=st.none() | st.floats(0, 1), bandwidth_bytes_s=st.none() | st.floats(1, 1e10))


def links(entries: Mapping[tuple[str, str], Link] = {}, **nodes: NodeLink) -> Links:
    return Links(nodes, entries, usual=USUAL)


# -- on the wire ---------------------------------------------------------------------------


def test_a_profile_is_the_facts_with_the_names_that_agents_of_earlier_versions_send():
    body: dict[str, Any] = {
        "tier": "edge", "site": "hall", "cores": 4, "memory_bytes": 8, "memory_free_bytes": 4, "disk_free_bytes": 2, "arch": "aarch64", "python": "3.12",
        "version": "0.1", "torch": True, "flops": 1e9, "battery": 0.5, "op_s": 1e-3, "rtt_s": 0.01, "bandwidth_bytes_s": 1e6, "idle_w": 3.0, "core_w": 1.5,
        "byte_j": 1e-8, "datasets": ["machines"], "energy_source": "modelled", "labels": {"room": "2"},
    }  # fmt: skip
    payload = msgspec.msgpack.encode({"type": "Announce", "node": "pi-1", "nonce": "n", "profile": body})
    message = decode(payload)
    assert isinstance(message, Announce) and isinstance(message.profile, NodeFacts)
    assert {name: value for name, value in msgspec.to_builtins(message.profile).items() if name != "links"} == {**body, "datasets": ("machines",)}
    sent = msgspec.msgpack.decode(encode(message))["profile"]
    assert sent.keys() - {"links"} == body.keys() and sent["links"] == {}


def test_facts_that_are_not_known_are_absent():
    facts = Profile("edge", "home")
    assert (facts.flops, facts.op_s, facts.rtt_s, facts.bandwidth_bytes_s, facts.byte_j, facts.battery) == (None,) * 6


@pytest.mark.parametrize("link", [{"latency_s": -1.0, "bytes_per_s": 1.0}, {"latency_s": 0.0, "bytes_per_s": 0.0}, {"latency_s": 0.0}])
def test_a_link_that_cannot_be_is_no_fact(link: dict[str, float]):
    profile = {"tier": "edge", "site": "home", "links": {"pi-2": link}}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(profile, Profile)


# -- between nodes -------------------------------------------------------------------------


@given(one=known_links, other=known_links)
def test_without_an_entry_the_way_goes_over_the_broker(one: NodeLink, other: NodeLink):
    way = links(a=one, b=other).between("a", "b")
    trips = [USUAL.rtt_s if link.rtt_s is None else link.rtt_s for link in (one, other)]
    rates = [link.bandwidth_bytes_s or USUAL.bandwidth_bytes_s for link in (one, other)]
    assert trips[0] is not None and trips[1] is not None
    assert way.latency_s == (trips[0] + trips[1]) / 2
    assert (way.bytes_per_s, way.relay_bytes_per_s) == tuple(sorted(rate or math.nan for rate in rates))
    assert links(a=one, b=other).between("b", "a") == way


def test_an_entry_takes_its_place_in_its_direction_only():
    matrix = links({("a", "b"): DIRECT}, a=USUAL, b=USUAL, c=USUAL)
    assert matrix.between("a", "b") == DIRECT
    assert matrix.between("b", "a") == matrix.between("a", "c") == Link(0.002, 1e7, 1e7)
    assert matrix.direct([("a", "b"), ("b", "a"), ("a", "c")]) == [DIRECT]


def test_a_node_needs_no_link_to_itself_and_one_that_is_not_known_has_the_usual_one():
    assert links(a=USUAL).between("a", "a") == INSIDE
    assert links().between("x", "y") == Link(0.002, 1e7, 1e7)


def test_entries_come_from_the_facts_that_nodes_announce():
    near = NodeFacts(tier="edge", site="hall", rtt_s=0.02, bandwidth_bytes_s=1e6, links={"b": DIRECT})
    far = NodeFacts(tier="edge", site="hall", rtt_s=0.04, bandwidth_bytes_s=2e6)
    matrix = Links.of([("a", near), ("b", far), ("c", None)], usual=USUAL)
    assert matrix.between("a", "b") == DIRECT
    assert matrix.between("b", "a") == Link(0.03, 1e6, 2e6)
    assert matrix.between("b", "c") == Link(0.021, 2e6, 1e7)


def test_the_matrix_holds_nodes_and_entries_and_no_pairs():
    matrix = Links({f"n{i}": USUAL for i in range(100)}, {("n0", "n1"): DIRECT}, usual=USUAL)
    for i in range(100):
        matrix.between("n5", f"n{i}")
    assert sum(len(part) for part in vars(matrix).values() if isinstance(part, dict)) == 101
