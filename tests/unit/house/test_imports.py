"""No import circles in the product; TYPE_CHECKING blocks and imports inside functions count as edges."""

from __future__ import annotations

from typing import Final

from support.source import circles, imports, product

KNOWN: Final[tuple[tuple[str, ...], ...]] = ()
"""Circles that are still to go. The list only shrinks."""


def test_modules_import_each_other_in_one_direction() -> None:
    found = circles({module: {name for name, _ in imports(module)} for module in product()})
    new = [circle for circle in found if tuple(circle) not in KNOWN]
    assert not new, f"import circle between {' and '.join(new[0])}: move what both need into a module of its own, which both import"
    gone = [circle for circle in KNOWN if list(circle) not in found]
    assert not gone, f"the circle {' and '.join(gone[0])} is gone: remove its line from KNOWN in this file"


def test_circles_are_found_whatever_their_length() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"f", "d"}, "f": {"e"}}
    assert circles(edges) == [["a", "b", "c"], ["e", "f"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_edges_for_type_checkers_and_inside_functions_are_seen() -> None:
    edges = {module: {name for name, _ in imports(module)} for module in product()}
    assert "fogctl.fleet.local_fleet" in edges["fogctl.verbs.demo"], "an import inside a function"
    assert sum(len(names) for names in edges.values()) > 500
