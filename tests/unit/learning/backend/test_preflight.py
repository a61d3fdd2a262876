"""What a node says before a job starts on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import Data, Nodes
from support.backends import JOB, backend_for, first_of


def test_preflight_is_silent_when_all_is_well():
    assert backend_for().preflight() == []


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

    problems = backend_for(msgspec.structs.replace(JOB, **change), slots).preflight()
    assert len(problems) == 1
    assert re.search(message, problems[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_preflight_needs_the_device_that_the_job_names():
    (problem,) = backend_for(msgspec.structs.replace(JOB, nodes=Nodes(device="cuda"))).preflight()
    assert problem.startswith("nodes.device is cuda")


def test_a_users_module_whose_output_does_not_fit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "narrow.py").write_text(
        "import torch\ndef Net(input_shape, classes):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 7))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    job = msgspec.structs.replace(JOB, model={"import": "narrow:Net"})
    assert backend_for(job, allow_models=["narrow"]).preflight() == [r"model narrow:Net gives (7,) per example, the data has 10 classes"]
    job = msgspec.structs.replace(JOB, model={"import": "narrow:Net", "input_shape": [3]})
    (problem,) = backend_for(job, allow_models=["narrow"]).preflight()[:1]
    assert problem.startswith("model narrow:Net does not take examples of shape (3,)")


def test_a_node_without_data_tasks_needs_no_data_unless_it_evaluates():
    job = msgspec.structs.replace(JOB, data=Data(name="maps"), model={"name": "mlp", "classes": 3, "input_shape": [4]})
    idle = TorchBackend(job, {}, 2, env={}, evaluates=False)
    assert idle.preflight() == []
    assert first_of(idle)["fc1.linear.weight"].shape == (64, 4)
    assert TorchBackend(job, {}, 2, env={}).preflight()[0].startswith("data set maps not found")
