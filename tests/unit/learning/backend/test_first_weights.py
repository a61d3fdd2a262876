"""A job that begins with weights from a file: what is read, what is refused, and that all nodes have the same one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_common.wire.messages import WorkerState
from fog_learning.backend.torch import TorchBackend
from fog_learning.job.reading import job_from
from fog_learning.job.sections import JobFile
from fog_learning.ops.values import Weights, encode
from support.stand_ins import StandIn, World

JOB: dict[str, Any] = {"name": "tuned", "method": {"name": "fedavg"}, "model": {"name": "mlp", "hidden": [16]}, "data": {"name": "digits"}, "seed": 3}


def job(**model: Any) -> JobFile:
    return job_from({**JOB, "model": {**JOB["model"], **model}})


def backend(job: JobFile, folder: Path, **files: str) -> TorchBackend:
    return TorchBackend(job, {"trainer-0": 0}, 1, weights=files, env={"FOGLEARN_DATA": str(folder)})


def first(backend: TorchBackend) -> Weights:
    return backend.run("init", "server", {}, {})[0]["weights"]


@pytest.fixture
def other(tmp_path: Path) -> Weights:
    """Weights of another seed, in `$FOGLEARN_DATA/other.safetensors`."""
    drawn = first(TorchBackend(msgspec.structs.replace(job(), seed=99), {}, 1, env={}))
    (tmp_path / "other.safetensors").write_bytes(encode(drawn))
    return drawn


def test_the_weights_of_the_file_are_the_first_ones(tmp_path: Path, other: Weights):
    found = first(backend(job(weights="other"), tmp_path))
    assert all(torch.equal(found[name], other[name]) for name in other) and found.keys() == other.keys()
    assert not torch.equal(first(backend(job(), tmp_path))["fc1.linear.weight"], other["fc1.linear.weight"])


def test_the_agents_configuration_comes_before_the_folder(tmp_path: Path, other: Weights):
    content = encode(Weights({name: tensor + 1 for name, tensor in other.items()}))
    (tmp_path / "mine.bin").write_bytes(content)
    found = first(backend(job(weights="other"), tmp_path, other=str(tmp_path / "mine.bin")))
    assert torch.equal(found["fc1.linear.bias"], other["fc1.linear.bias"] + 1)


def test_blocks_that_the_file_lacks_are_drawn_and_dtypes_are_the_jobs(tmp_path: Path, other: Weights):
    part = Weights({name: tensor.half() for name, tensor in other.items() if name.startswith("fc1.")})
    (tmp_path / "front.safetensors").write_bytes(encode(part))
    found, drawn = first(backend(job(weights="front"), tmp_path)), first(backend(job(), tmp_path))
    for name, tensor in drawn.items():
        assert torch.equal(found[name], part[name].float() if name in part else tensor) and found[name].dtype == torch.float32


def test_training_changes_nothing_of_the_first_weights(tmp_path: Path, other: Weights):
    at = backend(job(weights="other"), tmp_path)
    at.run("train", "trainer-0", {"weights": first(at)}, {"round": 1, "steps": 3, "slot": 0, "step": 0, "lr": 0.1})
    assert torch.equal(first(at)["fc1.linear.weight"], other["fc1.linear.weight"])


def test_a_front_trained_elsewhere_stays_as_it_is(tmp_path: Path, other: Weights):
    frozen = job_from({**JOB, "method": {"name": "fcddt", "cut": 1, "backward": "frozen_front"}, "model": {**JOB["model"], "weights": "other"}})
    local = TorchBackend(frozen, {}, 1, env={"FOGLEARN_DATA": str(tmp_path)}).run("split_init", "trunk", {}, {})[0]["local"]
    assert local and all(torch.equal(local[name], other[name]) for name in local)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"nonsense", "cannot be read as safetensors"),
        (bytes(encode(Weights())), "holds no tensor"),
        (bytes(encode(Weights({"conv9.weight": torch.zeros(2)}))), "'conv9.weight', which model mlp does not have"),
        (bytes(encode(Weights({"fc1.linear.bias": torch.zeros(3)}))), r"has shape \(3,\), model mlp needs \(16,\)"),
        (bytes(encode(Weights({"fc1.linear.bias": torch.full((16,), float("nan"))}))), "not finite"),
    ],
    ids=["nonsense", "empty", "name", "shape", "nan"],
)
def test_what_is_wrong_with_the_file_is_said_before_training(tmp_path: Path, content: bytes, said: str):
    (tmp_path / "bad.safetensors").write_bytes(content)
    (problem,) = backend(job(weights="bad"), tmp_path).preflight()
    assert problem.startswith("model.weights bad") and "\n" not in problem
    with pytest.raises(ConfigError, match=said):
        backend(job(weights="bad"), tmp_path).models.first_weights()


def test_a_file_that_is_not_there_is_looked_for_where_the_message_says(tmp_path: Path):
    (problem,) = backend(job(weights="lost"), tmp_path).preflight()
    assert str(tmp_path / "lost.safetensors") in problem and "every node" in problem
    (problem,) = TorchBackend(job(weights="lost"), {}, 1, env={}).preflight()
    assert "weights: in the agent's configuration" in problem


@pytest.mark.parametrize("name", ["../etc/passwd", "", 7, ["a"]])
def test_weights_are_a_name_and_no_path(name: Any):
    with pytest.raises(ConfigError, match="must be a name"):
        job(weights=name)


@dataclass
class Owner(StandIn):
    weights: str = ""

    def _worker(self, name: str, incarnation: int) -> WorkerState:
        return replace(super()._worker(name, incarnation), weights=self.weights)


def owners(*digests: str) -> World:
    """With a job that was submitted."""
    world = World(
        Owner("cloud-1", "cloud", "cloud", weights=digests[0]), *(Owner(f"pi-{at}", weights=each) for at, each in enumerate(digests[1:], 1))
    )
    world.run(1.0)
    world.submit(**{key: value for key, value in JOB.items() if key != "name"})
    world.run(3.0)
    return world


def outcome(*digests: str) -> tuple[str, str]:
    status = owners(*digests).status()
    return status["state"], status["line"]


def test_nodes_with_two_files_of_one_name_do_not_train_together():
    assert outcome("aa", "aa", "aa")[0] == "running"
    state, line = outcome("aa", "bb", "aa")
    assert state == "failed" and "cloud-1, pi-2 have aa; pi-1 has bb; copy one of them to all" in line


@pytest.mark.parametrize("restarted", [False, True])
def test_a_worker_that_comes_later_with_another_file_waits_outside_and_is_named(restarted: bool):
    world = owners("aa", "aa", "aa")
    node = world.nodes["pi-2"]
    assert isinstance(node, Owner)
    node.weights = "bb"
    node.restart_worker(world.now, "digits")
    if restarted:
        world.kill_core()
        world.start_core()
    world.run(20.0)
    assert sorted(world.live()) == ["server", "trainer-0"]
    shown = [wait["what"] for wait in world.status()["waits"]]
    assert any("trainer-1" in what and "pi-2" in what and "is bb, the job began with aa" in what for what in shown), shown
    node.weights = "aa"
    node.restart_worker(world.now, "digits")
    world.run(20.0)
    assert sorted(world.live()) == ["server", "trainer-0", "trainer-1"]
