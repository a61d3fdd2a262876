"""`online and not leaving`, the heart of "may this node take this task?", is decided in placement/eligible.py and nowhere else."""

from __future__ import annotations

import ast
from typing import Final

import pytest

from support.source import product

PLACE: Final = "coordinator/fog_coordinator/placement/eligible.py"
KNOWN: Final[dict[str, int]] = {}
"""Files that still decide it themselves -> how often. The list and its numbers only shrink."""


def terms(node: ast.BoolOp) -> set[tuple[str, bool]]:
    """(name of the attribute or variable, negated) of each operand, nested operations of the same kind included."""
    found = set()
    for value in node.values:
        operand, negated = (value.operand, True) if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not) else (value, False)
        if isinstance(operand, ast.Attribute):
            found.add((operand.attr, negated))
        elif isinstance(operand, ast.BoolOp) and not negated and type(operand.op) is type(node.op):
            found |= terms(operand)
    return found


def decisions(tree: ast.AST) -> int:
    """How often the tree says `online and not leaving`, or its negation `not online or leaving`."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.BoolOp):
            wanted = {("online", False), ("leaving", True)} if isinstance(node.op, ast.And) else {("online", True), ("leaving", False)}
            count += wanted <= terms(node)
    return count


def test_whether_a_node_is_there_is_decided_in_one_place() -> None:
    found = {module.path: count for module in product().values() if module.path != PLACE and (count := decisions(module.tree))}
    for path, count in found.items():
        assert count <= KNOWN.get(path, 0), f"{path} decides `online and not leaving` itself: ask `absent` or `refusals` of {PLACE}"
    for path, count in KNOWN.items():
        assert found.get(path, 0) == count, f"{path}: {found.get(path, 0)} places now, {count} are listed: shrink KNOWN in this file"


def test_the_one_place_is_there() -> None:
    module = next(module for module in product().values() if module.path == PLACE)
    assert any(isinstance(node, ast.FunctionDef) and node.name == "absent" for node in module.tree.body)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("node.online and not node.leaving", 1),
        ("a is not None and (a.online and not a.leaving) and b", 2),
        ("not node.online or node.leaving", 1),
        ("[n for n in nodes if n.online and n.fit and not n.leaving]", 1),
        ("node.online and node.leaving", 0),
        ("node.online or not node.leaving", 0),
    ],
)
def test_every_form_of_it_is_recognised(text: str, count: int) -> None:
    assert decisions(ast.parse(text)) == count
