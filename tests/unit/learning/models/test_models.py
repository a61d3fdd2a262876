"""Specs against the torch modules built from them, and what a wrong `model:` section says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fog_common.errors import ConfigError, Refused
from fog_learning.models import MODELS, ModelSpec, resolve_model
from fog_learning.models.build import build

SHAPES = {"mlp": (1, 8, 8), "cnn": (1, 8, 8), "lenet5": (1, 28, 28), "leaf_cnn": (1, 28, 28), "vgg16": (3, 32, 32)}
SMALL = {"mlp": {"hidden": [9, 7]}, "leaf_cnn": {"hidden": 33}}


def spec_of(name: str) -> ModelSpec:
    return resolve_model({"name": name, **SMALL.get(name, {})}, SHAPES[name], 10)


def test_every_model_of_the_table_is_tested_here():
    assert set(SHAPES) == set(MODELS)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SHAPES)
def test_spec_says_what_torch_has(name: str):
    spec = spec_of(name)
    module = build(spec)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == spec.parameter_shapes()
    assert sum(parameter.numel() for parameter in module.parameters()) == spec.parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x = torch.zeros(2, *spec.input_shape)
        for facts, block in zip(spec.facts(), module.children(), strict=True):
            assert tuple(x.shape[1:]) == facts.input_shape
            x = block(x)
            assert tuple(x.shape[1:]) == facts.output_shape
            assert x[0].numel() * 4 == facts.activation_bytes
    assert counter.get_total_flops() == 2 * spec.flops
    assert tuple(x.shape) == (2, 10)


@pytest.mark.parametrize("name", ["mlp", "cnn", "lenet5", "leaf_cnn"])
def test_a_cut_model_is_the_whole_model(name: str):
    spec = spec_of(name)
    whole = build(spec, seed=3)
    weights, x = whole.state_dict(), torch.rand(4, *spec.input_shape)
    for cut in range(1, len(spec.blocks)):
        front, trunk = build(spec, 0, cut, seed=3), build(spec, cut, None, seed=3)
        parts = {**front.state_dict(), **trunk.state_dict()}
        assert list(parts) == list(weights)
        assert all(torch.equal(parts[key], weights[key]) for key in weights)
        assert torch.equal(trunk(front(x)), whole(x))


def test_first_weights_depend_on_the_seed_alone():
    spec = spec_of("cnn")
    before = torch.get_rng_state()
    one, same, other = (build(spec, seed=seed).state_dict()["c1.conv.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_first_weights_spread_as_pytorchs_do():
    spec = resolve_model({"name": "mlp", "hidden": [500]}, (400,), 10)
    weight = build(spec).state_dict()["fc1.linear.weight"]
    assert weight.abs().max() <= 400**-0.5
    assert weight.std() == pytest.approx((400 * 3) ** -0.5, rel=0.01)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "resnet"}, "model.name 'resnet' is unknown; allowed: mlp, cnn"),
        ({}, "model.name None is unknown"),
        ({"name": "mlp", "hiden": [64]}, "model.hiden is unknown for model mlp; allowed: name, hidden"),
        ({"name": "mlp", "hidden": "64"}, "model.hidden: Expected `array`, got `str`"),
        ({"name": "mlp", "hidden": [0]}, "model.hidden must be at least 1, got 0"),
        ({"name": "mlp", "classes": 1}, "model.classes must be a whole number of at least 2"),
        ({"name": "mlp", "input_shape": [0]}, "model.input_shape must be 1 to 3 whole numbers"),
        ({"name": "cnn", "kernel": 2}, "model.kernel must be odd"),
        ({"name": "vgg16", "norm": "batch"}, "model.norm: Invalid enum value 'batch'"),
        ({"name": "lenet5"}, r"model lenet5, block c2: a 5x5 convolution does not fit into 4x4 pixels \(the data has shape \(1, 8, 8\)\)"),
        ({"import": "os"}, 'model.import must look like "package.module:Factory"'),
        ({"import": "pkg.mod:Factory", "hidden": 3}, "model.hidden is unknown beside model.import"),
    ],
)
def test_wrong_model_section(model: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        resolve_model(model, (1, 8, 8), 10)


def test_images_are_needed_where_they_are():
    with pytest.raises(ConfigError, match=r"block c1: a 3x3 convolution needs images \(channels, height, width\), not shape \(9, 128\)"):
        resolve_model({"name": "cnn"}, (9, 128), 6)


def test_a_span_outside_the_model_is_refused():
    spec = spec_of("cnn")
    for first, last in ((0, 0), (2, 1), (-1, 2), (0, 9)):
        with pytest.raises(ConfigError, match=r"model cnn has blocks 0..3 \(c1, c2, f1, head\)"):
            spec.span(first, last)


def test_job_file_may_say_shape_and_classes():
    spec = resolve_model({"name": "mlp", "hidden": [], "classes": 62, "input_shape": [1, 28, 28]}, None, None)
    assert (spec.classes, spec.parameters) == (62, 62 * 785)
    with pytest.raises(ConfigError, match=r"say model\.input_shape and model\.classes"):
        resolve_model({"name": "mlp"}, None, None)


def test_a_users_module_needs_the_allow_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "theirs.py").write_text(
        "import torch\n"
        "def Net(input_shape, classes, width=4):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(width) if width < 0 else torch.nn.Linear(64, classes))\n"
        "def Text(input_shape, classes):\n    return 'net'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Refused, match=r"theirs:Net may not be imported on this node \(allowed: none\)"):
        resolve_model({"import": "theirs:Net"}, (1, 8, 8), 10, ())
    for allowed in ("theirs", "theirs:Net"):
        spec = resolve_model({"import": "theirs:Net", "arguments": {"width": 5}}, (1, 8, 8), 10, (allowed,))
        one, same, other = (build(spec, seed=seed).state_dict()["1.weight"] for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    for model, message in (
        ({"import": "theirs:Missing"}, "cannot be imported"),
        ({"import": "theirs:Text"}, "gave a str, not a torch.nn.Module"),
        ({"import": "theirs:Net", "arguments": {"depth": 1}}, "must take input_shape=, classes="),
    ):
        with pytest.raises(ConfigError, match=message):
            build(resolve_model(model, (1, 8, 8), 10, ("theirs",)))


def test_tables_import_neither_numpy_nor_torch():
    code = (
        "import sys, fog_learning.models, fog_learning.data, fog_learning.data.partition, fog_learning.ops, fog_learning.backend.standin\n"
        "fog_learning.models.resolve_model({'name': 'vgg16'}, (3, 32, 32), 10)\n"
        "print(*(m for m in ('numpy', 'torch', 'sklearn', 'PIL') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")
