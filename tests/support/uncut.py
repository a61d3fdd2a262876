"""What a cut model's training is compared with: torch's own optimiser on the whole model and the union of the nodes' batches.

In float32 the rates are small on purpose. A ReLU input that crosses zero in its last digit moves later losses by 1e-4 at large
rates, in the whole model too when nothing but the order of its rows changes; in float64 that does not happen, and rates are large.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import Data, Evaluation, JobFile, Partition, Train
from fog_learning.models.build import build

MODELS: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "mlp": ({"name": "mlp", "hidden": [16, 12, 8]}, 4),
    "cnn": ({"name": "cnn", "channels": [4, 6], "hidden": 12}, 4),
    "lenet5": ({"name": "lenet5"}, 5),
}
"""Model, and how many blocks it has."""
OPTIMIZERS: Final[dict[str, dict[str, Any]]] = {
    "sgd": {"lr": 0.1},
    "momentum": {"lr": 0.05, "momentum": 0.9},
    "adam": {"optimizer": "adam", "lr": 0.002},
}
FLOAT32_RATES: Final = {"sgd": 0.02, "momentum": 0.005, "adam": 1e-4}
BOUNDS: Final = {"float32": 1e-5, "float64": 1e-9}
"""Largest relative distance of a loss from the whole model's."""
STEPS: Final = {"float32": 50, "float64": 200}
SEEDS: Final = {1: 1, 2: 11, 3: 10, 4: 0, 5: 1}
"""By number of nodes: seeds with which their batches are unequal, at 4 nodes from 1 row to 24."""
BATCH: Final = 24


def toy(folder: Path) -> Path:
    """180 images of 12x12 in 4 classes that a model can learn, with noise enough that the loss stays away from 0."""
    random = np.random.RandomState(5)
    y = np.arange(180) % 4
    means = random.uniform(60, 190, (4, 1, 12, 12))
    x = np.clip(means[y] + random.normal(0, 90, (180, 1, 12, 12)), 0, 255).astype(np.uint8)
    path = folder / "toy.npz"
    np.savez(path, x_train=x[:140], y_train=y[:140], x_test=x[140:], y_test=y[140:])
    return path


def job_for(
    model: str, optimizer: str, nodes: int, dtype: str = "float32", *, steps: int | None = None, evaluation: str = "none", **method: Any
) -> JobFile:
    """An fcddt job on the toy data whose nodes' batches are unequal. steps: as many as STEPS compares."""
    train = OPTIMIZERS[optimizer] if dtype == "float64" else {**OPTIMIZERS[optimizer], "lr": FLOAT32_RATES[optimizer]}
    method = {"name": "fcddt", "round_steps": 10, **method}
    return JobFile(
        "equal",
        method,
        {**MODELS[model][0], "input_shape": [1, 12, 12], "classes": 4},
        data=Data("toy", Partition("dirichlet", alpha=0.3)),
        train=Train(rounds=(steps or STEPS[dtype]) // method["round_steps"], batch_size=BATCH, dtype=dtype, **train),  # type: ignore[arg-type]
        evaluation=Evaluation(evaluation),  # type: ignore[arg-type]
        seed=SEEDS[nodes],
    )


def backend_of(job: JobFile, toy: Path, nodes: int) -> TorchBackend:
    return TorchBackend(job, {f"front-{slot}": slot for slot in range(nodes)} | {"trunk": -1}, nodes, {"toy": str(toy)}, env={})


def sizes_of(backend: TorchBackend, nodes: int, step: int = 0) -> list[int]:
    return [len(backend.batches.at(slot, step)[1]) for slot in range(nodes)]


def whole(job: JobFile, backend: TorchBackend, steps: int, nodes: int, frozen: tuple[str, ...] = ()) -> list[float]:
    """The losses of torch's own optimiser on the uncut model. frozen: beginnings of the names that stay."""
    module = build(backend.models.spec, seed=job.seed, dtype=backend.dtype)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen or ("-",)))
    train = job.train
    optimizer: Any = (
        torch.optim.Adam(module.parameters(), lr=train.lr)
        if train.optimizer == "adam"
        else torch.optim.SGD(module.parameters(), lr=train.lr, momentum=train.momentum)
    )
    losses = []
    for step in range(steps):
        batches = [backend.batches.at(slot, step) for slot in range(nodes)]
        loss = cross_entropy(module(torch.cat([x for x, _ in batches])), torch.cat([y for _, y in batches]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def worst(cut: list[float], uncut: list[float]) -> float:
    """The largest relative distance."""
    return max(abs(a - b) / abs(b) for a, b in zip(cut, uncut, strict=True))
