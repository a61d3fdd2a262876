"""Deciding code is pure: the import contract names all of it, and its source draws with seeds and performs nothing itself."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Final

from support.source import ROOT, product

CONTRACTS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
PURE: Final = next(contract for contract in CONTRACTS if contract["name"] == "machines are pure")
SHELL: Final = "fog_coordinator.shell"
PERFORMS: Final = {"open", "print", "input", "breakpoint", "exec", "eval"}


def pure_modules() -> list[str]:
    sources = PURE["source_modules"]
    return [name for name in product() if any(name == source or name.startswith(f"{source}.") for source in sources)]


def impure(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) for each draw without a seed and each call of a builtin that performs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            yield from ((node.lineno, f"random.{alias.name}") for alias in node.names if alias.name != "Random")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random" and node.attr != "Random":
            yield node.lineno, f"random.{node.attr}"
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
            if called == "Random" and not node.args:
                yield node.lineno, "Random() without a seed"
            if isinstance(node.func, ast.Name) and called in PERFORMS:
                yield node.lineno, f"{called}()"


def test_the_contract_names_all_of_the_coordinator_but_its_shell() -> None:
    parts = {".".join(name.split(".")[:2]) for name in product() if name.startswith("fog_coordinator.")}
    assert parts - set(PURE["source_modules"]) == {SHELL}


def test_the_contract_names_whole_packages_and_follows_imports() -> None:
    whole = {"fog_common.runtime", "fog_common.transfer", "fog_common.wire", "fog_learning.rounds", "fog_learning.clusters", "fog_learning.methods"}
    assert whole | {"fog_agent.core", "fog_agent.worker.core"} <= set(PURE["source_modules"])
    assert not PURE.get("allow_indirect_imports") and not PURE.get("ignore_imports")
    assert {"torch", "numpy", "socket", "threading", "time"} <= set(PURE["forbidden_modules"])


def test_deciding_code_draws_with_a_seed_and_performs_nothing() -> None:
    modules = [product()[name] for name in pure_modules()]
    assert len(modules) > 100
    assert [f"{module.path}:{line}: {what}" for module in modules for line, what in impure(module.tree)] == []


def test_deciding_code_and_the_shipped_methods_load_without_tensors_or_a_broker() -> None:
    heavy = ("torch", "numpy", "paho", "sqlalchemy", "safetensors", "sklearn")
    program = (
        "import importlib, sys\n"
        f"for name in {pure_modules()!r}: importlib.import_module(name)\n"
        "from fog_learning.methods import METHODS\n"
        "METHODS.load()\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_impure_is_seen() -> None:
    source = "import random\nfrom random import choice\nrandom.shuffle([])\nrandom.Random()\nopen('a')\nrandom.Random(1).shuffle([])\n"
    assert [line for line, _ in sorted(impure(ast.parse(source)))] == [2, 3, 4, 5]
