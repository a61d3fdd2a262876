"""Bytes by formula beside measured ones: absent where a fact is missing, never 0."""

from __future__ import annotations

from typing import Any

import pytest

from fog_common.runtime.machine import RoundRecord
from fog_common.wire.api.jobs import JobStatus
from fog_common.wire.api.states import FINISHED
from fog_common.wire.api.verbs import ReadJob
from fog_learning.costs import traffic
from fog_learning.job.reading import job_from
from fog_learning.job.sections import JobFile
from fog_learning.methods import resolve_method
from fog_learning.models import resolve_model
from fog_sim.costs import torch_backend
from fog_sim.links import PRESETS
from fog_sim.world import Simulation
from fogctl.show.watch import summary

pytestmark = pytest.mark.thorough


SPEC = resolve_model({"name": "mlp", "hidden": [64]}, (1, 28, 28), 10)
LOCAL = 784 * 64 + 64
HEADER_BYTES = 250
"""Of a message's tensors: their names, shapes and places."""


def job(method: dict[str, Any]) -> JobFile:
    rest = {"privacy": {"share_samples": method["name"] == "centralized"}, "evaluation": {"where": "none"}}
    model = {"name": "mlp", "hidden": [64]}
    return job_from({"name": "count", "method": method, "model": model, "data": {"name": "mnist"}, "train": {"batch_size": 100}, **rest}, "test")


def counted(method: dict[str, Any], records: list[RoundRecord], stored: int | None = 1) -> traffic.Count | None:
    file = job(method)
    chosen, plan = resolve_method(file)
    return chosen.traffic(file, plan, SPEC, records, stored) if chosen.traffic is not None and records else None


def rounds(count: int, updates: int, examples: int, **numbers: float) -> list[RoundRecord]:
    return [RoundRecord(number + 1, float(number), updates, examples, numbers) for number in range(count)]


def test_fcddt_counts_the_variant_that_is_built_and_what_the_paper_counts() -> None:
    count = counted({"name": "fcddt", "round_steps": 10}, rounds(3, 4, 4 * 100 * 10))
    assert count is not None
    assert count.steps == 30
    assert count.formula / 30 == 4 * 100 * (2 * 64 * 4 + 1) + 5 * 4 * LOCAL
    assert count.paper / 30 == 4 * (4 * 100 * 64 + 4 * LOCAL)


def test_a_front_that_was_away_is_not_counted() -> None:
    records = [*rounds(1, 4, 4000), *rounds(1, 3, 3000)]
    count = counted({"name": "fcddt", "round_steps": 10}, records)
    assert count is not None
    assert count.formula == 7000 * (2 * 64 * 4 + 1) + 10 * 9 * 4 * LOCAL


def test_the_baselines_are_counted_in_the_same_way() -> None:
    federated = counted({"name": "fedavg", "local_steps": 1}, rounds(5, 4, 400))
    assert federated is not None
    assert federated.formula / 5 == 5 * 4 * SPEC.parameters
    assert federated.paper / 5 == 2 * 4 * 4 * SPEC.parameters
    named = counted({"name": "fedavg", "local_steps": 1, "layers": ["fc1"]}, rounds(5, 4, 400))
    assert named is not None
    assert named.formula / 5 == 5 * 4 * LOCAL
    central = counted({"name": "centralized", "round_steps": 10}, rounds(5, 4, 4000, samples=60000))
    assert central is not None
    assert central.formula == 60000 * 785
    assert central.paper / 50 == 4 * 400 * 784


def test_what_is_not_known_is_absent() -> None:
    assert counted({"name": "centralized"}, rounds(5, 4, 4000, samples=60000), stored=None) is None
    assert counted({"name": "gossip"}, rounds(5, 4, 4000)) is None
    assert counted({"name": "fcddt"}, []) is None


# -- of jobs in the simulator --------------------------------------------------------------------


def status_of(method: dict[str, Any], train: dict[str, Any], data: str = "digits", **more: Any) -> JobStatus:
    world = Simulation(3, PRESETS["lan"], torch_backend, seed=1)
    spec = {"name": "count", "method": method, "model": {"name": "mlp", "hidden": [32, 32]}, "data": {"name": data}, **more}
    name = world.submit({**spec, "train": {"lr": 0.05, "batch_size": 32, **train}})
    world.run(name, 600.0)
    status = world.coordinator.ask(ReadJob(name))
    assert status.state == FINISHED, status.line
    return status


@pytest.mark.parametrize(
    ("method", "rounds", "more"),
    [
        ({"name": "fcddt", "cut": 1, "round_steps": 10}, 3, {}),
        ({"name": "fcddt", "cut": 1, "round_steps": 10, "u_shaped": True, "wire": "float16"}, 3, {}),
        ({"name": "fcddt", "cut": 1, "round_steps": 20, "backward": "frozen_front"}, 3, {}),
        ({"name": "fedavg", "local_steps": 2}, 10, {}),
        ({"name": "centralized", "round_steps": 5}, 3, {"privacy": {"share_samples": True}}),
    ],
)
def test_tensors_alone_are_the_formula_and_what_else_was_sent_is_shown(method: dict[str, Any], rounds: int, more: dict[str, Any]) -> None:
    status = status_of(method, {"rounds": rounds}, **more)
    step = status.step_bytes
    assert step is not None and step.measured is not None and step.tensors is not None
    headers = 3 * 6 * HEADER_BYTES if method["name"] == "fcddt" else 0.05 * step.formula  # at most five messages a front, and a cast
    assert step.formula <= step.tensors <= step.formula + headers
    assert step.measured > step.tensors
    assert step.measured == pytest.approx(status.bytes.total / step.steps)
    assert step.error == pytest.approx(step.measured / step.formula - 1)
    text = dict(summary(status))["bytes a step"]
    assert "measured" in text
    assert "by formula, +" in text
    assert "the paper counts" in text


def test_a_job_without_a_formula_says_nothing_of_it() -> None:
    status = status_of({"name": "gossip", "local_steps": 2}, {"rounds": 2})
    assert status.step_bytes is None
    assert "bytes a step" not in dict(summary(status))
