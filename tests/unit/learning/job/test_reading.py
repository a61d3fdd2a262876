"""Job files: the good ones are complete, each bad one is one clear line and exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fog_common.errors import ConfigError
from fog_learning.job.reading import job_from, load_job
from fog_learning.job.sections import JobFile, Partition, job_spec
from support.paths import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
GOOD = {
    "name": "name: digits",
    "method": "method: {name: fedavg, local_steps: 20}",
    "model": "model: {name: mlp, hidden: [64]}",
}


def job_file(folder: Path, **sections: str | None) -> Path:
    """A good job file with some lines replaced, added or (None) left out."""
    lines = {**GOOD, **sections}
    path = folder / "job.yaml"
    path.write_text("\n".join(line for line in lines.values() if line is not None) + "\n")
    return path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_good_job(path: Path) -> None:
    job = load_job(path)
    assert job.name == path.stem
    assert job_from(job_spec(job)) == job


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"digits", "digits-noniid", "mnist-cnn", "fedprox"}


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    job = load_job(job_file(tmp_path, data="data: {partition: {kind: dirichlet, alpha: 0.5}}", seed="seed: 7"))
    assert (job.train.rounds, job.data.name, job.data.partition, job.seed) == (30, "digits", Partition("dirichlet", 0.5), 7)


def test_a_job_survives_the_wire(tmp_path: Path) -> None:
    job = load_job(job_file(tmp_path))
    assert job_from(msgspec.msgpack.decode(msgspec.msgpack.encode(job_spec(job)))) == job


BAD = [
    ("unknown section", {"trian": "trian: {rounds: 3}"}, 4, "trian: unknown key, did you mean 'train'?"),
    ("unknown key", {"train": "train:\n  ronds: 3"}, 5, "train.ronds: unknown key, did you mean 'rounds'?"),
    ("wrong type", {"train": "train: {rounds: many}"}, 4, "train.rounds: expected an integer ≥ 1, got 'many'"),
    ("negative rounds", {"train": "train: {rounds: -3}"}, 4, "train.rounds: expected an integer ≥ 1, got -3"),
    ("no rounds", {"train": "train: {rounds: 0}"}, 4, "train.rounds: expected an integer ≥ 1, got 0"),
    ("NaN", {"train": "train: {lr: .nan}"}, 4, "train.lr: expected a finite number, got .nan"),
    ("nan in words", {"train": "train: {lr: nan}"}, 4, "train.lr: expected a number > 0, got 'nan'"),
    ("infinite", {"train": "train: {lr: .inf}"}, 4, "train.lr: expected a finite number, got .inf"),
    ("no learning rate", {"train": "train: {lr: 0}"}, 4, "train.lr: expected a number > 0, got 0"),
    ("momentum", {"train": "train: {momentum: 1}"}, 4, "train.momentum: expected a number ≥ 0 and < 1, got 1"),
    ("quorum", {"stragglers": "stragglers: {quorum: 1.5}"}, 4, "stragglers.quorum: expected a number > 0 and ≤ 1, got 1.5"),
    ("no quorum", {"stragglers": "stragglers: {quorum: 0}"}, 4, "stragglers.quorum: expected a number > 0 and ≤ 1, got 0"),
    ("deadline", {"stragglers": "stragglers: {deadline_s: -1}"}, 4, "stragglers.deadline_s: expected a number > 0 or null, got -1"),
    ("alpha", {"data": "data: {partition: {kind: dirichlet, alpha: 0}}"}, 4, "data.partition.alpha: expected a number > 0, got 0"),
    ("partition", {"data": "data: {partition: {kind: halves}}"}, 4, "data.partition.kind: expected one of dirichlet, iid, shards, got 'halves'"),
    ("data set's name", {"data": "data: {name: ../etc}"}, 4, "data.name: expected 1 to 32 of a-z, 0-9 and '-'"),
    ("tier", {"nodes": "nodes: {select: {tier: [edge, moon]}}"}, 4, "nodes.select.tier[1]: expected one of cloud, edge, fog, thing, got 'moon'"),
    ("node's name", {"nodes": "nodes: {select: {names: [pi.3]}}"}, 4, "nodes.select.names[0]: expected 1 to 32 of a-z, 0-9 and '-'"),
    ("job's name", {"name": "name: My Job"}, 1, "name: expected 1 to 32 of a-z, 0-9 and '-'"),
    ("no name", {"name": None}, 1, "key 'name' is missing"),
    ("no method", {"method": None}, 1, "key 'method' is missing"),
    ("method without name", {"method": "method: {local_steps: 3}"}, 2, "method: key 'name' is missing; `fogctl methods` lists what there is"),
    ("unknown method", {"method": "method: {name: fedavgg}"}, 2, "method.name: 'fedavgg'"),
    ("unknown key of the method", {"method": "method: {name: fedavg, local_step: 3}"}, 2, "method.local_step: unknown key, did you mean 'local_steps'?"),
    ("wrong value for the method", {"method": "method: {name: fedavg, local_steps: 0}"}, 2, "method.local_steps: expected an integer ≥ 1, got 0"),
    ("unknown model", {"model": "model: {name: mpl}"}, 3, "model.name"),
    ("unknown key of the model", {"model": "model: {name: mlp, depth: 3}"}, 3, "model.depth"),
    ("wrong value for the model", {"model": "model: {name: mlp, hidden: [0]}"}, 3, "model.hidden"),
    ("more nodes than examples", {"data": "data: {train_limit: 3}", "nodes": "nodes: {count: 4}"}, 4, "data.train_limit: 3 examples cannot be divided over 4 nodes"),
    ("more nodes than are named", {"nodes": "nodes: {select: {names: [a]}, count: 2}"}, 4, "nodes.count: 2 nodes wanted, but nodes.select.names lists 1"),
    ("a node named twice", {"nodes": "nodes: {select: {names: [a, b, a]}}"}, 4, "nodes.select.names: a node is listed twice"),
    ("a partition of what nodes own", {"data": "data: {local: true, partition: {kind: shards}}"}, 4, "data.partition: nodes that own their data"),
    ("alpha of a partition without", {"data": "data: {partition: {kind: iid, alpha: 0.1}}"}, 4, "data.partition.alpha: only kind: dirichlet reads it, this is iid; remove the key"),
    ("shards of a partition without", {"data": "data:\n  partition: {kind: dirichlet, shards_per_node: 3}"}, 5, "data.partition.shards_per_node: only kind: shards reads it"),
    ("momentum with adam", {"train": "train: {optimizer: adam, momentum: 0.9}"}, 4, "train.momentum: adam has momentum of its own"),
    ("held out for nothing", {"evaluation": "evaluation: {holdout: 0.3}"}, 4, "evaluation.holdout: only where: federated reads it, this is central"),
    ("how often of nothing", {"evaluation": "evaluation: {where: none, every: 3}"}, 4, "evaluation.every: nothing is evaluated with where: none"),
    ("staleness of what is dropped", {"stragglers": "stragglers: {staleness: 0.7}"}, 4, "stragglers.staleness: late updates are dropped"),
    ("rounds of what is dropped", {"stragglers": "stragglers: {late_rounds: 7}"}, 4, "stragglers.late_rounds: late updates are dropped"),
    ("grace without a quorum", {"stragglers": "stragglers: {deadline_s: 9, grace_s: 3}"}, 4, "stragglers.grace_s: the adaptive deadline needs a quorum below 1"),
    ("mad factor without a quorum", {"stragglers": "stragglers: {mad_factor: 3}"}, 4, "stragglers.mad_factor: the adaptive deadline needs a quorum"),
    ("server's rate without optimizer", {"method": "method: {name: fedavg, server_lr: 0.5}"}, 2, "method.server_lr: only server_optimizer: momentum or adam reads it"),
    ("beta2 of momentum", {"method": "method: {name: fedavg, server_optimizer: momentum, beta2: 0.5}"}, 2, "method.beta2: only server_optimizer: adam reads it"),
    ("stragglers of gossip", {"method": "method: {name: gossip}", "stragglers": "stragglers: {deadline_s: 9}"}, 4, "stragglers: method gossip does not read this section; remove it"),
    ("stragglers of fcddt", {"method": "method: {name: fcddt}", "stragglers": "stragglers: {deadline_s: 9}"}, 4, "stragglers: method fcddt does not read this section; remove it"),
    ("section twice", {"model2": "model: {name: cnn}"}, 4, "model: key given twice, first on line 3"),
    ("a section that is none", {"train": "train: 3"}, 4, "train: expected a mapping (key: value), got 3"),
    ("an empty section", {"train": "train:"}, 4, "train: expected a mapping (key: value), got nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "line", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_job_is_told_in_one_line(tmp_path: Path, sections: dict[str, str | None], line: int, said: str) -> None:
    path = job_file(tmp_path, **sections)
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:{line}: {said}")
    assert text.isprintable()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"rounds": -1}}, "job digits-7: train.rounds: expected an integer ≥ 1, got -1"),
        ({"train": {"lr": float("nan")}}, "job digits-7: train.lr: expected a number > 0, got nan"),
        ({"method": {"name": "fedavg", "local_steps": float("inf")}}, "job digits-7: method.local_steps: expected a finite number, got inf"),
        ({"model": {"name": "nosuch"}}, "job digits-7: model.name"),
        ({"model": 3}, "job digits-7: model: expected a mapping (key: value), got 3"),
        ({"extra": 1}, "job digits-7: extra: unknown key"),
    ],
)
def test_a_bad_job_from_the_wire_is_told_the_same_way(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    spec = {**job_spec(load_job(job_file(tmp_path))), **change}
    with pytest.raises(ConfigError) as caught:
        job_from(spec, "job digits-7")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("sections", "line", "said"),
    [
        ({"model": "model: {name: mlp, classes: 3}"}, 3, "model.classes: 3 outputs, but digits has 10 classes; say 10 or more, or remove the key"),
        ({"model": "model: {name: mlp, input_shape: [64], classes: 10}"}, 3, "model.input_shape: [64], but examples of digits have shape [1, 8, 8]"),
        ({"model": "model: {name: lenet5}"}, 3, "model: model lenet5, block c2: a 5x5 convolution does not fit"),
        ({"model": "model: {name: cnn}", "data": "data: {name: uci-har}"}, 3, "model: model cnn, block c1: a 3x3 convolution needs images"),
    ],
)
def test_a_model_that_does_not_fit_a_known_data_set_is_told_without_nodes(
    tmp_path: Path, sections: dict[str, str | None], line: int, said: str
) -> None:
    path = job_file(tmp_path, **sections)
    load_job(path)  # the nodes' own files have the last word
    with pytest.raises(ConfigError) as caught:
        load_job(path, fit=True)
    assert str(caught.value).startswith(f"{path}:{line}: {said}")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_models_of_all_examples_fit(path: Path) -> None:
    load_job(path, fit=True)


def test_a_data_set_that_only_nodes_know_is_not_judged(tmp_path: Path) -> None:
    load_job(job_file(tmp_path, data="data: {name: machines}", model="model: {name: lenet5, classes: 2}"), fit=True)


def test_the_types_name_a_range_for_every_number() -> None:
    """A key that takes any number is a key that nobody has thought about."""
    loose = []

    def visit(type: Any, path: str) -> None:
        for field in msgspec.inspect.type_info(type).fields:
            options = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else [field.type]
            for option in options:
                if isinstance(option, msgspec.inspect.StructType):
                    visit(option.cls, f"{path}{field.name}.")
                elif isinstance(option, msgspec.inspect.IntType | msgspec.inspect.FloatType) and option.ge is None and option.gt is None:
                    loose.append(f"{path}{field.name}")

    visit(JobFile, "")
    assert loose == []


def test_files_of_the_nodes_cannot_tell_the_shape_and_validate_says_so(tmp_path: Path):
    path = tmp_path / "gait.yaml"
    path.write_text("name: gait\nmethod: {name: fedavg}\nmodel: {name: mlp}\ndata: {name: gait, local: true}\n")
    with pytest.raises(ConfigError, match=r"say model\.input_shape and model\.classes"):
        load_job(path, fit=True)
    path.write_text(path.read_text().replace("{name: mlp}", "{name: mlp, input_shape: [6], classes: 3}"))
    assert load_job(path, fit=True).data.local
