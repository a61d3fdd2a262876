"""Descriptors: shipped methods, methods of installed packages, sections that a method does not read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_common.telemetry.metrics import BY_NAME
from fog_learning.job.reading import job_from
from fog_learning.methods import METHODS, Methods, resolve_method
from fog_learning.methods.base import Headline
from support.dice import install_dice
from support.extension import offer


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_dice(tmp_path, monkeypatch)


@pytest.mark.usefixtures("installed")
def test_a_method_of_an_installed_package_is_loaded_only_where_the_configuration_allows_it() -> None:
    methods = Methods(["fedavg"])
    assert "dice" not in methods and "dice_method" not in sys.modules
    methods.allow(["dice", "fedavg"])
    assert "dice_method" not in sys.modules
    assert methods["dice"].headline[0].title == "sum of the dice"
    assert sorted(methods) == ["dice", "fedavg"]


def test_a_method_that_no_package_offers_is_refused() -> None:
    with pytest.raises(ConfigError, match="methods: 'unheard-of' is offered by no installed package"):
        Methods(["fedavg"]).allow(["unheard-of"])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_descriptors_of_this_program_hold_together(name: str) -> None:
    method = METHODS[name]
    roles = {role.name for role in method.roles}
    assert method.root in roles
    assert all(role.talks_to and set(role.talks_to) <= roles for role in method.roles)
    assert [headline.name for headline in method.headline] == ["accuracy", "loss"]
    assert all(BY_NAME[headline.metric].labels == ("job",) for headline in method.headline if headline.metric)
    assert method.ops and len({row.name for row in method.ops}) == len(method.ops)


@pytest.mark.parametrize(("attribute", "text"), [("WRONG", "names the metric 'fog_job_mood'"), ("ABSENT", "is not a descriptor of a method")])
def test_a_descriptor_that_would_break_others_is_refused_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, text: str
) -> None:
    offer(tmp_path, monkeypatch, "moody", Path(__file__), attribute)
    with METHODS.allowed(["moody"]), pytest.raises(ConfigError, match=text):
        METHODS["moody"]


WRONG = replace(METHODS["fedavg"], name="moody", headline=(Headline("mood", "mood", metric="fog_job_mood"),))


def test_a_section_that_the_method_does_not_read_is_refused() -> None:
    spec = {"name": "a", "method": {"name": "gossip"}, "model": {"name": "mlp"}, "stragglers": {"deadline_s": 9}}
    with pytest.raises(ConfigError, match="stragglers: method gossip does not read this section; remove it"):
        job_from(spec)
    method, _ = resolve_method(job_from({**spec, "method": {"name": "fedavg"}}))
    assert method.name == "fedavg"
