"""The tensor ops against torch.optim and exact arithmetic; the workbench's data and preflight."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_common.errors import OpError
from fog_learning.backend.rows import Examples
from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import Data, Evaluation, Job, Nodes, Partition, Train
from fog_learning.ops import OPS
from fog_learning.ops.average import BLOCK, COUNT, add_multiple, on_grid
from fog_learning.ops.values import Weights, decode, encode

JOB = Job(
    name="digits",
    method={"name": "fedavg"},
    model={"name": "mlp", "hidden": [16]},
    data=Data(partition=Partition("dirichlet")),
    train=Train(batch_size=32, momentum=0.9),
    seed=3,
)


def bench_for(job: Job = JOB, slots: int = 4, **more: Any) -> TorchBackend:
    return TorchBackend(job, {f"t{slot}": slot for slot in range(slots)}, slots, env={}, **{"evaluates": True, **more})


def first_of(bench: TorchBackend) -> Weights:
    return bench.run("init", "server", {}, {})[0]["weights"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# -- batches -------------------------------------------------------------------------------


def test_every_row_comes_once_per_pass_and_all_batches_are_of_one_size():
    bench = bench_for()
    rows = bench.rows.train(1)
    rows.y = torch.arange(len(rows))
    seen = torch.cat([bench.batches.at(1, step)[1] for step in range(3 * len(rows) // 32 + 1)])
    assert len(seen) == 32 * (3 * len(rows) // 32 + 1)
    for epoch in range(3):
        one = seen[epoch * len(rows) : (epoch + 1) * len(rows)]
        assert sorted(one.tolist()) == list(range(len(rows)))
    assert not torch.equal(seen[: len(rows)], seen[len(rows) : 2 * len(rows)])


def test_batches_are_a_function_of_seed_slot_and_step():
    one, other = bench_for(), bench_for(msgspec.structs.replace(JOB, seed=4))
    late = one.batches.at(0, 40)
    one.batches.at(0, 2)
    assert all(torch.equal(a, b) for a, b in zip(late, bench_for().batches.at(0, 40), strict=True))
    assert not torch.equal(late[0], other.batches.at(0, 40)[0])


def test_a_slot_smaller_than_a_batch_gives_all_its_rows():
    job = msgspec.structs.replace(JOB, data=Data(train_limit=5))
    bench = bench_for(job, slots=2)
    assert [len(bench.batches.at(slot, 0)[1]) for slot in (0, 1)] == [3, 2]


# -- training ------------------------------------------------------------------------------


def torch_training(bench: TorchBackend, steps: range, optimizer: Any, prox_mu: float = 0.0) -> dict[str, torch.Tensor]:
    from fog_learning.models.build import build

    module = build(bench.models.spec, seed=bench.job.seed, dtype=bench.dtype)
    start = [parameter.detach().clone() for parameter in module.parameters()]
    algorithm = optimizer(module.parameters())
    for step in steps:
        x, y = bench.batches.at(2, step)
        loss = torch.nn.functional.cross_entropy(module(x), y)
        loss = loss + prox_mu / 2 * sum((p - s).square().sum() for p, s in zip(module.parameters(), start, strict=True))
        algorithm.zero_grad()
        loss.backward()
        algorithm.step()
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    ("train", "optimizer", "prox_mu"),
    [
        (Train(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1), 0.0),
        (Train(lr=0.1, momentum=0.9, weight_decay=0.01), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01), 0.0),
        (Train(lr=0.01, optimizer="adam"), lambda p: torch.optim.Adam(p, lr=0.01), 0.0),
        (Train(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1), 0.5),
    ],
)
def test_training_is_what_torch_optim_does(train: Train, optimizer: Any, prox_mu: float):
    bench = bench_for(msgspec.structs.replace(JOB, train=msgspec.structs.replace(train, dtype="float64")))
    outputs, numbers = bench.run("train", "t2", {"weights": first_of(bench)}, {"round": 2, "steps": 10, "prox_mu": prox_mu})
    theirs = torch_training(bench, range(10, 20), optimizer, prox_mu)
    for name, tensor in outputs["weights"].items():
        assert torch.allclose(tensor, theirs[name], rtol=1e-12, atol=1e-14), name
    assert numbers["examples"] == len(bench.rows.train(2))


def test_training_is_reproducible_bit_for_bit_and_leaves_its_input_alone():
    bench = bench_for()
    start = first_of(bench)
    before = {name: tensor.clone() for name, tensor in start.items()}
    runs = [bench.run("train", "t0", {"weights": start}, {"round": 1, "steps": 15}) for _ in range(2)]
    runs.append(bench_for().run("train", "t0", {"weights": start}, {"round": 1, "steps": 15}))
    assert equal(start, before)
    assert all(equal(runs[0][0]["weights"], other[0]["weights"]) and runs[0][1] == other[1] for other in runs[1:])


def test_no_steps_changes_nothing():
    bench = bench_for()
    outputs, numbers = bench.run("train", "t0", {"weights": first_of(bench)}, {"round": 1, "steps": 0})
    first = first_of(bench)
    assert all(torch.allclose(tensor, first[name], rtol=0, atol=2**-33) for name, tensor in outputs["weights"].items())
    assert numbers["loss"] == 0


def test_named_layers_are_shared_and_the_others_stay():
    bench = bench_for()
    whole = first_of(bench)
    shared = bench.run("init", "server", {}, {"layers": "fc1"})[0]["weights"]
    assert list(shared) == ["fc1.linear.weight", "fc1.linear.bias"]
    numbers = {"round": 1, "steps": 5, "layers": "fc1"}
    one = bench.run("train", "t0", {"weights": shared}, numbers)[0]
    assert list(one["own"]) == ["head.linear.weight", "head.linear.bias"]
    reference = bench.run("train", "t0", {"weights": whole}, {"round": 1, "steps": 5})[0]["weights"]
    assert equal(Weights({**one["weights"], **one["own"]}), reference)
    two = bench.run("train", "t0", {"weights": shared, "own": one["own"]}, {**numbers, "round": 2})[0]
    reference = bench.run("train", "t0", {"weights": Weights({**shared, **one["own"]})}, {"round": 2, "steps": 5})[0]["weights"]
    assert equal(Weights({**two["weights"], **two["own"]}), reference)


def test_blocks_that_an_update_is_without_come_back_as_own():
    bench, numbers = bench_for(), {"round": 1, "slot": 1, "steps": 3}
    weights = first_of(bench)
    whole = bench.run("train", "t1", {"weights": weights}, numbers)[0]["weights"]
    parts, _ = bench.run("train", "t1", {"weights": weights}, {**numbers, "without": "fc1"})
    assert {name.split(".")[0] for name in parts["weights"]} == {"head"}
    assert {name.split(".")[0] for name in parts["own"]} == {"fc1"}
    assert equal({**parts["own"], **parts["weights"]}, whole)
    again, _ = bench.run("train", "t1", {"weights": parts["weights"], "own": parts["own"]}, {**numbers, "round": 2})
    assert equal(again["weights"], bench.run("train", "t1", {"weights": whole}, {**numbers, "round": 2})[0]["weights"])
    assert bench.run("evaluate", "t1", parts, {})[1] == bench.run("evaluate", "t1", {"weights": whole}, {})[1]


def test_gradient_tracking_corrects_every_step_and_tells_the_mean_of_the_steps():
    bench = bench_for(Job("digits", {"name": "gossip"}, {"name": "mlp", "hidden": [16]}, train=Train(lr=0.1, dtype="float64")))
    weights, numbers = first_of(bench), {"round": 1, "slot": 1, "steps": 1, "tracking": 1}
    plain = bench.run("train", "t1", {"weights": weights}, numbers)[0]["weights"]
    pull = {name: torch.full_like(tensor, 0.01 * i, dtype=torch.float64) for i, (name, tensor) in enumerate(weights.items())}
    pulled = bench.run("train", "t1", {"weights": weights, "correction": Weights(pull)}, numbers)[0]["weights"]
    for name, c in pull.items():
        assert torch.allclose(pulled[name], plain[name] - 0.1 * c, rtol=0, atol=1e-12)
        assert torch.allclose(plain[f"z/{name}"], (weights[name] - plain[name]) / 0.1, rtol=0, atol=1e-12)
        assert torch.allclose(pulled[f"z/{name}"], plain[f"z/{name}"] + c, rtol=0, atol=1e-9)
    tracked, _ = bench.run("track", "t1", {"settled": plain, "trained": pulled, "correction": Weights(pull)}, {})
    assert list(tracked["weights"]) == list(weights)
    assert all(torch.allclose(c, torch.zeros_like(c), atol=1e-9) for c in tracked["correction"].values())  # c - (z + c) + z


def test_divergence_is_said():
    bench = bench_for(msgspec.structs.replace(JOB, train=Train(lr=1e30)))
    with pytest.raises(OpError, match=r"training diverged: .* lower train\.lr"):
        bench.run("train", "t0", {"weights": first_of(bench)}, {"round": 1, "steps": 20})


def test_weights_of_another_model_are_refused():
    bench, other = bench_for(), bench_for(msgspec.structs.replace(JOB, model={"name": "mlp", "hidden": [8]}))
    with pytest.raises(OpError, match=r"'fc1.linear.weight' have shape \(8, 64\), model mlp needs \(16, 64\)"):
        bench.run("train", "t0", {"weights": first_of(other)}, {"round": 1, "steps": 1})
    with pytest.raises(OpError, match="weights hold 'x', which model mlp does not have"):
        bench.run("evaluate", "s", {"weights": Weights({"x": torch.zeros(1)})}, {})


# -- means ---------------------------------------------------------------------------------


def models(count: int, size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Weights]:
    random = np.random.RandomState(seed)
    return [
        Weights({"a": torch.from_numpy(random.normal(0, 10.0 ** random.randint(-6, 3, size), size)).to(dtype), "b": torch.ones(2, 3, dtype=dtype)})
        for _ in range(count)
    ]


def summed(bench: TorchBackend, updates: list[tuple[Weights, float]]) -> Weights:
    total = None
    for weights, n in updates:
        total = bench.run("accumulate", "s", {"sum": total, "add": weights}, {"n": n})[0]["sum"]
    assert total is not None
    return total


def test_the_order_of_arrival_does_not_change_a_bit():
    bench = bench_for()
    updates = list(zip(map(on_grid, models(5, 4001)), (1, 360, 77, 1438, 12.34), strict=True))
    reference = summed(bench, updates)
    for order in itertools.permutations(updates):
        assert equal(summed(bench, list(order)), reference)


def test_the_mean_is_the_exact_one_to_the_grid():
    bench = bench_for()
    ns = [3, 14, 159, 2653]
    updates = models(4, 3000)
    mean = bench.run("mean", "s", {"sum": summed(bench, list(zip(updates, ns, strict=True)))}, {})[0]["weights"]
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
    bench = SHARED
    updates = [(on_grid(Weights({"a": torch.tensor([value, -value / 3])})), float(n)) for value, n in zip(values, ns, strict=False)]
    flat = summed(bench, updates)
    shuffled = data.draw(st.permutations(updates))
    cut = data.draw(st.integers(0, len(updates) - 1))
    parts = [summed(bench, part) for part in (shuffled[:cut], shuffled[cut:]) if part]
    tree = summed(bench, [(part, 1.0) for part in parts])
    assert torch.equal(tree["a"], flat["a"])
    assert float(tree[COUNT]) == pytest.approx(float(flat[COUNT]), rel=1e-12)


SHARED = bench_for()


def test_the_mean_of_equal_models_is_that_model():
    bench = bench_for()
    one = first_of(bench)
    mean = bench.run("mean", "s", {"sum": summed(bench, [(one, 10), (one, 333), (one, 1)])}, {})[0]["weights"]
    assert all(torch.allclose(mean[name], one[name], rtol=0, atol=2**-33) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("size", [0, 1, 7, BLOCK, 2 * BLOCK + 3])
def test_blocks_of_every_size_and_dtype(dtype: torch.dtype, size: int):
    tensor = (torch.arange(size) % 1000 - 500).to(dtype)
    total = torch.full((size,), 2.0, dtype=torch.float64)
    add_multiple(total, tensor, 3.0)
    assert torch.equal(total, 2.0 + 3.0 * tensor.double())


def test_large_values_degrade_and_impossible_ones_fail():
    bench = bench_for()
    large = [(Weights({"a": torch.tensor([3e20, -1.0])}), 100.0), (Weights({"a": torch.tensor([1e20, 3.0])}), 300.0)]
    mean = bench.run("mean", "s", {"sum": summed(bench, large)}, {})[0]["weights"]["a"]
    assert mean.tolist() == [pytest.approx(1.5e20, rel=1e-6), 2.0]
    for bad in (float("nan"), float("-inf")):
        with pytest.raises(OpError, match="the mean of a is not finite"):
            bench.run("mean", "s", {"sum": summed(bench, [(Weights({"a": torch.tensor([bad])}), 2)])}, {})


def test_a_bad_update_leaves_the_sum_as_it_was():
    bench = bench_for()
    good = first_of(bench)
    total = summed(bench, [(good, 5)])
    before = {name: tensor.clone() for name, tensor in total.items()}
    missing = Weights({name: tensor for name, tensor in good.items() if name != "head.linear.bias"})
    wrong = Weights({**good, "head.linear.bias": torch.zeros(3)})
    for bad, n, message in (
        (missing, 5, "only one of them has 'head.linear.bias'"),
        (wrong, 5, r"is \(10,\) in one, \(3,\) in the other"),
        (good, 0, "0 examples"),
    ):
        with pytest.raises(OpError, match=message):
            bench.run("accumulate", "s", {"sum": total, "add": bad}, {"n": n})
    assert equal(total, before)
    with pytest.raises(OpError, match="no update to average"):
        bench.run("mean", "s", {"sum": None}, {})


def test_a_restored_sum_goes_on_without_touching_the_bytes_it_came_from():
    bench = bench_for()
    updates = list(zip(models(3, 500), (4, 5, 6), strict=True))
    content = bytes(bench.encode(summed(bench, updates[:2])))
    restored = bench.decode(content)
    total = bench.run("accumulate", "s", {"sum": restored, "add": updates[2][0]}, {"n": 6})[0]["sum"]
    assert equal(total, summed(bench, updates))
    assert content == bytes(bench.encode(restored))


def test_names_that_the_sum_lacks_come_from_the_base():
    bench = bench_for()
    shared = bench.run("init", "server", {}, {"layers": "fc1"})[0]["weights"]
    whole = first_of(bench)
    mean = bench.run("mean", "s", {"sum": summed(bench, [(shared, 2)]), "base": whole}, {})[0]["weights"]
    assert set(mean) == set(whole)


@dataclass
class Moments:
    m: float = 0.0
    v: float = 0.0
    w: float = 0.0
    seen: list[float] = field(default_factory=list)


@pytest.mark.parametrize("kind", ["momentum", "adam", "yogi"])
def test_server_optimisers_follow_the_paper(kind: str):
    bench = bench_for(msgspec.structs.replace(JOB, train=Train(dtype="float64")))
    lr, beta1, beta2, eps = 0.5, 0.9, 0.99, 1e-3
    hand = Moments(v=eps**2, w=1.0)
    state: dict[str, Any] = {}
    weights = Weights({"a": torch.tensor([1.0], dtype=torch.float64)})
    for average in (0.4, 0.7, 0.1):
        inputs = {"weights": weights, "mean": Weights({"a": torch.tensor([average], dtype=torch.float64)}), **state}
        outputs, _ = bench.run("server_opt", "s", inputs, {"kind": kind, "lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "round": 1})
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


# -- evaluation ----------------------------------------------------------------------------


def test_evaluation_is_that_of_the_held_out_digits():
    bench = bench_for()
    _, numbers = bench.run("evaluate", "server", {"weights": first_of(bench)}, {"round": 1})
    assert numbers["examples"] == 359
    assert numbers["loss"] == pytest.approx(np.log(10), abs=0.2)
    trained = bench.run("train", "t0", {"weights": first_of(bench)}, {"round": 1, "steps": 60})[0]["weights"]
    assert bench.run("evaluate", "server", {"weights": trained}, {})[1]["accuracy"] > numbers["accuracy"] + 0.2


def test_federated_evaluation_holds_rows_out():
    bench = bench_for(msgspec.structs.replace(JOB, evaluation=Evaluation(where="federated", holdout=0.25)))
    all_rows = bench_for()
    for slot in range(4):
        train, held = bench.rows.train(slot), bench.rows.held(slot)
        assert len(train) + len(held) == len(all_rows.rows.train(slot))
        assert len(held) == round(0.25 * (len(train) + len(held)))
        rows = [bytes(x.numpy()) for x in torch.cat([train.x, held.x])]
        assert sorted(rows) == sorted(bytes(x.numpy()) for x in all_rows.rows.train(slot).x)
    _, numbers = bench.run("evaluate_local", "t1", {"weights": first_of(bench)}, {"slot": 1, "layers": ""})
    assert numbers["examples"] == len(bench.rows.held(1))


# -- preflight -----------------------------------------------------------------------------


def test_preflight_is_silent_when_all_is_well():
    assert bench_for().preflight() == []


@pytest.mark.parametrize(
    ("change", "slots", "message"),
    [
        ({"data": Data(name="maps"), "model": {"name": "mlp", "classes": 3, "input_shape": [4]}}, 2, "data set maps not found"),
        ({"data": Data(name="maps")}, 2, r"data set maps not found.*; or say model\.input_shape and model\.classes"),
        ({"model": {"name": "mlp", "classes": 5}}, 2, r"labels up to 9, the model has 5 outputs; say model\.classes: 10 or more"),
        ({"model": {"name": "mlp", "input_shape": [1, 28, 28]}}, 2, r"examples of shape \(1, 8, 8\), the model expects \(1, 28, 28\)"),
        ({"data": Data(train_limit=3)}, 4, "4 nodes share 3 training examples"),
        ({"method": {"name": "fedavg", "layers": ["fc1", "conv9"]}}, 2, "method.layers names conv9; model mlp has fc1, head"),
        ({"data": Data(name="ours", local=True)}, 1, r"say model\.input_shape and model\.classes"),
        ({"model": {"import": "pkg.mod:Factory"}}, 2, "may not be imported on this node"),
    ],
)
def test_preflight_says_what_is_wrong_here(change: dict[str, Any], slots: int, message: str):

    problems = bench_for(msgspec.structs.replace(JOB, **change), slots).preflight()
    assert len(problems) == 1
    assert re.search(message, problems[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_preflight_needs_the_device_that_the_job_names():
    (problem,) = bench_for(msgspec.structs.replace(JOB, nodes=Nodes(device="cuda"))).preflight()
    assert problem.startswith("nodes.device is cuda")


def test_a_users_module_whose_output_does_not_fit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "narrow.py").write_text(
        "import torch\ndef Net(input_shape, classes):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 7))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    job = msgspec.structs.replace(JOB, model={"import": "narrow:Net"})
    assert bench_for(job, allow_models=["narrow"]).preflight() == [r"model narrow:Net gives (7,) per example, the data has 10 classes"]
    job = msgspec.structs.replace(JOB, model={"import": "narrow:Net", "input_shape": [3]})
    (problem,) = bench_for(job, allow_models=["narrow"]).preflight()[:1]
    assert problem.startswith("model narrow:Net does not take examples of shape (3,)")


def test_dropout_of_a_users_module_is_a_function_of_seed_slot_and_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "dropping.py").write_text(
        "import torch\ndef Net(input_shape, classes):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    bench = bench_for(msgspec.structs.replace(JOB, model={"import": "dropping:Net"}), allow_models=["dropping"])
    one, two = (bench.run("train", "t0", {"weights": first_of(bench)}, {"round": 1, "steps": 3})[0]["weights"] for _ in range(2))
    assert equal(one, two)


def test_a_node_without_data_tasks_needs_no_data_unless_it_evaluates():
    job = msgspec.structs.replace(JOB, data=Data(name="maps"), model={"name": "mlp", "classes": 3, "input_shape": [4]})
    idle = TorchBackend(job, {}, 2, env={}, evaluates=False)
    assert idle.preflight() == []
    assert first_of(idle)["fc1.linear.weight"].shape == (64, 4)
    assert TorchBackend(job, {}, 2, env={}).preflight()[0].startswith("data set maps not found")


def test_a_new_roster_divides_anew():
    bench = bench_for(slots=2)
    before = len(bench.rows.train(0))
    bench.assign({"t0": 0}, 4)
    assert len(bench.rows.train(0)) == len(bench_for().rows.train(0)) != before


# -- bytes ---------------------------------------------------------------------------------


def test_values_survive_the_wire():
    value = Weights({
        "f64": torch.rand(3, 4, dtype=torch.float64), "f32": torch.rand(5), "f16": torch.rand(2).half(), "bf16": torch.rand(2, 2).bfloat16(),
        "i64": torch.arange(3), "u8": torch.arange(3).to(torch.uint8), "flag": torch.tensor(True), "empty": torch.zeros(0, 4),
        "part": torch.rand(4, 6)[:, ::2],
    })  # fmt: skip
    back = decode(memoryview(bytes(encode(value))))
    assert equal(back, value)
    assert all(back[name].dtype == value[name].dtype for name in value)
    assert back.frozen


def test_every_op_of_the_table_exists():
    from importlib import import_module

    for name, op in OPS.items():
        assert callable(getattr(import_module(f"fog_learning.ops.{op.module}"), op.function or name))
    with pytest.raises(OpError, match="there is no op 'dance'; known: init, train"):
        SHARED.run("dance", "t0", {}, {})


def test_a_worker_stays_light():
    """torch.optim's first use and the meta device each import hundreds of modules: more than a second and 35 MB or more per worker."""
    code = (
        "import sys\n"
        "from fog_learning.job.sections import Job\nfrom fog_learning.backend.torch import TorchBackend\n"
        "bench = TorchBackend(Job('j', {'name': 'fedavg'}, {'name': 'cnn'}), {'t': 0}, 4, env={}, evaluates=True)\n"
        "assert bench.preflight() == []\n"
        "weights = bench.run('init', 's', {}, {})[0]['weights']\n"
        "weights = bench.run('train', 't', {'weights': weights}, {'round': 1, 'steps': 2})[0]['weights']\n"
        "total = bench.run('accumulate', 's', {'sum': None, 'add': weights}, {'n': 2})[0]['sum']\n"
        "bench.run('evaluate', 's', bench.run('mean', 's', {'sum': total}, {})[0], {})\n"
        "print(*(name for name in ('sympy', 'torch._dynamo', 'sklearn', 'scipy', 'pandas') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_rows_that_are_taken_stay_as_they_are(dtype: torch.dtype):
    """Of a slice of numbers in the job's dtype torch gives a view: scaled in place, every evaluation would have scaled the data once more."""
    stored = torch.arange(8).reshape(4, 2).to(dtype)
    rows = Examples(stored.clone(), torch.zeros(4, dtype=torch.int64), torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    first, _ = rows.take(slice(0, 4))
    assert torch.equal(rows.take(slice(0, 4))[0], first) and torch.equal(rows.take(torch.arange(4))[0], first)
    assert torch.equal(rows.x, stored)
