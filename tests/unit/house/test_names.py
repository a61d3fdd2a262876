"""A public class name stands for one thing in the whole product."""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import Final

from support.source import product

ALLOWED: Final = {"Plan"}
"""The `method` section of a job, in the file of each method."""
KNOWN: Final[dict[str, int]] = {}
"""Names that are still used for several classes -> how many. The list and its numbers only shrink."""


def test_no_public_class_name_stands_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module in product().values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name not in ALLOWED:
                places[node.name].append(f"{module.path}:{node.lineno}")
    for name, found in places.items():
        allowed = KNOWN.get(name, 1)
        assert len(found) <= allowed, f"class {name} stands in {' and '.join(found)}: give the newer one a name of its own (keep its wire tag)"
    for name, count in KNOWN.items():
        now = len(places.get(name, []))
        assert now == count > 1, f"class {name} stands {now} times now, {count} are listed: shrink KNOWN in this file"
