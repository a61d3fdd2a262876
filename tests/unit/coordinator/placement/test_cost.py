"""What a way between two nodes that does not pass the broker changes in the price of a step."""

from __future__ import annotations

import pytest

from fog_common.facts import Link
from fog_coordinator.placement.cost import CHUNK_BYTES, HANDLING_S, links_of, step_cost, transfer_s
from fog_learning.costs.demands import Demands, Phase
from fog_learning.costs.place import Place
from support.places import altered, place

SLOW = place("slow", flops=1e9, op_s=0.001, rtt_s=0.01, bytes_s=1e6, byte_j=1e-6)
FAST = place("fast", flops=1e10, op_s=0.001, rtt_s=0.002, bytes_s=1e8, byte_j=1e-9)
LAN = Link(0.0005, 2e7)
SIZE = 1e6


def demands(role: str, to: str, cast: bool = False) -> Demands:
    return Demands(title="", cycle=(Phase(role, 0, 0, to=to, bytes=SIZE, cast=cast),))


def near(old: Place, *others: str) -> Place:
    return altered(old, links=dict.fromkeys(others, LAN))


def test_a_transfer_over_the_broker_is_paced_by_the_slower_link_and_one_chunk_by_the_faster():
    matrix = links_of([SLOW, FAST])
    expected = HANDLING_S + 0.006 + SIZE / 1e6 + CHUNK_BYTES / 1e8
    assert transfer_s(SIZE, SLOW, FAST, matrix) == transfer_s(SIZE, FAST, SLOW, matrix) == pytest.approx(expected, rel=1e-15)
    assert transfer_s(SIZE, FAST, FAST, matrix) == HANDLING_S


def test_a_transfer_between_nodes_that_name_a_link_takes_its_latency_and_rate():
    one = near(SLOW, "fast")
    matrix = links_of([one, FAST])
    assert transfer_s(SIZE, one, FAST, matrix) == pytest.approx(HANDLING_S + 0.0005 + SIZE / 2e7)
    assert transfer_s(SIZE, FAST, one, matrix) == transfer_s(SIZE, FAST, SLOW, links_of([SLOW, FAST]))


def test_links_are_those_of_the_places_unless_the_caller_has_them():
    one = near(SLOW, "fast")
    where = {"front": [one], "trunk": [FAST]}
    assert step_cost(demands("front", "trunk"), where) == step_cost(demands("front", "trunk"), where, links_of([one, FAST]))
    assert step_cost(demands("front", "trunk"), where).seconds < step_cost(demands("front", "trunk"), where, links_of([SLOW, FAST])).seconds


def test_many_bytes_for_one_receiver_pass_its_link_to_the_broker_only_where_no_other_way_is_named():
    hub = altered(FAST, "hub", bytes_s=1e5)
    fronts = [near(altered(SLOW, f"pi-{n}"), "hub") for n in range(4)]
    relayed = [altered(SLOW, f"far-{n}") for n in range(2)]
    cost = step_cost(demands("front", "trunk"), {"front": [*fronts, *relayed], "trunk": [hub]})
    assert cost.bytes == 6 * SIZE
    assert cost.seconds == pytest.approx(6 * HANDLING_S + 2 * SIZE / 1e5 + 4 * SIZE / 2e7)


def test_a_cast_passes_the_broker_once_and_every_other_way_once():
    hub = near(altered(FAST, "hub"), "pi-0", "pi-1")
    fronts = [altered(SLOW, f"pi-{n}") for n in range(5)]
    cost = step_cost(demands("trunk", "front", cast=True), {"trunk": [hub], "front": fronts})
    assert cost.bytes == 3 * SIZE
    assert step_cost(demands("trunk", "front"), {"trunk": [hub], "front": fronts}).bytes == 5 * SIZE


def test_a_node_that_was_never_seen_is_a_guess_and_says_so():
    unseen = Place("pi-7")
    assert unseen.guessed == ("everything",) and unseen.assumed == ("idle_w", "core_w", "byte_j")
    assert (unseen.flops, unseen.memory_bytes) == (place("x").flops, None)
    assert place("x", flops=1e9, rtt_s=0.1).guessed == ("op_s", "bytes_s")
