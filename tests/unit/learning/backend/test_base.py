"""Backends by name: what each of them imports, and that all of them speak one protocol."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fog_learning.backend.base import BACKENDS, open_backend
from fog_learning.job.sections import JobFile

JOB = JobFile("j", {"name": "fedavg"}, {"name": "mlp"})


def loaded_after(code: str, *modules: str) -> list[str]:
    """Those of `modules` that a fresh process has imported after `code`."""
    code += f"\nimport sys\nprint(*(name for name in {modules} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.thorough
def test_a_backend_is_imported_when_it_is_opened():
    modules = ("torch", "numpy", "fog_learning.backend.standin", "fog_learning.backend.plain")
    begin = "from fog_learning.backend.base import open_backend\nfrom fog_learning.job.sections import JobFile\n"
    opened = "open_backend({!r}, JobFile('j', {{'name': 'fedavg'}}, {{'name': 'mlp'}}), {{}}, 2)"
    assert loaded_after(begin, *modules) == []
    assert loaded_after(begin + opened.format("standin"), *modules) == ["fog_learning.backend.standin"]
    assert loaded_after(begin + opened.format("plain"), *modules) == ["fog_learning.backend.plain"]
    assert loaded_after(begin + opened.format("torch"), *modules) == ["torch", "numpy"]


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_goes_from_the_preflight_to_bytes_and_back(name: str):
    backend = open_backend(name, JOB, {"trainer-0": 0}, 2, paths={}, weights={}, allow_models=())
    assert backend.preflight() == []
    backend.assign({"trainer-0": 0, "trainer-1": 1}, 2)
    weights = backend.run("init", "server", {}, {})[0]["weights"]
    trained, numbers = backend.run("train", "trainer-1", {"weights": weights}, {"round": 1, "slot": 1, "steps": 1})
    content = bytes(backend.encode(trained["weights"]))
    assert bytes(backend.encode(backend.decode(content))) == content != bytes(backend.encode(weights))
    assert numbers["examples"] > 0
    assert backend.weights == "" and backend.blocks == ()
    assert (backend.classes is None) is (name != "torch")


@pytest.mark.parametrize("name", BACKENDS)
def test_only_a_backend_that_computes_has_a_speed(name: str):
    speed = open_backend(name, JOB, {}, 1).speed()
    assert (speed is None) is (name != "torch")
    assert speed is None or (speed.flops > 1e6 and 1e-5 < speed.op_s < 1.0)


def test_an_unknown_backend_is_an_error():
    with pytest.raises(KeyError, match="abacus"):
        open_backend("abacus", JOB, {}, 1)


@pytest.mark.thorough
def test_a_worker_stays_light():
    """torch.optim's first use and the meta device each import hundreds of modules: more than a second and 35 MB or more per worker."""
    code = (
        "import sys\n"
        "from fog_learning.job.sections import JobFile\nfrom fog_learning.backend.torch import TorchBackend\n"
        "backend = TorchBackend(JobFile('j', {'name': 'fedavg'}, {'name': 'cnn'}), {'t': 0}, 4, env={}, evaluates=True)\n"
        "assert backend.preflight() == []\n"
        "weights = backend.run('init', 's', {}, {})[0]['weights']\n"
        "weights = backend.run('train', 't', {'weights': weights}, {'round': 1, 'steps': 2})[0]['weights']\n"
        "total = backend.run('accumulate', 's', {'sum': None, 'add': weights}, {'n': 2})[0]['sum']\n"
        "backend.run('evaluate', 's', backend.run('mean', 's', {'sum': total}, {})[0], {})\n"
        "print(*(name for name in ('sympy', 'torch._dynamo', 'sklearn', 'scipy', 'pandas') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")
