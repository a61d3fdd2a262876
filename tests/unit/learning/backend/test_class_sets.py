"""Nodes whose labels do not mean the same do not train together: what a worker says of its files, what the coordinator makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.wire.messages import ClassSet, WorkerState
from fog_learning.backend.torch import TorchBackend
from fog_learning.job.reading import job_from
from support.stand_ins import StandIn, World

JOB: dict[str, Any] = {
    "method": {"name": "fedavg"},
    "model": {"name": "mlp", "classes": 3, "input_shape": [2]},
    "data": {"name": "pets", "local": True},
    "evaluation": {"where": "federated"},
}


def reported(folder: Path, labels: str, **model: Any) -> ClassSet:
    """What a worker reports of a CSV file with these labels, ten rows of each."""
    folder.mkdir()
    rows = [f"{row},{len(label)},{label}" for label in labels.split() for row in range(10)]
    (folder / "pets.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    job = job_from({"name": "pets", **JOB, "model": {**JOB["model"], **model}})
    backend = TorchBackend(job, {"trainer-0": 0}, 2, {"pets": str(folder)}, env={})
    assert backend.classes is None
    assert backend.preflight() == []
    assert backend.classes is not None
    return backend.classes


@dataclass
class Owner(StandIn):
    classes: ClassSet | None = None

    def _worker(self, name: str, incarnation: int) -> WorkerState:
        return replace(super()._worker(name, incarnation), classes=self.classes)


def outcome(*classes: ClassSet) -> tuple[str, str]:
    """(state, line) of a job on nodes that report these."""
    nodes = [Owner(f"pi-{number}", classes=each) for number, each in enumerate(classes, 1)]
    world = World(StandIn("cloud-1", "cloud", "cloud"), *nodes)
    world.run(1.0)
    world.submit(**JOB)
    world.run(3.0)
    status = world.status()
    return status["state"], status["line"]


def test_two_nodes_with_other_words_are_refused_with_both_lists(tmp_path: Path):
    state, line = outcome(reported(tmp_path / "a", "cat dog"), reported(tmp_path / "b", "ant dog"))
    assert state == "failed"
    assert "pi-1 has cat, dog; pi-2 has ant, dog" in line
    assert "give every node all classes under the same names" in line
    assert "\n" not in line


def test_nodes_that_agree_are_named_together(tmp_path: Path):
    one, other = reported(tmp_path / "a", "cat dog"), reported(tmp_path / "b", "ant dog")
    assert "pi-1, pi-3 have cat, dog; pi-2 has ant, dog" in outcome(one, other, one)[1]


def test_the_same_words_in_another_order_are_the_same(tmp_path: Path):
    assert outcome(reported(tmp_path / "a", "cat dog"), reported(tmp_path / "b", "dog cat"))[0] == "running"


def test_words_and_numbers_do_not_mix(tmp_path: Path):
    state, line = outcome(reported(tmp_path / "a", "cat dog"), reported(tmp_path / "b", "0 1"))
    assert state == "failed" and "pi-1 has cat, dog; pi-2 has the numbers 0 to 1" in line


def test_of_numbers_a_node_may_lack_some(tmp_path: Path):
    assert outcome(reported(tmp_path / "a", "0 2"), reported(tmp_path / "b", "0 1"))[0] == "running"


def test_models_of_two_sizes_are_refused(tmp_path: Path):
    state, line = outcome(reported(tmp_path / "a", "0 2", classes=3), reported(tmp_path / "b", "0 1", classes=2))
    assert state == "failed"
    assert "3 on pi-1; 2 on pi-2; say model.classes: 3 or more" in line


def test_of_many_classes_the_first_are_named(tmp_path: Path):
    words = [f"w{number:03}" for number in range(50)]
    many, more = reported(tmp_path / "a", " ".join(words), classes=60), reported(tmp_path / "b", " ".join([*words, "z"]), classes=60)
    assert len(many.names) == 20 and many.digest != more.digest
    assert "w019 and 30 more" in outcome(many, more)[1]


def test_a_label_beyond_the_model_is_named_by_the_worker(tmp_path: Path):
    folder = tmp_path / "a"
    with pytest.raises(AssertionError, match=r"labels up to 3, the model has 3 outputs"):
        reported(folder, "0 3")


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ("ant dog", 3, "its labels mean ant, dog, those of the job cat, dog"),
        ("0 1", 3, "its labels mean the numbers 0 to 1, those of the job cat, dog"),
        ("cat dog", 4, "its data has 4 classes, the job's model 3"),
    ],
)
def test_a_worker_that_comes_later_with_other_labels_waits_outside_and_is_named(tmp_path: Path, labels: str, classes: int, said: str):
    ours, theirs = reported(tmp_path / "a", "cat dog"), reported(tmp_path / "b", labels, classes=classes)
    nodes = [Owner(f"pi-{number}", classes=ours) for number in (1, 2)]
    world = World(StandIn("cloud-1", "cloud", "cloud"), *nodes)
    world.run(1.0)
    world.submit(**JOB)
    world.run(3.0)
    nodes[1].classes = theirs
    nodes[1].restart_worker(world.now, "digits")
    world.run(20.0)
    assert sorted(world.live()) == ["server", "trainer-0"]
    assert any(said in wait["what"] for wait in world.status()["waits"]), world.status()["waits"]
