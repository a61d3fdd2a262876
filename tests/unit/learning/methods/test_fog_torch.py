"""fog with real torch in the simulator: the weights of trees, and the consensus error that is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fog_learning.backend.base import Result
from fog_learning.backend.torch import TorchBackend
from fog_learning.clusters.graphs import metropolis, ring, transfer
from fog_learning.job.sections import JobFile
from fog_learning.ops.values import Weights
from fog_sim.costs import Costs, model_costs
from fog_sim.exact import ExactBackend
from fog_sim.experiments.stage import Stage, StageTask, star
from support.few import few

TRAINERS, ROUNDS = 6, 3


class Spied(TorchBackend):
    """Keeps what went into averages and ratings."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.rated: list[Weights] = []
        self.given: list[dict[str, tuple[Weights, float]]] = [{} for _ in range(ROUNDS)]
        """Round -> task -> the input of its consensus, with its number of examples."""

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
        if op == "evaluate":
            self.rated.append(inputs["weights"])
        if op == "pair":
            next(each for each in self.given if task not in each)[task] = (inputs["weights"], float(numbers["n"]))
        return super().run(op, task, inputs, numbers)


class SpiedExact(Spied, ExactBackend):
    """As the simulator measures."""


def spec(method: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "tree",
        "method": {**method, "local_steps": 1},
        "model": {"name": "mlp", "hidden": [32]},
        "data": {"name": "digits", "partition": {"kind": "dirichlet", "alpha": 0.5}},
        "train": {"rounds": ROUNDS, "batch_size": 16, "lr": 0.2},
        "seed": 3,
    }


def played(method: dict[str, Any], tasks: list[StageTask] | None = None, kind: type[Spied] = SpiedExact) -> tuple[Spied, list[float]]:
    """(what the ops saw, the consensus error that each round reports)"""
    spies: list[Spied] = []

    def backend(job: JobFile, slots: dict[str, int], roster_size: int) -> tuple[Spied, Costs]:
        spies.append(kind(job, slots, roster_size, device="cpu", threads=1, evaluates=True))
        return spies[0], model_costs(job, spies[0].models.spec, 1, roster_size)

    done = Stage(spec(method), tasks or star(spec(method), TRAINERS), backend=backend, seed=1).run()
    return spies[0], [record.numbers.get("consensus_error", 0.0) for record in done.history]


def trainers(*parents: str, site: str = "") -> list[StageTask]:
    return [StageTask(f"trainer-{slot}", "trainer", slot, parent, "thing", site or f"site-{parent}") for slot, parent in enumerate(parents)]


ROOT = StageTask("server", "server", tier="cloud", site="cloud")
TWO = [
    ROOT,
    *(StageTask(name, "aggregator", parent="server", tier="edge", site=f"site-{name}") for name in ("a", "b")),
    *trainers("a", "a", "b", "b", "b", "b"),
]
THREE = [
    ROOT,
    StageTask("g", "aggregator", parent="server", tier="fog", site="hub"),
    StageTask("h", "aggregator", parent="server", tier="fog", site="hub"),
    *(StageTask(name, "aggregator", parent=parent, tier="edge", site=f"site-{name}") for name, parent in (("a", "g"), ("b", "g"), ("c", "h"))),
    *trainers("a", "a", "b", "c", "c", "c"),
]


def flat(weights: Weights) -> np.ndarray[Any, Any]:
    return np.concatenate([weights[name].double().reshape(-1).numpy() for name in sorted(weights)])


@pytest.mark.parametrize("tasks", [TWO, THREE], ids=["two layers", "three layers"])
def test_the_weights_of_a_vertical_tree_are_those_of_federated_averaging(tasks: list[StageTask]):
    star_, _ = played({"name": "fedavg"})
    tree, _ = played({"name": "fog", "mode": "vertical"}, tasks)
    assert len(star_.rated) == len(tree.rated) == ROUNDS
    for one, other in zip(star_.rated, tree.rated, strict=True):
        assert np.abs(flat(one) - flat(other)).max() < 1e-6
    assert np.abs(flat(star_.rated[0]) - flat(star_.rated[-1])).max() > 1e-3  # it did learn in between


@pytest.mark.parametrize("turns", few([1, 3], 1))
@pytest.mark.parametrize("kind", [SpiedExact, Spied], ids=["simulated", "live"])
def test_the_reported_error_is_the_true_one_and_with_the_ops_of_a_live_worker_a_bound_within_twice_it(kind: type[Spied], turns: int):
    """The true one from the members' inputs alone: y = W^turns (n w), m = W^turns n."""
    method = {"name": "fog", "mode": "d2d", "consensus": {"graph": "ring", "turns": turns}}
    spy, reported = played(method, [ROOT, *trainers(*["server"] * TRAINERS, site="here")], kind)
    power = np.array(transfer(metropolis(ring(TRAINERS)), turns))
    assert len(reported) == ROUNDS
    for given, error in zip(spy.given, reported, strict=True):
        rows = [given[name] for name in sorted(given)]
        n, w = np.array([n for _, n in rows]), np.stack([flat(weights) for weights, _ in rows])
        estimates, mean = (power @ (n[:, None] * w)) / (power @ n)[:, None], n @ w / n.sum()
        true = max(float(np.linalg.norm(each - mean)) for each in estimates)
        assert true > 1e-3
        if kind is SpiedExact:
            assert error == pytest.approx(true, rel=1e-4)  # what travels is rounded to float32
        else:
            assert true <= error <= 2 * true
