"""fcddt through the simulator, with real tensors: the real hosts, transfer, agents and coordinator are between the cut parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import JobFile, job_spec
from fog_sim.costs import Costs, model_costs
from fog_sim.faults import Fault, Schedule
from fog_sim.links import PRESETS
from fog_sim.world import Simulation
from support import uncut
from support.uncut import BOUNDS, STEPS, backend_of, job_for, whole, worst

pytestmark = pytest.mark.thorough

NODES = 3


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uncut.toy(tmp_path_factory.mktemp("toy"))


def world_of(toy: Path, nodes: int) -> Simulation:
    def backend(job: JobFile, slots: dict[str, int], roster_size: int) -> tuple[Any, Costs]:
        tools = TorchBackend(job, slots, roster_size, {"toy": str(toy)}, threads=1, env={}, evaluates=False)
        return tools, model_costs(job, tools.models.spec, 0, roster_size)

    return Simulation(nodes, PRESETS["lan"], backend, seed=1)


def simulated(job: JobFile, toy: Path, nodes: int, fault: Fault | None = None, from_round: int = 0) -> tuple[list[float], dict[str, Any]]:
    """(the losses of all rounds, STATUS). fault: in round from_round."""
    world = world_of(toy, nodes)
    name = world.submit(job_spec(job))
    if fault is not None:
        while world.status(name)["round"] < from_round:
            world.kernel.run(world.kernel.now + 0.01)
        world.inject(Schedule([fault]))
    status = world.run(name, 600.0)
    assert status["state"] == "finished", status["line"]
    return [record["loss"] for record in status["history"]], status


CASES = [
    ("mlp", 2, False, "momentum", 3, "float32"),
    ("mlp", 1, True, "adam", 2, "float64"),
    ("cnn", 1, True, "momentum", 4, "float32"),
    ("cnn", 3, False, "adam", 3, "float64"),
    ("lenet5", 3, True, "adam", 2, "float32"),
    ("lenet5", 2, False, "sgd", 2, "float64"),
]


@pytest.mark.parametrize(("model", "cut", "shaped", "optimizer", "nodes", "dtype"), CASES)
def test_simulated_losses_are_those_of_the_uncut_model(toy: Path, model: str, cut: int, shaped: bool, optimizer: str, nodes: int, dtype: str) -> None:
    job = job_for(model, optimizer, nodes, dtype, round_steps=1, cut=cut, u_shaped=shaped)
    losses, _ = simulated(job, toy, nodes)
    assert len(losses) == STEPS[dtype]
    assert worst(losses, whole(job, backend_of(job, toy, nodes), STEPS[dtype], nodes)) < BOUNDS[dtype]


def test_a_drained_trunk_leaves_every_loss_as_it_was(toy: Path) -> None:
    job = job_for("cnn", "adam", NODES, steps=60, round_steps=2, cut=1, u_shaped=True)
    undisturbed, _ = simulated(job, toy, NODES)
    losses, status = simulated(job, toy, NODES, Fault(0.003, "drain", "cloud-1", 600.0), from_round=4)
    assert [task["node"] for task in status["tasks"] if task["role"] == "trunk"] != ["cloud-1"], "it did move"
    assert losses == undisturbed


@pytest.mark.parametrize("kind", ["kill_worker", "power_loss"])
def test_a_front_killed_in_a_step_that_is_back_soon_gives_its_rows_again(toy: Path, kind: Any) -> None:
    job = job_for("cnn", "momentum", NODES, "float64", steps=60, round_steps=2, cut=1)
    undisturbed, _ = simulated(job, toy, NODES)
    losses, status = simulated(job, toy, NODES, Fault(0.003, kind, "node-2", 0.5), from_round=4)
    assert {record["updates"] for record in status["history"]} == {NODES}
    assert losses == undisturbed


def test_a_front_that_stays_away_costs_its_rows_and_not_the_job(toy: Path) -> None:
    job = job_for("cnn", "momentum", NODES, "float64", steps=100, round_steps=2, cut=1)
    undisturbed, _ = simulated(job, toy, NODES)
    losses, status = simulated(job, toy, NODES, Fault(0.003, "power_loss", "node-2", 600.0), from_round=10)
    assert [record["round"] for record in status["history"]] == list(range(1, 51))
    assert {record["updates"] for record in status["history"]} == {NODES - 1, NODES}, "with it, then without"
    assert losses[:9] == undisturbed[:9]
    assert losses != undisturbed
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize("kind", ["kill_worker", "power_loss"])
def test_a_trunk_killed_in_a_step_goes_on_from_its_save_with_the_same_losses(toy: Path, kind: Any) -> None:
    job = job_for("cnn", "adam", NODES, steps=60, round_steps=2, cut=2)
    undisturbed, _ = simulated(job, toy, NODES)
    losses, _ = simulated(job, toy, NODES, Fault(0.003, kind, "cloud-1", 0.5), from_round=4)
    assert losses == undisturbed
