"""A user's own module is cut, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch.nn.functional import cross_entropy

from fog_common.errors import ConfigError
from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import Evaluation, JobFile, Privacy, Train
from fog_learning.models import resolve_model
from fog_learning.models.build import build
from fog_learning.models.imported import block_names, facts, segment, split
from support import modules
from support.inline import Inline

pytestmark = pytest.mark.thorough

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(kind: type[torch.nn.Module], **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(SHAPE, 4, **options)


def test_blocks_are_named_in_the_order_of_their_use():
    assert block_names(made(modules.Residual), SHAPE) == ("stem", "deep", "body", "head")
    assert block_names(made(modules.Wrapped), SHAPE) == ("net.1", "net.3", "net.5")


@pytest.mark.parametrize("kind", [modules.Residual, modules.Wrapped, modules.Dropping])
def test_the_parts_of_every_cut_are_the_whole(kind: type[torch.nn.Module]):
    whole = made(kind)
    names = block_names(whole, SHAPE)
    x = torch.randn(5, *SHAPE)
    for border in range(1, len(names)):
        front, trunk = segment(whole, SHAPE, 0, border), segment(whole, SHAPE, border, None)
        torch.manual_seed(1)
        parts = trunk(front(x))
        torch.manual_seed(1)
        assert torch.allclose(parts, whole.train()(x), atol=1e-6)
        assert {name for part in (front, trunk) for name, _ in part.named_parameters()} == {name for name, _ in whole.named_parameters()}


def test_a_middle_segment_is_cut_on_both_sides():
    whole = made(modules.Residual)
    parts = [segment(whole, SHAPE, 0, 1), segment(whole, SHAPE, 1, 3), segment(whole, SHAPE, 3, None)]
    x = value = torch.randn(4, *SHAPE)
    for part in parts:
        value = part(value)
    assert torch.allclose(value, whole(x), atol=1e-6)
    assert {name.split(".")[0] for name, _ in parts[1].named_parameters()} == {"deep", "body"}


@pytest.mark.parametrize(
    ("kind", "before", "why"),
    [
        (modules.Branching, "second", "its control flow depends on data; write forward without Python branches"),
        (modules.Skipping, "third", "2 tensors cross the cut"),
        (modules.Tied, "third", "tied weights|used on both sides"),
        (modules.Normalised, "second", r"training changes its buffer norm\.running_mean.*use GroupNorm"),
        (modules.Baked, "second", "batch"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(kind: type[torch.nn.Module], before: str, why: str):
    with pytest.raises(ConfigError, match=why):
        split(made(kind), SHAPE, [before])


def test_a_block_that_is_used_twice_is_refused():
    with pytest.raises(ConfigError, match="uses its block second 2 times"):
        block_names(made(modules.Repeating), SHAPE)


def test_a_weight_that_is_never_used_is_refused():
    whole = made(modules.Residual)
    whole.extra = torch.nn.Linear(3, 3)
    with pytest.raises(ConfigError, match=r"forward does not use extra\."):
        split(whole, SHAPE, ["body"])


def test_an_impossible_segment_is_refused_with_the_names():
    with pytest.raises(ConfigError, match=r"blocks 0\.\.3 \(stem, deep, body, head\), not 2\.\.5"):
        segment(made(modules.Residual), SHAPE, 2, 6)


def test_without_the_splitter_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.distributed.pipelining", None)
    with pytest.raises(ConfigError, match=r"torch\.distributed\.pipelining.*install torch 2\.5"):
        split(made(modules.Residual), SHAPE, ["body"])


def test_facts_of_blocks_add_up_to_those_of_the_module():
    whole = made(modules.Residual)
    blocks, impossible = facts(whole, SHAPE)
    assert not impossible
    assert [block.name for block in blocks] == ["stem", "deep", "body", "head"]
    assert sum(block.parameters for block in blocks) == sum(parameter.numel() for parameter in whole.parameters())
    assert [block.output_shape for block in blocks] == [(6, 8, 8), (96,), (16,), (4,)]
    assert [block.activation_bytes for block in blocks] == [6 * 64 * 4, 96 * 4, 16 * 4, 4 * 4]
    linear = 2 * 16 * 4
    assert blocks[3].flops == linear and blocks[0].flops == 2 * 9 * 6 * 64


def test_facts_say_where_no_cut_is_possible():
    _, impossible = facts(made(modules.Skipping), SHAPE)
    assert list(impossible) == ["second"]


def test_facts_agree_with_those_of_our_own_models():
    spec = resolve_model({"name": "cnn", "channels": [4, 6]}, (1, 12, 12), 4)
    ours = {block.name: (block.parameters, block.flops, block.output_shape) for block in spec.facts()}
    measured, impossible = facts(build(spec), (1, 12, 12))
    assert not impossible
    for block in measured:
        parameters, flops, _ = ours[block.name]
        assert (block.parameters, block.flops) == (parameters, flops)


# -- trained by fcddt ----------------------------------------------------------------------


def job_for(cut: int | str, **method: Any) -> JobFile:
    model = {"import": "support.modules:Residual", "arguments": {"width": 4}}
    train = Train(rounds=2, batch_size=16, lr=0.05, momentum=0.9, dtype="float64")
    return JobFile("own", {"name": "fcddt", "cut": cut, "round_steps": 10, **method}, model, train=train, evaluation=Evaluation("none"), seed=3)


def backend_for(job: JobFile, slots: int, *, allow: tuple[str, ...] = ("support.modules",)) -> TorchBackend:
    return TorchBackend(job, {f"front-{slot}": slot for slot in range(slots)}, slots, device="cpu", threads=1, evaluates=True, allow_models=allow)


def whole_losses(job: JobFile, slots: int) -> list[float]:
    """Of the uncut module on the union batch."""
    backend = backend_for(job, slots)
    module = backend.models.module().train()
    backend.models.load(module, backend.models.first_weights())
    optimiser, losses = torch.optim.SGD(module.parameters(), lr=job.train.lr, momentum=job.train.momentum), []
    for step in range(20):
        batches = [backend.batches.at(slot, step) for slot in range(slots)]
        loss = cross_entropy(module(torch.cat([x for x, _ in batches])), torch.cat([y for _, y in batches]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(("cut", "method"), [(1, {}), ("deep", {}), ("body", {}), (1, {"u_shaped": True})])
def test_training_the_cut_module_is_training_the_whole_one(cut: int | str, method: dict[str, Any]):
    job = job_for(cut, **method)
    run = Inline(job, backend_for(job, 2), 2)
    assert run.backend.preflight() == []
    run.run()
    assert run.measured["loss"] == pytest.approx(whole_losses(job, 2), rel=1e-9)
    assert set(run.weights()) == set(run.backend.models.first_weights())


# -- random numbers of a module ------------------------------------------------------------


def dropping(method: dict[str, Any], global_seed: int, restarts: bool = False) -> list[float]:
    """Losses of 20 steps; restarts: the root dies after 13 of them and goes on from its Save."""
    job = job_for(1)
    privacy = Privacy(share_samples=method["name"] == "centralized")
    job = replace(job, method=method, model={"import": "support.modules:Dropping"}, privacy=privacy)
    run = Inline(job, backend_for(job, 2), 2)
    torch.manual_seed(global_seed)
    while run.finished is None:
        name, event = run.queue.popleft()
        run._perform(name, run.machines[name].step(event, 0.0))
        if restarts and len(run.measured.get("loss", [])) == 13 and run.peers[run.root].incarnation == 1:
            run.restart(run.root)
    assert not run.finished.why
    return run.measured["loss"]


@pytest.mark.parametrize("method", [{"cut": 1}, {"cut": 2}, {"cut": 1, "u_shaped": True}, {"cut": 2, "backward": "frozen_front"}])
def test_dropout_is_a_function_of_seed_slot_and_step(method: dict[str, Any]):
    fcddt = {"name": "fcddt", "round_steps": 10, **method}
    once, again = dropping(fcddt, 1), dropping(fcddt, 2, restarts=True)
    assert once[:13] == again[:13]
    assert once[10:] == again[13:], "what is computed again after the Save is the same"


def test_dropout_of_centralized_training_too():
    central = {"name": "centralized", "round_steps": 5}
    assert dropping(central, 1) == dropping(central, 2)


def test_preflight_names_what_is_wrong_with_the_cut_of_a_module():
    job = job_for("tail")
    assert backend_for(job, 1).preflight() == ["method.cut: the model has no block 'tail'; it has stem, deep, body, head"]
    other = JobFile("own", job.method | {"cut": "first"}, {"import": "support.modules:Branching"}, train=job.train, evaluation=Evaluation("none"))
    (problem,) = backend_for(other, 1).preflight()
    assert "its control flow depends on data" in problem


def test_a_worker_without_data_describes_the_blocks_to_the_coordinator():
    """What placement needs of a module whose costs only torch can tell; nodes with data need not look as well."""
    job = JobFile(
        "own",
        {"name": "fcddt", "cut": "stem"},
        {"import": "support.modules:Residual", "input_shape": list(SHAPE), "classes": 4},
        evaluation=Evaluation(where="none"),
    )
    trunk = TorchBackend(job, {}, 2, device="cpu", threads=1, allow_models=("support.modules",))
    assert trunk.blocks == ()
    assert trunk.preflight() == []
    expected = facts(build(trunk.models.spec, seed=job.seed).eval(), SHAPE)[0]
    assert [(block.name, block.output_shape, block.parameters, block.flops) for block in trunk.blocks] == [
        (block.name, block.output_shape, block.parameters, block.flops) for block in expected
    ]
    averaged = TorchBackend(
        JobFile("own", {"name": "fedavg"}, job.model, evaluation=job.evaluation), {}, 2, device="cpu", threads=1, allow_models=("support.modules",)
    )
    assert averaged.preflight() == []
    (all_,) = averaged.blocks
    assert (all_.parameters, all_.flops, all_.output_shape) == (sum(b.parameters for b in expected), sum(b.flops for b in expected), (4,))
