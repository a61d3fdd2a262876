"""Weighted means in exact arithmetic, and the server optimisers of the paper."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_common.errors import OpError
from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import Train
from fog_learning.ops.average import BLOCK, COUNT, add_multiple, on_grid
from fog_learning.ops.values import Weights
from support.backends import JOB, backend_for, equal, first_of


def models(count: int, size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Weights]:
    random = np.random.RandomState(seed)
    return [
        Weights({"a": torch.from_numpy(random.normal(0, 10.0 ** random.randint(-6, 3, size), size)).to(dtype), "b": torch.ones(2, 3, dtype=dtype)})
        for _ in range(count)
    ]


def summed(backend: TorchBackend, updates: list[tuple[Weights, float]]) -> Weights:
    total = None
    for weights, n in updates:
        total = backend.run("accumulate", "s", {"sum": total, "add": weights}, {"n": n})[0]["sum"]
    assert total is not None
    return total


def test_the_order_of_arrival_does_not_change_a_bit():
    backend = backend_for()
    updates = list(zip(map(on_grid, models(5, 4001)), (1, 360, 77, 1438, 12.34), strict=True))
    reference = summed(backend, updates)
    for order in itertools.permutations(updates):
        assert equal(summed(backend, list(order)), reference)


def test_the_mean_is_the_exact_one_to_the_grid():
    backend = backend_for()
    ns = [3, 14, 159, 2653]
    updates = models(4, 3000)
    mean = backend.run("mean", "s", {"sum": summed(backend, list(zip(updates, ns, strict=True)))}, {})[0]["weights"]
    assert mean["a"].dtype == torch.float32
    for i in range(0, 3000, 37):
        exact = sum(Fraction(n) * Fraction(float(w["a"][i])) for w, n in zip(updates, ns, strict=True)) / sum(ns)
        assert abs(Fraction(float(mean["a"][i])) - exact) <= Fraction(1, 2**33) + abs(exact) / 2**24
    assert torch.equal(mean["b"], torch.ones(2, 3))


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=6),
    ns=st.lists(st.one_of(st.integers(1, 5000), st.floats(0.01, 5000)), min_size=6, max_size=6),
    data=st.data(),
)
def test_sums_add_alike_in_any_order_and_grouping(values: list[float], ns: list[float], data: st.DataObject):
    backend = SHARED
    updates = [(on_grid(Weights({"a": torch.tensor([value, -value / 3])})), float(n)) for value, n in zip(values, ns, strict=False)]
    flat = summed(backend, updates)
    shuffled = data.draw(st.permutations(updates))
    cut = data.draw(st.integers(0, len(updates) - 1))
    parts = [summed(backend, part) for part in (shuffled[:cut], shuffled[cut:]) if part]
    tree = summed(backend, [(part, 1.0) for part in parts])
    assert torch.equal(tree["a"], flat["a"])
    assert float(tree[COUNT]) == pytest.approx(float(flat[COUNT]), rel=1e-12)


SHARED = backend_for()


def test_the_mean_of_equal_models_is_that_model():
    backend = backend_for()
    one = first_of(backend)
    mean = backend.run("mean", "s", {"sum": summed(backend, [(one, 10), (one, 333), (one, 1)])}, {})[0]["weights"]
    assert all(torch.allclose(mean[name], one[name], rtol=0, atol=2**-33) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("size", [0, 1, 7, BLOCK, 2 * BLOCK + 3])
def test_blocks_of_every_size_and_dtype(dtype: torch.dtype, size: int):
    tensor = (torch.arange(size) % 1000 - 500).to(dtype)
    total = torch.full((size,), 2.0, dtype=torch.float64)
    add_multiple(total, tensor, 3.0)
    assert torch.equal(total, 2.0 + 3.0 * tensor.double())


def test_large_values_degrade_and_impossible_ones_fail():
    backend = backend_for()
    large = [(Weights({"a": torch.tensor([3e20, -1.0])}), 100.0), (Weights({"a": torch.tensor([1e20, 3.0])}), 300.0)]
    mean = backend.run("mean", "s", {"sum": summed(backend, large)}, {})[0]["weights"]["a"]
    assert mean.tolist() == [pytest.approx(1.5e20, rel=1e-6), 2.0]
    for bad in (float("nan"), float("-inf")):
        with pytest.raises(OpError, match="the mean of a is not finite"):
            backend.run("mean", "s", {"sum": summed(backend, [(Weights({"a": torch.tensor([bad])}), 2)])}, {})


def test_a_bad_update_leaves_the_sum_as_it_was():
    backend = backend_for()
    good = first_of(backend)
    total = summed(backend, [(good, 5)])
    before = {name: tensor.clone() for name, tensor in total.items()}
    missing = Weights({name: tensor for name, tensor in good.items() if name != "head.linear.bias"})
    wrong = Weights({**good, "head.linear.bias": torch.zeros(3)})
    for bad, n, message in (
        (missing, 5, "only one of them has 'head.linear.bias'"),
        (wrong, 5, r"is \(10,\) in one, \(3,\) in the other"),
        (good, 0, "0 examples"),
    ):
        with pytest.raises(OpError, match=message):
            backend.run("accumulate", "s", {"sum": total, "add": bad}, {"n": n})
    assert equal(total, before)
    with pytest.raises(OpError, match="no update to average"):
        backend.run("mean", "s", {"sum": None}, {})


def test_a_restored_sum_goes_on_without_touching_the_bytes_it_came_from():
    backend = backend_for()
    updates = list(zip(models(3, 500), (4, 5, 6), strict=True))
    content = bytes(backend.encode(summed(backend, updates[:2])))
    restored = backend.decode(content)
    total = backend.run("accumulate", "s", {"sum": restored, "add": updates[2][0]}, {"n": 6})[0]["sum"]
    assert equal(total, summed(backend, updates))
    assert content == bytes(backend.encode(restored))


def test_names_that_the_sum_lacks_come_from_the_base():
    backend = backend_for()
    shared = backend.run("init", "server", {}, {"layers": "fc1"})[0]["weights"]
    whole = first_of(backend)
    mean = backend.run("mean", "s", {"sum": summed(backend, [(shared, 2)]), "base": whole}, {})[0]["weights"]
    assert set(mean) == set(whole)


@dataclass
class Moments:
    m: float = 0.0
    v: float = 0.0
    w: float = 0.0
    seen: list[float] = field(default_factory=list)


@pytest.mark.parametrize("kind", ["momentum", "adam", "yogi"])
def test_server_optimisers_follow_the_paper(kind: str):
    backend = backend_for(msgspec.structs.replace(JOB, train=Train(dtype="float64")))
    lr, beta1, beta2, eps = 0.5, 0.9, 0.99, 1e-3
    hand = Moments(v=eps**2, w=1.0)
    state: dict[str, Any] = {}
    weights = Weights({"a": torch.tensor([1.0], dtype=torch.float64)})
    for average in (0.4, 0.7, 0.1):
        inputs = {"weights": weights, "mean": Weights({"a": torch.tensor([average], dtype=torch.float64)}), **state}
        outputs, _ = backend.run("server_opt", "s", inputs, {"kind": kind, "lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "round": 1})
        delta = average - hand.w
        if kind == "momentum":
            hand.m = beta1 * hand.m + delta
            hand.w += lr * hand.m
        else:
            hand.m = beta1 * hand.m + (1 - beta1) * delta
            sign = np.sign(hand.v - delta**2) if kind == "yogi" else None
            hand.v = beta2 * hand.v + (1 - beta2) * delta**2 if sign is None else hand.v - (1 - beta2) * delta**2 * sign
            hand.w += lr * hand.m / (hand.v**0.5 + eps)
        weights, state = outputs["weights"], {name: outputs[name] for name in ("m", "v") if name in outputs}
        assert float(weights["a"]) == pytest.approx(hand.w, rel=1e-12)
    assert ("v" in state) is (kind != "momentum")
