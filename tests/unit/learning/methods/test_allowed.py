"""A method of an installed package: from `methods:` in a configuration to the job that names it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fog_agent.config import load_config as agent_config
from fog_common.errors import ConfigError
from fog_coordinator.shell.config import load_config as coordinator_config
from fog_learning.job.reading import job_from, load_job
from fog_learning.methods import METHODS, resolve_method, rounds_of
from fogctl.settings import settings as fogctl_config
from support.dice import install_dice
from support.stand_ins import World

SPEC = {"name": "luck", "method": {"name": "dice", "turns": 7}, "model": {"name": "mlp"}}
CONFIGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "agent": ("node: pi-1\n", agent_config),
    "coordinator": ("fleet: main\n", coordinator_config),
    "fogctl": ("user: ada\n", fogctl_config),
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_dice(tmp_path, monkeypatch)


def methods_of(program: str, folder: Path, line: str) -> tuple[str, ...]:
    """What the program's configuration allows with this line in its file."""
    text, load = CONFIGS[program]
    file = folder / f"{program}.yaml"
    file.write_text(text + line)
    methods: tuple[str, ...] = load(str(file)).methods
    return methods


@pytest.mark.parametrize("program", CONFIGS)
def test_a_configuration_that_names_the_method_lets_its_job_resolve(program: str, tmp_path: Path) -> None:
    with METHODS.allowed(methods_of(program, tmp_path, "methods: [dice]\n")):
        job = job_from(SPEC)
        method, plan = resolve_method(job)
        assert (method.name, method.headline[0].name, rounds_of(job)) == ("dice", "sum", 7)
        assert type(plan) is method.plan


@pytest.mark.parametrize("program", CONFIGS)
def test_a_configuration_without_the_key_refuses_the_job_and_names_the_key(program: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: luck\nmodel: {name: mlp}\nmethod:\n  name: dice\n")
    with METHODS.allowed(methods_of(program, tmp_path, "")), pytest.raises(ConfigError) as refused:
        load_job(file)
    text = str(refused.value)
    assert text.startswith(f"{file}:4: method.name: 'dice': unknown method") and "fedavg" in text
    assert "`methods:` in the configuration of agents, coordinator and fogctl" in text
    assert refused.value.exit_code == 2 and "dice_method" not in sys.modules


def test_a_coordinator_answers_a_job_of_a_method_by_what_it_allows() -> None:
    world = World()
    refused = world.ask("job.submit", spec=SPEC)
    assert refused.exit_code == 2 and "method.name: 'dice'" in refused.error and "`methods:`" in refused.error
    with METHODS.allowed(["dice"]):
        assert world.body("job.submit", spec=SPEC)["job"] == "luck"
        assert world.status("luck")["method"] == "dice"


def test_a_key_that_names_what_no_package_offers_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="methods: 'cards' is offered by no installed package"),
        METHODS.allowed(methods_of("agent", tmp_path, "methods: [dice, cards]\n")),
    ):
        pass
    assert "dice" not in METHODS, "what was allowed before the refusal is taken back"


def test_after_the_block_the_same_methods_are_allowed_as_before() -> None:
    before = list(METHODS)
    with METHODS.allowed(["dice"]):
        assert METHODS["dice"].title == "Dice"
        METHODS.allow(["dice"])
    assert list(METHODS) == before
    with pytest.raises(KeyError):
        METHODS["dice"]
