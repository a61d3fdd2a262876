"""Training the cut model is training the whole one on the union batch: every loss, at every cut, on any number of nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fog_common.errors import OpError
from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import JobFile
from fog_learning.methods import resolve_method
from fog_learning.methods.centralized import traffic as centralized_traffic
from fog_learning.methods.fcddt import traffic as fcddt_traffic
from fog_learning.methods.fcddt.messages import Plan
from fog_learning.methods.fedavg import traffic as fedavg_traffic
from fog_learning.models import resolve_model
from fog_learning.ops.split import packed
from fog_learning.ops.values import Weights
from support import uncut
from support.inline import Inline
from support.uncut import BOUNDS, MODELS, OPTIMIZERS, STEPS, backend_of, job_for, sizes_of, whole, worst

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uncut.toy(tmp_path_factory.mktemp("toy"))


def losses_of(job: JobFile, toy: Path, nodes: int, backend: TorchBackend | None = None) -> tuple[list[float], Inline]:
    inline = Inline(job, backend or backend_of(job, toy, nodes), nodes)
    inline.run()
    return inline.measured["loss"], inline


@cache
def expected(toy: Path, model: str, optimizer: str, nodes: int, dtype: str) -> list[float]:
    """The whole model's losses, which know of no cut."""
    job = job_for(model, optimizer, nodes, dtype)
    return whole(job, backend_of(job, toy, nodes), STEPS[dtype], nodes)


def distance(toy: Path, model: str, cut: int, shaped: bool, optimizer: str, nodes: int, dtype: str) -> float:
    losses, _ = losses_of(job_for(model, optimizer, nodes, dtype, cut=cut, u_shaped=shaped), toy, nodes)
    assert len(losses) == STEPS[dtype]
    return worst(losses, expected(toy, model, optimizer, nodes, dtype))


CUTS = [
    (model, cut, shaped) for model, (_, blocks) in MODELS.items() for cut in range(1, blocks) for shaped in (False, True) if cut < blocks - shaped
]
NAMES = list(OPTIMIZERS)
# every cut on every number of nodes; the optimisers take turns, so that each meets every cut and every number of nodes
CASES = [(*cut, NAMES[(i + nodes) % 3], nodes) for i, cut in enumerate(CUTS) for nodes in range(1, 6)]
CASES64 = [(*cut, NAMES[i % 3], 3 - i // 3 % 3) for i, cut in enumerate(CUTS)]
ALL = [(*cut, optimizer, nodes) for cut in CUTS for optimizer in OPTIMIZERS for nodes in range(1, 6)]


@pytest.mark.parametrize(("model", "cut", "shaped", "optimizer", "nodes"), CASES)
def test_the_first_50_losses_are_those_of_the_uncut_model(toy: Path, model: str, cut: int, shaped: bool, optimizer: str, nodes: int) -> None:
    assert distance(toy, model, cut, shaped, optimizer, nodes, "float32") < BOUNDS["float32"]


@pytest.mark.parametrize(("model", "cut", "shaped", "optimizer", "nodes"), CASES64)
def test_200_losses_in_float64(toy: Path, model: str, cut: int, shaped: bool, optimizer: str, nodes: int) -> None:
    assert distance(toy, model, cut, shaped, optimizer, nodes, "float64") < BOUNDS["float64"]
    losses = expected(toy, model, optimizer, nodes, "float64")
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20]), "it learns something"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", STEPS)
@pytest.mark.parametrize(("model", "cut", "shaped", "optimizer", "nodes"), ALL)
def test_every_cut_with_every_optimizer_on_every_number_of_nodes(
    toy: Path, model: str, cut: int, shaped: bool, optimizer: str, nodes: int, dtype: str
) -> None:
    assert distance(toy, model, cut, shaped, optimizer, nodes, dtype) < BOUNDS[dtype]


def test_the_cases_hold_every_pair_that_matters() -> None:
    assert {(case[:3], case[4]) for case in CASES} == {(cut, nodes) for cut in CUTS for nodes in range(1, 6)}
    assert {(case[:3], case[3]) for case in CASES} == {(cut, optimizer) for cut in CUTS for optimizer in OPTIMIZERS}
    assert {case[3:] for case in CASES} == {(optimizer, nodes) for optimizer in OPTIMIZERS for nodes in range(1, 6)}
    assert {case[:3] for case in CASES64} == set(CUTS)


@pytest.mark.parametrize("nodes", range(2, 6))
def test_batches_of_the_nodes_are_unequal_here(toy: Path, nodes: int) -> None:
    sizes = sizes_of(backend_of(job_for("mlp", "sgd", nodes), toy, nodes), nodes)
    assert max(sizes) >= 1.5 * min(sizes)


# -- that the comparison sees what is wrong ----------------------------------------------------


class Wrong(TorchBackend):
    """Something is done to what goes into an op."""

    spoil: Callable[[str, dict[str, Any], dict[str, Any]], None]

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Any:
        ours, counts = dict(inputs), dict(numbers)
        self.spoil(op, ours, counts)
        return super().run(op, task, ours, counts)


def a_front_forgotten(op: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> None:
    if op == "split_apply":
        inputs.pop("gradient1")


def gradients_of_each_nodes_own_mean(op: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> None:
    """dl/dz scaled by N / B, the gradients summed all the same."""
    if op in ("trunk_step", "trunk_backward"):
        numbers["own"] = 1


def no_momentum_on_the_nodes(op: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> None:
    if op == "split_apply" and "opt" in inputs:
        for name in inputs["local"]:
            inputs["opt"].pop(f"momentum/{name}", None)


def a_mean_in_the_place_of_the_sum(op: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> None:
    if op == "split_apply":
        for slot in range(3):
            inputs[f"gradient{slot}"] = Weights({name: gradient / 3 for name, gradient in inputs[f"gradient{slot}"].items()})


def a_node_is_one_step_behind(op: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> None:
    if op == "front_forward" and numbers["slot"] == 0:  # it has more rows than go into a batch
        numbers["step"] = max(1, numbers["step"] - 1)


SPOILS = [a_front_forgotten, gradients_of_each_nodes_own_mean, no_momentum_on_the_nodes, a_mean_in_the_place_of_the_sum, a_node_is_one_step_behind]


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_wrong_would_be_seen(toy: Path, model: str, spoil: Any) -> None:
    job = job_for(model, "momentum", 3, cut=2)
    backend = Wrong(job, {f"front-{slot}": slot for slot in range(3)} | {"trunk": -1}, 3, {"toy": str(toy)}, env={})
    backend.spoil = spoil
    losses, _ = losses_of(job, toy, 3, backend)
    assert worst(losses, expected(toy, model, "momentum", 3, "float32")) > 10 * BOUNDS["float32"]


# -- what else is exact ------------------------------------------------------------------------


def test_a_frozen_front_is_the_whole_model_with_its_front_fixed(toy: Path) -> None:
    job = job_for("cnn", "momentum", 3, "float64", steps=50, cut="c2", backward="frozen_front")
    losses, inline = losses_of(job, toy, 3)
    assert worst(losses, whole(job, inline.backend, 50, 3, frozen=("c1.", "c2."))) < 1e-9


@pytest.mark.parametrize("method", [{}, {"u_shaped": True}, {"sync_every": 5}, {"backward": "frozen_front"}])
def test_a_trunk_that_restarts_continues_with_the_same_losses(toy: Path, method: dict[str, Any]) -> None:
    job = job_for("cnn", "adam", 3, steps=40, cut=1, **method)
    undisturbed, one = losses_of(job, toy, 3)
    inline = Inline(job, backend_of(job, toy, 3), 3)
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
    job = job_for("mlp", "adam", 3, "float64", steps=120, evaluation="central", cut=1, u_shaped=True)
    _, inline = losses_of(job, toy, 3)
    weights = inline.weights()
    assert list(weights) == list(inline.backend.models.spec.parameter_shapes())
    numbers = inline.backend.run("evaluate", "trunk", {"weights": weights}, {})[1]
    assert inline.finished is not None
    assert inline.finished.numbers["accuracy"] == numbers["accuracy"] > 0.5


# -- what is not exact, and by how much --------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "bound"), [({"wire": "float16"}, 2e-2), ({"wire": "int8"}, 0.2), ({"sync_every": 5}, 0.5), ({"sync_every": 5, "u_shaped": True}, 0.5)]
)
def test_variants_that_give_up_exactness_stay_near(toy: Path, method: dict[str, Any], bound: float) -> None:
    job = job_for("cnn", "sgd", 3, "float64", steps=50, cut=1, **method)
    losses, inline = losses_of(job, toy, 3)
    assert 1e-7 < worst(losses, whole(job, inline.backend, 50, 3)) < bound


def test_with_one_node_sync_every_changes_nothing_for_plain_sgd(toy: Path) -> None:
    job = job_for("cnn", "sgd", 1, "float64", steps=50, cut=1, sync_every=5)
    losses, inline = losses_of(job, toy, 1)
    assert worst(losses, whole(job, inline.backend, 50, 1)) < 1e-9


def test_int8_rows_are_within_half_a_step_of_their_scale() -> None:
    values = torch.randn(7, 3, 5) * torch.logspace(-3, 3, 7)[:, None, None]
    sent = packed("z", values, "int8")
    back = sent["z"] * sent["z.scale"][:, None, None]
    assert bool(((back - values).abs() <= 0.501 * sent["z.scale"][:, None, None]).all())
    assert bool((packed("z", torch.zeros(2, 3), "int8")["z"] == 0).all())


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0, 1e7])
def test_float16_keeps_small_and_large_rows(size: float) -> None:
    """Plain float16 holds nothing below 6e-8 and nothing above 65504."""
    values = torch.tensor([[1.0, -0.5, 0.01], [0.0, 0.0, 0.0]]) * size
    sent = packed("z", values, "float16")
    assert sent["z"].dtype == torch.float16
    back = sent["z"].float() * sent["z.scale"][:, None]
    assert torch.allclose(back, values, rtol=1e-3, atol=0.0)


# -- what is refused ---------------------------------------------------------------------------


def rows_of(backend: TorchBackend, **changed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of a trunk_step, with labels of slot 1 as given (None: missing)."""
    first = backend.run("split_init", "trunk", {}, {})[0]
    rows = {
        f"rows{slot}": backend.run("front_forward", f"front-{slot}", {"local": first["local"]}, {"slot": slot, "step": 1})[0]["rows"]
        for slot in (0, 1)
    }
    for name, value in changed.items():
        rows["rows1"].pop(name)
        if value is not None:
            rows["rows1"][name] = value
    return {"trunk": first["trunk"], **rows}, {"step": 1, "own": 0}


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (None, "slot 1 sent activations without labels.* say method.u_shaped: true"),
        (torch.zeros(3, dtype=torch.uint8), "slot 1 sent 3 labels for 9 rows"),
        (torch.full((9,), 7, dtype=torch.uint8), "slot 1 sent label 7, the model has 4 outputs"),
        (torch.full((9,), -1, dtype=torch.int32), "slot 1 sent label -1, the model has 4 outputs"),
    ],
)
def test_labels_that_the_trunk_cannot_use_are_refused_by_the_slots_name(toy: Path, labels: Any, text: str) -> None:
    backend = backend_of(job_for("mlp", "sgd", 2), toy, 2)
    inputs, numbers = rows_of(backend, labels=labels)
    with pytest.raises(OpError, match=text):
        backend.run("trunk_step", "trunk", inputs, numbers)


# -- bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [{}, {"sync_every": 5}, {"u_shaped": True}, {"backward": "frozen_front"}, {"wire": "float16"}, {"wire": "int8"}])
def test_bytes_sent_are_those_of_the_formula(toy: Path, method: dict[str, Any]) -> None:
    nodes, steps = 4, 20
    job = job_for("cnn", "sgd", nodes, steps=steps, cut=1, **method)
    _, inline = losses_of(job, toy, nodes)
    _, plan = resolve_method(job)
    assert isinstance(plan, Plan)
    expected = fcddt_traffic.per_step(inline.backend.models.spec, plan, sizes_of(inline.backend, nodes))
    sent = inline.sent_bytes
    up = sum(sent.get(kind, 0) for kind in ("FrontRows", "Heads", "Local")) / steps
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
    return fcddt_traffic.paper(spec, 1, [100]), fedavg_traffic.paper(spec, 1), centralized_traffic.paper(spec, [100])
