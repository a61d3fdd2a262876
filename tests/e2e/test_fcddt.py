"""Decomposed training on a fleet of real processes over mosquitto, with torch: equal to the whole model, and what faults cost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fog_common.wire.api.states import ENDED
from fog_common.wire.api.verbs import ReadJob
from fog_learning.job.reading import load_job
from fog_learning.job.sections import JobFile, job_spec
from fogctl.client import Client
from fogctl.fleet.broker import find_mosquitto
from fogctl.fleet.local_fleet import CLOUD_NODE, LocalFleet
from fogctl.show.watch import summary
from support import uncut
from support.broker import needs
from support.uncut import BOUNDS, STEPS, backend_of, job_for, whole, worst

NODES = 3
EXAMPLE = Path(__file__).parents[2] / "examples" / "fcddt.yaml"
PATIENCE_S = 120.0
HEADER_BYTES = 400
"""Of a message: its frames' topics and heads, its acknowledgements, and its share of the copies of Saves."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uncut.toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Iterator[LocalFleet]:
    """Three agents and the cloud's, whose workers have torch."""
    needs("mosquitto", find_mosquitto())
    folder = tmp_path_factory.mktemp("fleet")
    with LocalFleet(folder, NODES, broker="mosquitto", agent_options={"datasets": {"toy": str(toy)}}, log_level="INFO") as running:
        yield running


@pytest.fixture
def client(fleet: LocalFleet) -> Iterator[Client]:
    with fleet.client() as connected:
        fleet.wait_for_nodes(connected, NODES + 1)
        yield connected


def until(client: Client, job: str, good: Any, what: str) -> dict[str, Any]:
    """The first status for which `good` holds."""
    end = time.monotonic() + PATIENCE_S
    while not good(status := client.request("job.status", job=job)):
        over = time.monotonic() > end or status["state"] in ENDED
        assert not over, f"no {what}: {status['state']}, {status['line']}, {status['problems']}, {status['why']}"
    return dict(status)


def submitted(client: Client, job: JobFile | dict[str, Any], name: str) -> str:
    spec = job if isinstance(job, dict) else job_spec(job)
    return str(client.request("job.submit", spec={**spec, "name": name})["job"])


def finished(client: Client, job: str) -> dict[str, Any]:
    return until(client, job, lambda status: status["state"] == "finished", "end")


def losses(status: dict[str, Any]) -> list[float]:
    return [record["loss"] for record in status["history"]]


def example() -> dict[str, Any]:
    return job_spec(load_job(EXAMPLE))


@pytest.mark.parametrize(
    ("model", "cut", "shaped", "optimizer", "dtype"),
    [("mlp", 1, False, "momentum", "float32"), ("cnn", 2, True, "adam", "float32"), ("lenet5", 3, False, "sgd", "float64")],
)
def test_live_losses_are_those_of_the_uncut_model(client: Client, toy: Path, model: str, cut: int, shaped: bool, optimizer: str, dtype: str) -> None:
    job = job_for(model, optimizer, NODES, dtype, round_steps=1, cut=cut, u_shaped=shaped)
    live = losses(finished(client, submitted(client, job, f"equal-{model}")))
    assert len(live) == STEPS[dtype]
    assert worst(live, whole(job, backend_of(job, toy, NODES), STEPS[dtype], NODES)) < BOUNDS[dtype]


def test_the_example_learns_digits_with_its_trunk_in_the_cloud(client: Client) -> None:
    status = finished(client, submitted(client, example(), "learns"))
    assert [task["node"] for task in status["tasks"] if task["role"] == "trunk"] == [CLOUD_NODE]
    assert status["metrics"]["accuracy"] >= 0.95
    step, messages = status["step_bytes"], 3 * NODES + 1
    assert step["formula"] <= step["tensors"] <= 1.05 * step["formula"]
    assert step["measured"] <= 1.05 * step["formula"] + HEADER_BYTES * messages
    assert "by formula" in dict(summary(client.ask(ReadJob(status["job"]))))["bytes a step"]


def test_a_front_killed_in_a_step_gives_its_rows_again_and_the_job_goes_on(fleet: LocalFleet, client: Client) -> None:
    job = submitted(client, example(), "killed")
    until(client, job, lambda status: status["round"] >= 3, "round 3")
    workers = fleet.workers_of("agent-2")
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    status = finished(client, job)
    assert [record["round"] for record in status["history"]] == list(range(1, 16))
    assert {record["updates"] for record in status["history"]} == {NODES}, "no step was taken without it"
    assert status["metrics"]["accuracy"] >= 0.95


def test_draining_the_trunks_node_leaves_the_loss_curve_as_it_was(client: Client) -> None:
    spec = {**example(), "method": {"name": "fcddt", "cut": 1, "round_steps": 5}, "train": {**example()["train"], "rounds": 40}}
    undisturbed = losses(finished(client, submitted(client, spec, "undisturbed")))
    job = submitted(client, spec, "drained")
    until(client, job, lambda status: status["round"] >= 5, "round 5")
    client.request("node.drain", node=CLOUD_NODE)
    try:
        status = finished(client, job)
    finally:
        client.request("node.drain", node=CLOUD_NODE, undo=True)
    assert [task["node"] for task in status["tasks"] if task["role"] == "trunk"] != [CLOUD_NODE], "it did move"
    assert losses(status) == undisturbed
