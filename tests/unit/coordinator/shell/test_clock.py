"""Nothing depends on the wall clock: a Pi has no battery for one, and it may be wrong by any amount, or be set at any time."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from fog_coordinator.shell.service import Clock
from support.paths import ROOT

AREAS = ("common", "learning", "agent", "coordinator", "sim", "fogctl")
WALL = {"time.time", "time.time_ns", "time.ctime", "time.localtime", "time.gmtime", "time.strftime"}
ALLOWED = {
    "coordinator/fog_coordinator/shell/service.py": {"time.time"},  # Clock: read once, at the start, and never believed against the journal
    "fogctl/fogctl/verbs/paper.py": {"time.strftime", "time.gmtime"},  # the date on a report
}


def reads(path: Path) -> set[str]:
    """Names of what reads the wall clock in a source file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and f"{node.value.id}.{node.attr}" in WALL:
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{name.name}" for name in node.names} & WALL
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            found |= {name for name in names if name == "datetime"}
    return found


def test_only_the_coordinators_clock_reads_the_wall_clock():
    found = {str(path.relative_to(ROOT)): read for area in AREAS for path in (ROOT / area).rglob("*.py") if (read := reads(path))}
    assert found == ALLOWED


def test_the_coordinators_clock_does_not_jump_and_never_goes_back(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(0.0)
    began = clock()
    for shift in (600.0, -600.0, 1e9):
        monkeypatch.setattr(time, "time", lambda shift=shift: began + shift)
        assert 0 <= clock() - began < 60
    monkeypatch.setattr(time, "time", lambda: began - 600.0)  # started again with its clock 10 minutes behind
    assert Clock(latest=began)() >= began
