"""Training the cut model is training the whole one on the union batch: every loss, at every cut, on any number of nodes.

In float32 the rates are small on purpose. A ReLU input that crosses zero in its last digit moves later losses by 1e-4 at large
rates, in the whole model too when nothing but the order of its rows changes; in float64 that does not happen, and rates are large.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fog_learning.job import Data, Evaluation, Job, Partition, Train
from fog_learning.methods import resolve_method, traffic
from fog_learning.methods.fcddt_messages import Plan
from fog_learning.models import resolve_model
from fog_learning.models.build import build
from fog_learning.ops import Workbench
from fog_learning.ops.split import packed
from support.inline import Inline

MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "mlp": ({"name": "mlp", "hidden": [16, 12, 8]}, 4),
    "cnn": ({"name": "cnn", "channels": [4, 6], "hidden": 12}, 4),
    "lenet5": ({"name": "lenet5"}, 5),
}
OPTIMIZERS: dict[str, dict[str, Any]] = {"sgd": {"lr": 0.1}, "momentum": {"lr": 0.05, "momentum": 0.9}, "adam": {"optimizer": "adam", "lr": 0.002}}
FLOAT32_RATES = {"sgd": 0.02, "momentum": 0.005, "adam": 1e-4}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 images of 12x12 in 4 classes that a model can learn, with noise enough that the loss stays away from 0."""
    random = np.random.RandomState(5)
    y = np.arange(180) % 4
    means = random.uniform(60, 190, (4, 1, 12, 12))
    x = np.clip(means[y] + random.normal(0, 90, (180, 1, 12, 12)), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("toy") / "toy.npz"
    np.savez(path, x_train=x[:140], y_train=y[:140], x_test=x[140:], y_test=y[140:])
    return path


def job_for(model: str, optimizer: str, steps: int, nodes: int, dtype: str = "float32", evaluation: str = "none", **method: Any) -> Job:
    train = OPTIMIZERS[optimizer] if dtype == "float64" else {**OPTIMIZERS[optimizer], "lr": FLOAT32_RATES[optimizer]}
    return Job(
        "equal",
        {"name": "fcddt", "round_steps": 10, **method},
        MODELS[model][0],
        data=Data("toy", Partition("dirichlet", alpha=0.3)),
        train=Train(rounds=steps // 10, batch_size=16, dtype=dtype, **train),
        evaluation=Evaluation(evaluation),
        seed=nodes,
    )


def bench_of(job: Job, toy: Path, nodes: int) -> Workbench:
    return Workbench(job, {f"front-{slot}": slot for slot in range(nodes)} | {"trunk": -1}, nodes, {"toy": str(toy)}, env={})


def losses_of(job: Job, toy: Path, nodes: int) -> tuple[list[float], Inline]:
    inline = Inline(job, bench_of(job, toy, nodes), nodes)
    inline.run()
    return inline.measured["loss"], inline


def whole(job: Job, bench: Workbench, steps: int, nodes: int, frozen: tuple[str, ...] = ()) -> list[float]:
    """torch's own optimiser on the uncut model and the union of the nodes' batches. frozen: beginnings of the names that stay."""
    module = build(bench.spec, seed=job.seed, dtype=bench.dtype)
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
        batches = [bench.batch(slot, step) for slot in range(nodes)]
        loss = cross_entropy(module(torch.cat([x for x, _ in batches])), torch.cat([y for _, y in batches]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def worst(cut: list[float], uncut: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(cut, uncut, strict=True))


CUTS = [
    (model, cut, shaped) for model, (_, blocks) in MODELS.items() for cut in range(1, blocks) for shaped in (False, True) if cut < blocks - shaped
]
CASES = [(model, cut, shaped, optimizer, 1 + (i + j) % 5) for i, (model, cut, shaped) in enumerate(CUTS) for j, optimizer in enumerate(OPTIMIZERS)]


@pytest.mark.parametrize(("model", "cut", "shaped", "optimizer", "nodes"), CASES)
def test_the_first_50_losses_are_those_of_the_uncut_model(toy: Path, model: str, cut: int, shaped: bool, optimizer: str, nodes: int) -> None:
    job = job_for(model, optimizer, 50, nodes, cut=cut, u_shaped=shaped)
    losses, inline = losses_of(job, toy, nodes)
    assert len(losses) == 50
    assert worst(losses, whole(job, inline.bench, 50, nodes)) < 1e-5


@pytest.mark.parametrize(("optimizer", "shaped"), [("sgd", False), ("momentum", True), ("adam", False)])
@pytest.mark.parametrize("model", MODELS)
def test_200_losses_in_float64(toy: Path, model: str, optimizer: str, shaped: bool) -> None:
    job = job_for(model, optimizer, 200, 3, "float64", cut=2, u_shaped=shaped)
    losses, inline = losses_of(job, toy, 3)
    expected = whole(job, inline.bench, 200, 3)
    assert worst(losses, expected) < 1e-9
    assert sum(expected[-20:]) < 0.9 * sum(expected[:20]), "it learns something"


def test_batches_of_the_nodes_are_unequal_here(toy: Path) -> None:
    different = 0
    for nodes in range(2, 6):
        bench = bench_of(job_for("mlp", "sgd", 10, nodes), toy, nodes)
        different += len({len(bench.batch(slot, 0)[1]) for slot in range(nodes)}) > 1
    assert different >= 2


def test_a_wrong_gradient_would_be_seen(toy: Path) -> None:
    job = job_for("cnn", "adam", 50, 3, cut=2)
    losses, inline = losses_of(job, toy, 3)
    assert worst(losses, whole(job, inline.bench, 50, 2)) > 1e-3, "one node less"


# -- what else is exact ------------------------------------------------------------------------


def test_a_frozen_front_is_the_whole_model_with_its_front_fixed(toy: Path) -> None:
    job = job_for("cnn", "momentum", 50, 3, "float64", cut="c2", backward="frozen_front")
    losses, inline = losses_of(job, toy, 3)
    assert worst(losses, whole(job, inline.bench, 50, 3, frozen=("c1.", "c2."))) < 1e-9


@pytest.mark.parametrize("method", [{}, {"u_shaped": True}, {"sync_every": 5}, {"backward": "frozen_front"}])
def test_a_trunk_that_restarts_continues_with_the_same_losses(toy: Path, method: dict[str, Any]) -> None:
    job = job_for("cnn", "adam", 40, 3, cut=1, **method)
    undisturbed, one = losses_of(job, toy, 3)
    inline = Inline(job, bench_of(job, toy, 3), 3)
    while inline.finished is None:
        name, event = inline.queue.popleft()
        inline._perform(name, inline.machines[name].step(event, 0.0))
        if len(inline.measured.get("loss", [])) == 27 and inline.peers["trunk"].incarnation == 1:
            inline.restart("trunk")
    losses = inline.measured["loss"]
    assert losses[:20] + losses[27:] == undisturbed, "from the Save of step 20 on, the same again"
    assert losses[20:27] == undisturbed[20:27]
    ours, theirs = inline.weights(), one.weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_result_is_the_whole_model_and_was_evaluated(toy: Path) -> None:
    job = job_for("mlp", "adam", 120, 3, "float64", evaluation="central", cut=1, u_shaped=True)
    _, inline = losses_of(job, toy, 3)
    weights = inline.weights()
    assert list(weights) == list(inline.bench.spec.parameter_shapes())
    numbers = inline.bench.run("evaluate", "trunk", {"weights": weights}, {})[1]
    assert inline.finished is not None
    assert inline.finished.numbers["accuracy"] == numbers["accuracy"] > 0.5


# -- what is not exact, and by how much --------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "bound"), [({"wire": "float16"}, 2e-2), ({"wire": "int8"}, 0.2), ({"sync_every": 5}, 0.5), ({"sync_every": 5, "u_shaped": True}, 0.5)]
)
def test_variants_that_give_up_exactness_stay_near(toy: Path, method: dict[str, Any], bound: float) -> None:
    job = job_for("cnn", "sgd", 50, 3, "float64", cut=1, **method)
    losses, inline = losses_of(job, toy, 3)
    distance = worst(losses, whole(job, inline.bench, 50, 3))
    assert 1e-7 < distance < bound


def test_with_one_node_sync_every_changes_nothing_for_plain_sgd(toy: Path) -> None:
    job = job_for("cnn", "sgd", 50, 1, "float64", cut=1, sync_every=5)
    losses, inline = losses_of(job, toy, 1)
    assert worst(losses, whole(job, inline.bench, 50, 1)) < 1e-9


def test_int8_rows_are_within_half_a_step_of_their_scale() -> None:
    values = torch.randn(7, 3, 5) * torch.logspace(-3, 3, 7)[:, None, None]
    sent = packed("z", values, "int8")
    back = sent["z"] * sent["z.scale"][:, None, None]
    assert bool(((back - values).abs() <= 0.501 * sent["z.scale"][:, None, None]).all())
    assert bool((packed("z", torch.zeros(2, 3), "int8")["z"] == 0).all())


# -- bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [{}, {"sync_every": 5}, {"u_shaped": True}, {"backward": "frozen_front"}, {"wire": "float16"}, {"wire": "int8"}])
def test_bytes_sent_are_those_of_the_formula(toy: Path, method: dict[str, Any]) -> None:
    nodes, steps = 4, 20
    job = job_for("cnn", "sgd", steps, nodes, cut=1, **method)
    _, inline = losses_of(job, toy, nodes)
    _, plan = resolve_method(job)
    assert isinstance(plan, Plan)
    expected = traffic.fcddt(inline.bench.spec, plan, [len(inline.bench.batch(slot, 0)[1]) for slot in range(nodes)])
    sent = inline.sent_bytes
    up = sum(sent.get(kind, 0) for kind in ("Rows", "Heads", "Local")) / steps
    down = sum(sent.get(kind, 0) for kind in ("Cut", "Features")) / steps
    headers = 300 * 2 * nodes
    assert expected.up <= up <= 1.01 * expected.up + headers
    assert expected.down <= down <= 1.01 * expected.down + headers
    assert sent["Step"] / steps == pytest.approx(expected.cast, rel=0.05, abs=2000 / steps * (2 if plan.frozen else 0) + 600)


def test_the_papers_counts() -> None:
    spec = resolve_model({"name": "mlp", "hidden": [64]}, (784,), 10)
    assert paper_counts(spec) == (113_280 // 2, 101_780, 78_400)


def paper_counts(spec: Any) -> tuple[int, int, int]:
    """Per node and step at B = 100: FCDDT, FL, CC."""
    return traffic.paper_fcddt(spec, 1, [100]), traffic.paper_fl(spec, 1), traffic.paper_cc(spec, [100])
