"""Average consensus: graphs and weights, the turns of one epoch between its members, and the ops."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_common.runtime.machine import Handle, Ran, Run, Send
from fog_learning.clusters.graphs import (
    Graph,
    components,
    edges_of,
    error_bound,
    full,
    geometric,
    graph_from,
    make_graph,
    metropolis,
    over_sites,
    ring,
    second_eigenvalue,
    small_world,
    transfer,
    turns_needed,
    without,
)
from fog_learning.clusters.mixing import Epoch, Mixing, Share

pytestmark = pytest.mark.thorough

# -- graphs and weights ----------------------------------------------------------------------

graphs = st.builds(
    make_graph,
    st.sampled_from(["full", "ring", "geometric", "small_world"]),
    st.integers(1, 25),
    st.integers(0, 50),
    st.floats(0.05, 1.0),
    st.integers(2, 6),
    st.floats(0.0, 1.0),
)


def matrix(graph: Graph) -> np.ndarray[Any, Any]:
    w = np.zeros((len(graph), len(graph)))
    for i, row in enumerate(metropolis(graph)):
        for j, value in row.items():
            w[i, j] = value
    return w


@given(graphs)
def test_every_kind_of_graph_is_connected_and_undirected(graph: Graph):
    assert len(components(graph)) == 1
    assert all(i in graph[j] and i != j for i, row in enumerate(graph) for j in row)


def test_the_same_arguments_make_the_same_graph_and_another_seed_another():
    assert geometric(20, 0.3, 4) == geometric(20, 0.3, 4) != geometric(20, 0.3, 5)
    assert small_world(20, 4, 0.5, 1) == small_world(20, 4, 0.5, 1) != small_world(20, 4, 0.5, 2)


def test_shapes_of_the_small_graphs():
    assert full(3) == ((1, 2), (0, 2), (0, 1))
    assert ring(2) == ((1,), (0,))
    assert ring(4) == ((1, 3), (0, 2), (1, 3), (0, 2))
    assert small_world(6, 2, 0.0, 0) == ring(6)
    assert full(1) == ring(1) == ((),)


def test_a_graph_over_sites_has_its_kind_in_each_site_and_one_link_between_neighbouring_sites():
    sites = ["b", "a", "b", "c", "a", "a", "b"]
    graph = over_sites(sites, full)
    inside = {(a, b) for a, b in edges_of(graph) if sites[a] == sites[b]}
    across = edges_of(graph) - inside
    assert inside == {(0, 2), (0, 6), (2, 6), (1, 4), (1, 5), (4, 5)}
    assert sorted(tuple(sorted((sites[a], sites[b]))) for a, b in across) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(components(graph)) == 1


@pytest.mark.parametrize("n", range(1, 9))
def test_a_graph_over_one_site_is_the_plain_one_and_over_two_has_one_link_more_than_its_parts(n: int):
    assert over_sites(["here"] * n, ring) == ring(n)
    two = over_sites(["east", "west"] * n, ring)
    assert len(edges_of(two)) == 2 * len(edges_of(ring(n))) + 1
    assert len(components(two)) == 1


def test_an_edge_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no edge"):
        graph_from(2, {(0, 2)})


@given(graphs)
def test_metropolis_weights_are_symmetric_and_keep_the_sum(graph: Graph):
    w = matrix(graph)
    assert np.allclose(w, w.T, atol=0)
    assert np.allclose(w.sum(0), 1, atol=1e-12)
    assert (np.diag(w) > 0).all()


@given(graphs)
@settings(deadline=None)
def test_the_second_eigenvalue_is_that_of_numpy(graph: Graph):
    values = np.sort(np.abs(np.linalg.eigvalsh(matrix(graph))))
    expected = values[-2] if len(values) > 1 else 0.0
    assert second_eigenvalue(metropolis(graph)) == pytest.approx(expected, abs=1e-5)


@given(graphs, st.integers(0, 30), st.integers(0, 1000))
@settings(deadline=None)
def test_the_error_of_a_finite_number_of_turns_stays_below_the_bound(graph: Graph, turns: int, seed: int):
    dice = np.random.default_rng(seed)
    n = len(graph)
    w, examples = dice.normal(size=(n, 5)), dice.integers(1, 200, n).astype(float)
    mean = examples @ w / examples.sum()
    power = np.array(transfer(metropolis(graph), turns))
    y, m = power @ (examples[:, None] * w), power @ examples
    true = np.linalg.norm(y / m[:, None] - mean, axis=1)
    spread = math.sqrt(float((examples**2 * ((w - mean) ** 2).sum(1)).sum()))
    value = second_eigenvalue(metropolis(graph))
    for i in range(n):
        assert true[i] <= error_bound(value, turns, spread, m[i]) * (1 + 1e-6) + 1e-9


def test_turns_that_a_tolerance_needs():
    assert turns_needed(0.5, 0.1) == 4
    assert turns_needed(0.0, 1e-6) == 1
    with pytest.raises(ValueError, match="not connected"):
        turns_needed(1.0, 0.1)


# -- one epoch, sans-IO ----------------------------------------------------------------------


class Cluster:
    """Members that mix plain floats; every share and every op is an action, drawn at random."""

    def __init__(self, inputs: dict[str, tuple[float, float]], seed: int) -> None:
        self.inputs, self.random = inputs, random.Random(seed)
        self.members = {name: Mixing() for name in inputs}
        self.values: dict[tuple[str, str], float] = {}
        self.actions: list[tuple[str, str, Any]] = []
        self.made = 0

    def begin(self, epoch: Epoch, graph: Graph, names: list[str], turns: int) -> None:
        rows = metropolis(graph)
        for i, name in enumerate(names):
            self.values[name, "w"] = self.inputs[name][0]
            links = {names[j]: rows[i][j] for j in graph[i]}
            self.take(name, self.members[name].begin(epoch, links, turns, Handle("w"), self.inputs[name][1]))

    def take(self, name: str, commands: list[Any]) -> None:
        for command in commands:
            if isinstance(command, Send):
                assert isinstance(command.message, Share)
                value = self.values[name, command.message.value.name]
                self.made += 1
                self.values[command.to, f"got{self.made}"] = value
                share = Share(command.message.epoch, command.message.turn, Handle(f"got{self.made}"), command.message.mass)
                self.actions.append(("share", command.to, (name, share)))
            else:
                self.actions.append(("op", name, command))

    def act(self) -> None:
        kind, name, what = self.actions.pop(self.first_op() if self.random.random() < 0.3 else self.random.randrange(len(self.actions)))
        if kind == "share":
            if self.random.random() < 0.2:
                self.actions.append((kind, name, what))  # it comes twice
            self.take(name, self.members[name].hear(*what))
            return
        self.take(name, self.members[name].ran(self.compute(name, what)))

    def first_op(self) -> int:
        return next((i for i, action in enumerate(self.actions) if action[0] == "op"), 0)

    def compute(self, name: str, run: Run) -> Ran:
        get = {key: self.values[name, ref.name] for key, ref in run.refs.items() if isinstance(ref, Handle)}
        if run.op == "pair":
            value = get["weights"] * float(run.numbers["n"])
        else:
            value = get["value"] + sum(float(run.numbers[f"w{i}"]) * (get[f"from{i}"] - get["sent"]) for i in range(len(run.numbers)))
        self.made += 1
        value_ref, sent_ref = run.into.get("value", Handle(f"v{self.made}")), Handle(f"s{self.made}")
        self.values[name, value_ref.name] = self.values[name, sent_ref.name] = value
        return Ran(run.tag, {"value": value_ref, "sent": sent_ref}, {"change": 0.0})

    def estimate(self, name: str) -> float:
        member = self.members[name]
        assert member.phase == "settled"
        assert isinstance(member.value, Handle)
        return self.values[name, member.value.name] / member.mass


def exact(inputs: dict[str, tuple[float, float]], names: list[str]) -> float:
    return sum(inputs[name][0] * inputs[name][1] for name in names) / sum(inputs[name][1] for name in names)


inputs_of = st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 500).map(float)), min_size=2, max_size=8).map(
    lambda pairs: {f"t{i}": pair for i, pair in enumerate(pairs)}
)


@given(inputs_of, st.sampled_from(["full", "ring", "geometric", "small_world"]), st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_with_enough_turns_all_reach_the_weighted_mean_in_any_order_of_events(inputs: dict[str, tuple[float, float]], kind: Any, seed: int):
    graph, names = make_graph(kind, len(inputs), seed), list(inputs)
    cluster = Cluster(inputs, seed)
    cluster.begin((1, 1), graph, names, turns_needed(second_eigenvalue(metropolis(graph)), 1e-12))
    while cluster.actions:
        cluster.act()
    for name in names:
        assert cluster.estimate(name) == pytest.approx(exact(inputs, names), abs=1e-6)
        assert not cluster.members[name].inbox


@given(inputs_of, st.integers(0, 10_000), st.integers(0, 60))
@settings(deadline=None, max_examples=60)
def test_a_new_epoch_in_the_middle_begins_from_the_inputs(inputs: dict[str, tuple[float, float]], seed: int, when: int):
    cluster, names = Cluster(inputs, seed), list(inputs)
    cluster.begin((1, 1), full(len(names)), names, 40)
    for _ in range(when):
        if cluster.actions:
            cluster.act()
    rest = names[1:]  # the first one left; its shares are still on their way
    cluster.begin((1, 2), full(len(rest)), rest, 60)
    while cluster.actions:
        cluster.act()
    for name in rest:
        assert cluster.estimate(name) == pytest.approx(exact(inputs, rest), abs=1e-6)


def test_few_turns_give_exactly_what_the_weights_say():
    inputs = {f"t{i}": (float(i * i), 1.0) for i in range(5)}
    cluster, graph, names = Cluster(inputs, 1), ring(5), list(inputs)
    cluster.begin((1,), graph, names, 3)
    while cluster.actions:
        cluster.act()
    power = transfer(metropolis(graph), 3)
    for i, name in enumerate(names):
        assert cluster.estimate(name) == pytest.approx(sum(power[i][j] * inputs[other][0] for j, other in enumerate(names)), abs=1e-12)


def test_an_older_epoch_is_refused_and_a_share_of_a_newer_one_kept():
    member = Mixing()
    member.hear("b", Share((2,), 0, Handle("x"), 1.0))
    assert member.begin((1,), {"b": 0.5}, 1, Handle("w"), 1.0)
    assert member.begin((1,), {"b": 0.5}, 1, Handle("w"), 1.0) == []
    assert member.begin((2,), {"b": 0.5}, 1, Handle("w"), 1.0)
    member.ran(Ran(("paired", 2), {"value": Handle("y"), "sent": Handle("s")}))
    assert member.phase == "mixing"  # the share that came early was enough
    assert member.missing() == ()


def test_a_member_says_whose_share_is_missing_and_goes_on_when_more_turns_are_wanted():
    member = Mixing()
    member.begin((1,), {"b": 0.5, "c": 0.25}, 1, Handle("w"), 2.0)
    member.ran(Ran(("paired", 1), {"value": Handle("y"), "sent": Handle("s")}))
    member.hear("b", Share((1,), 0, Handle("x"), 1.0))
    assert member.missing() == ("c",)
    member.hear("c", Share((1,), 0, Handle("x2"), 3.0))
    member.ran(Ran(("mixed", 0, 1), {"value": Handle("y"), "sent": Handle("s2")}, {"change": 1.0}))
    assert member.phase == "settled"
    assert member.mass == pytest.approx(2.0 + 0.5 * (1.0 - 2.0) + 0.25 * (3.0 - 2.0))
    assert [command.to for command in member.extend(2) if isinstance(command, Send)] == ["b", "c"]
    assert member.phase == "waiting"


def test_edges_of_is_the_inverse_of_graph_from():
    assert edges_of(graph_from(4, {(0, 1), (2, 3)})) == {(0, 1), (2, 3)}
    assert components(graph_from(4, {(1, 2)})) == [(1, 2), (0,), (3,)]


def test_a_graph_without_broken_links_is_held_together_by_those_that_are_left():
    assert edges_of(without(ring(5), {(0, 1)})) == edges_of(ring(5)) - {(0, 1)}
    whole = without(ring(5), {(0, 1), (2, 3)})  # in two parts, but others reach each other
    assert components(whole) == [(0, 1, 2, 3, 4)]
    assert not {(0, 1), (2, 3)} & edges_of(whole)
    assert components(without(full(3), {(0, 2), (1, 2)})) == [(0, 1), (2,)]
