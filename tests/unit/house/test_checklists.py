"""The checklists of CONTRIBUTING.md name files that exist and tables that hold all there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from fog_common.energy.sensors import SENSORS
from fog_common.wire.api.verbs import QUESTIONS, Question
from fog_learning.costs.objectives import OBJECTIVES
from fog_learning.methods import METHODS
from support.source import product

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
LISTS = re.findall(r"^## Add (.+)\n", TEXT, re.MULTILINE)


def naming(name: str) -> set[str]:
    """The modules of the product that hold this string constant."""
    return {module.name for module in product().values() for node in ast.walk(module.tree) if isinstance(node, ast.Constant) and node.value == name}


def test_every_checklist_says_its_files():
    assert LISTS == ["a method", "a message", "a metric", "an energy sensor", "a verb", "a placement objective", "a data format"]
    assert TEXT.count("\nFiles: ") == len(LISTS)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:common|learning|agent|coordinator|sim|fogctl|tests|examples|docs)/[^`]*)`", TEXT))))
def test_a_path_that_a_checklist_names_exists(path: str):
    assert (ROOT / path.split("NAME", maxsplit=1)[0]).exists()


def test_a_method_is_a_folder():
    folders = {path.parent.name for path in (ROOT / "learning/fog_learning/methods").glob("*/method.py")}
    assert folders and folders <= set(METHODS)


def test_a_sensor_is_a_file_and_a_row():
    assert [sensor.__module__ for sensor in SENSORS.values()] == [f"fog_common.energy.{name}" for name in SENSORS]
    for name in ("ina3221", "rapl", "nvml"):
        assert naming(name) == {f"fog_common.energy.{name}", "fog_common.energy.sensors"}


def test_an_objective_is_a_row_that_the_documentation_names():
    assert f"# {' | '.join(OBJECTIVES)}\n" in (ROOT / "docs/placement.md").read_text()
    assert naming("weighted") == {"fog_learning.costs.objectives"}


def test_a_verb_is_a_question_an_answer_and_a_command():
    assert [each for each in Question.__subclasses__() if QUESTIONS.get(each.verb) is not each] == []
    answers = product()["fog_coordinator.reading.verbs"].text
    assert [each.__name__ for each in QUESTIONS.values() if f"case {each.__name__}():" not in answers] == []
    commands = "".join(module.text for name, module in product().items() if name.startswith("fogctl."))
    assert [each.__name__ for each in QUESTIONS.values() if f"{each.__name__}(" not in commands] == []
