"""The product's source as syntax trees, for tests of the house."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = {
    "common": "fog_common",
    "learning": "fog_learning",
    "agent": "fog_agent",
    "coordinator": "fog_coordinator",
    "sim": "fog_sim",
    "fogctl": "fogctl",
}
"""Folder of the repository -> the package in it."""


@dataclass(frozen=True)
class Module:
    """A file of the product: its dotted name, its path from the root of the repository, its text and its syntax tree."""

    name: str
    path: str
    text: str
    tree: ast.Module


@cache
def product() -> dict[str, Module]:
    """Dotted name -> module, for each file of the six packages."""
    modules = {}
    for folder, package in PACKAGES.items():
        for file in sorted((ROOT / folder / package).rglob("*.py")):
            inside = file.relative_to(ROOT / folder).with_suffix("")
            name = ".".join(inside.parts[:-1] if inside.name == "__init__" else inside.parts)
            text = file.read_text(encoding="utf-8")
            modules[name] = Module(name, str(file.relative_to(ROOT)), text, ast.parse(text))
    return modules


@cache
def imports(name: str) -> set[tuple[str, int]]:
    """(name of the imported module, line) for each import of the product anywhere in the module: TYPE_CHECKING blocks and functions included."""
    return set(_imports(product()[name].tree))


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    names = product()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in names else str(node.module)), node.lineno


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, each sorted (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                components.append(sorted(component))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return sorted(components)


def docstrings(tree: ast.Module) -> set[int]:
    """The identities of the constants that stand alone as a statement: docstrings of modules, classes, functions and names."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
