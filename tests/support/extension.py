"""A package from outside the product that offers a method, as `pip install` would leave it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def offer(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: Path, attribute: str) -> None:
    """Offer the Method `attribute` of a test module to this process and its children, by an entry point `name`. folder: an empty one."""
    info = folder / f"{name}_method-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[foglearn.methods]\n{name} = {module.stem}:{attribute}\n")
    tests = Path(__file__).resolve().parents[1]
    found = [str(folder), str(module.resolve().parent), str(tests)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*found, *filter(None, [os.environ.get("PYTHONPATH")])]))
    for path in found:
        monkeypatch.syspath_prepend(path)
