"""Nothing outside a method's folder knows the method: no import of it, no string equal to its name or to a tag of its messages."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from typing import Final

from fog_learning.methods import METHODS
from support.source import Module, docstrings, imports, product

FOLDER: Final = "fog_learning.methods."
FREE: Final = ("fog_sim.experiments",)
"""Experiments of a paper are about its method."""
TIERS: Final[dict[str, int]] = {
    "common/fog_common/ids.py": 1,
    "common/fog_common/wire/topics.py": 3,
    "learning/fog_learning/job/sections.py": 3,
    "agent/fog_agent/config.py": 1,
    "learning/fog_learning/costs/place.py": 1,
    "coordinator/fog_coordinator/placement/tree.py": 1,
    "sim/fog_sim/links.py": 3,
    "sim/fog_sim/shape.py": 2,
    "fogctl/fogctl/show/draw.py": 1,
}
"""`fog` as the name of a tier (thing, edge, fog, cloud) or as the first level of a topic, which equals a method's name by chance: file -> how often."""
KNOWN: Final[dict[tuple[str, str], int]] = {}
"""(file, name, tag or module) that is still known outside -> how often. The list and its numbers only shrink."""


def owner(module: Module) -> str:
    """The method in whose folder the module lies; "" outside."""
    rest = module.name.removeprefix(FOLDER)
    return rest.split(".")[0] if module.name.startswith(FOLDER) and rest.split(".")[0] in METHODS else ""


def tags() -> dict[str, set[str]]:
    """Wire tag -> the methods in whose folders a message has it."""
    found: dict[str, set[str]] = {}
    for module in product().values():
        if owner(module):
            for tag in declared(module).values():
                found.setdefault(tag, set()).add(owner(module))
    return found


def declared(module: Module) -> dict[int, str]:
    """Identity of the constant -> tag, for each class of the file that declares a tag of its own."""
    classes = [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    values = [keyword.value for node in classes for keyword in node.keywords if keyword.arg == "tag"]
    return {id(value): value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)}


@cache
def known_outside() -> Counter[tuple[str, str]]:
    """(file, what it knows) -> how often."""
    names = {**tags(), **{name: {name} for name in METHODS}}
    found: Counter[tuple[str, str]] = Counter()
    for module in product().values():
        if module.name.startswith(FREE):
            continue
        passed_over = docstrings(module.tree) | declared(module).keys()
        for node in ast.walk(module.tree):
            word = node.value if isinstance(node, ast.Constant) and id(node) not in passed_over else None
            if isinstance(word, str) and word in names and owner(module) not in names[word]:
                found[module.path, word] += 1
        for name, _ in imports(module.name):
            method = name.removeprefix(FOLDER).split(".")[0] if name.startswith(FOLDER) else ""
            if method in METHODS and method != owner(module):
                found[module.path, f"{FOLDER}{method}"] += 1
    for path, count in TIERS.items():
        found[path, "fog"] -= count
    return found


def test_no_file_outside_a_methods_folder_knows_the_method() -> None:
    found = known_outside()
    for (path, name), count in found.items():
        allowed = KNOWN.get((path, name), 0)
        assert count <= allowed, (
            f"{path} knows {name!r} ({count} times, {allowed} allowed): ask the job's `Method` descriptor; if the word means something else, "
            "list it with its reason in TIERS in this file"
        )
    for (path, name), count in KNOWN.items():
        assert found[path, name] == count, f"{path}: {name!r} stands {found[path, name]} times now, {count} are listed: shrink KNOWN in this file"


def test_the_list_of_tiers_is_exact() -> None:
    found = known_outside()
    for path, count in TIERS.items():
        assert found[path, "fog"] >= 0, f"{path}: fewer than {count} times `fog` as a tier or topic: lower the number in TIERS in this file"


def test_names_and_tags_are_seen() -> None:
    assert {"Update", "Step"} <= tags().keys()
    assert len(METHODS) >= 5
