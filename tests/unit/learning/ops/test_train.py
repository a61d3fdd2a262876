"""Training of one node on its own rows, against torch.optim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from fog_common.errors import OpError
from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import JobFile, Train
from fog_learning.ops.values import Weights
from support.backends import JOB, backend_for, equal, first_of


def torch_training(backend: TorchBackend, steps: range, optimizer: Any, prox_mu: float = 0.0) -> dict[str, torch.Tensor]:
    from fog_learning.models.build import build

    module = build(backend.models.spec, seed=backend.job.seed, dtype=backend.dtype)
    start = [parameter.detach().clone() for parameter in module.parameters()]
    algorithm = optimizer(module.parameters())
    for step in steps:
        x, y = backend.batches.at(2, step)
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
@pytest.mark.thorough
def test_training_is_what_torch_optim_does(train: Train, optimizer: Any, prox_mu: float):
    backend = backend_for(msgspec.structs.replace(JOB, train=msgspec.structs.replace(train, dtype="float64")))
    outputs, numbers = backend.run("train", "t2", {"weights": first_of(backend)}, {"round": 2, "steps": 10, "prox_mu": prox_mu})
    theirs = torch_training(backend, range(10, 20), optimizer, prox_mu)
    for name, tensor in outputs["weights"].items():
        assert torch.allclose(tensor, theirs[name], rtol=1e-12, atol=1e-14), name
    assert numbers["examples"] == len(backend.rows.train(2))


def test_training_is_reproducible_bit_for_bit_and_leaves_its_input_alone():
    backend = backend_for()
    start = first_of(backend)
    before = {name: tensor.clone() for name, tensor in start.items()}
    runs = [backend.run("train", "t0", {"weights": start}, {"round": 1, "steps": 15}) for _ in range(2)]
    runs.append(backend_for().run("train", "t0", {"weights": start}, {"round": 1, "steps": 15}))
    assert equal(start, before)
    assert all(equal(runs[0][0]["weights"], other[0]["weights"]) and runs[0][1] == other[1] for other in runs[1:])


def test_no_steps_changes_nothing():
    backend = backend_for()
    outputs, numbers = backend.run("train", "t0", {"weights": first_of(backend)}, {"round": 1, "steps": 0})
    first = first_of(backend)
    assert all(torch.allclose(tensor, first[name], rtol=0, atol=2**-33) for name, tensor in outputs["weights"].items())
    assert numbers["loss"] == 0


def test_named_layers_are_shared_and_the_others_stay():
    backend = backend_for()
    whole = first_of(backend)
    shared = backend.run("init", "server", {}, {"layers": "fc1"})[0]["weights"]
    assert list(shared) == ["fc1.linear.weight", "fc1.linear.bias"]
    numbers = {"round": 1, "steps": 5, "layers": "fc1"}
    one = backend.run("train", "t0", {"weights": shared}, numbers)[0]
    assert list(one["own"]) == ["head.linear.weight", "head.linear.bias"]
    reference = backend.run("train", "t0", {"weights": whole}, {"round": 1, "steps": 5})[0]["weights"]
    assert equal(Weights({**one["weights"], **one["own"]}), reference)
    two = backend.run("train", "t0", {"weights": shared, "own": one["own"]}, {**numbers, "round": 2})[0]
    reference = backend.run("train", "t0", {"weights": Weights({**shared, **one["own"]})}, {"round": 2, "steps": 5})[0]["weights"]
    assert equal(Weights({**two["weights"], **two["own"]}), reference)


def test_blocks_that_an_update_is_without_come_back_as_own():
    backend, numbers = backend_for(), {"round": 1, "slot": 1, "steps": 3}
    weights = first_of(backend)
    whole = backend.run("train", "t1", {"weights": weights}, numbers)[0]["weights"]
    parts, _ = backend.run("train", "t1", {"weights": weights}, {**numbers, "without": "fc1"})
    assert {name.split(".")[0] for name in parts["weights"]} == {"head"}
    assert {name.split(".")[0] for name in parts["own"]} == {"fc1"}
    assert equal({**parts["own"], **parts["weights"]}, whole)
    again, _ = backend.run("train", "t1", {"weights": parts["weights"], "own": parts["own"]}, {**numbers, "round": 2})
    assert equal(again["weights"], backend.run("train", "t1", {"weights": whole}, {**numbers, "round": 2})[0]["weights"])
    assert backend.run("evaluate", "t1", parts, {})[1] == backend.run("evaluate", "t1", {"weights": whole}, {})[1]


def test_gradient_tracking_corrects_every_step_and_tells_the_mean_of_the_steps():
    backend = backend_for(JobFile("digits", {"name": "gossip"}, {"name": "mlp", "hidden": [16]}, train=Train(lr=0.1, dtype="float64")))
    weights, numbers = first_of(backend), {"round": 1, "slot": 1, "steps": 1, "tracking": 1}
    plain = backend.run("train", "t1", {"weights": weights}, numbers)[0]["weights"]
    pull = {name: torch.full_like(tensor, 0.01 * i, dtype=torch.float64) for i, (name, tensor) in enumerate(weights.items())}
    pulled = backend.run("train", "t1", {"weights": weights, "correction": Weights(pull)}, numbers)[0]["weights"]
    for name, c in pull.items():
        assert torch.allclose(pulled[name], plain[name] - 0.1 * c, rtol=0, atol=1e-12)
        assert torch.allclose(plain[f"z/{name}"], (weights[name] - plain[name]) / 0.1, rtol=0, atol=1e-12)
        assert torch.allclose(pulled[f"z/{name}"], plain[f"z/{name}"] + c, rtol=0, atol=1e-9)
    tracked, _ = backend.run("track", "t1", {"settled": plain, "trained": pulled, "correction": Weights(pull)}, {})
    assert list(tracked["weights"]) == list(weights)
    assert all(torch.allclose(c, torch.zeros_like(c), atol=1e-9) for c in tracked["correction"].values())  # c - (z + c) + z


def test_divergence_is_said():
    backend = backend_for(msgspec.structs.replace(JOB, train=Train(lr=1e30)))
    with pytest.raises(OpError, match=r"training diverged: .* lower train\.lr"):
        backend.run("train", "t0", {"weights": first_of(backend)}, {"round": 1, "steps": 20})


def test_weights_of_another_model_are_refused():
    backend, other = backend_for(), backend_for(msgspec.structs.replace(JOB, model={"name": "mlp", "hidden": [8]}))
    with pytest.raises(OpError, match=r"'fc1.linear.weight' have shape \(8, 64\), model mlp needs \(16, 64\)"):
        backend.run("train", "t0", {"weights": first_of(other)}, {"round": 1, "steps": 1})
    with pytest.raises(OpError, match="weights hold 'x', which model mlp does not have"):
        backend.run("evaluate", "s", {"weights": Weights({"x": torch.zeros(1)})}, {})


def test_dropout_of_a_users_module_is_a_function_of_seed_slot_and_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "dropping.py").write_text(
        "import torch\ndef Net(input_shape, classes):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    backend = backend_for(msgspec.structs.replace(JOB, model={"import": "dropping:Net"}), allow_models=["dropping"])
    one, two = (backend.run("train", "t0", {"weights": first_of(backend)}, {"round": 1, "steps": 3})[0]["weights"] for _ in range(2))
    assert equal(one, two)
