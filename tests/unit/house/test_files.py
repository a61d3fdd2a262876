"""A file holds one noun and can be read at a sitting; the tests' folders mirror the packages."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from support.source import PACKAGES, ROOT, product

PRODUCT_LINES: Final = 400
TEST_LINES: Final = 500
LONG: Final[dict[str, int]] = {
    "common/fog_common/bus/mqtt.py": 459,
    "learning/fog_learning/clusters/head.py": 482,
}
"""Files that are still longer -> their present length. The list and its numbers only shrink."""
OTHER_AREAS: Final = {"bench", "deploy", "house", "emulation"}
"""Folders of tests/unit that test something other than a package of the product."""


def lengths() -> dict[str, int]:
    files = {module.path: len(module.text.splitlines()) for module in product().values()}
    files |= {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / "tests").rglob("*.py")}
    return files


@pytest.mark.parametrize(("folder", "most"), [("product", PRODUCT_LINES), ("tests", TEST_LINES)])
def test_no_file_is_longer_than_can_be_read_at_a_sitting(folder: str, most: int) -> None:
    for path, lines in lengths().items():
        if path.startswith("tests/") == (folder == "tests"):
            limit = LONG.get(path, most)
            assert lines <= limit, f"{path} has {lines} lines, {limit} are allowed: give one of its nouns a file of its own"


def test_the_list_of_long_files_shrinks_with_them() -> None:
    present = lengths()
    for path, listed in LONG.items():
        lines = present.get(path, 0)
        most = TEST_LINES if path.startswith("tests/") else PRODUCT_LINES
        assert lines > most, f"{path} is short enough now or gone: remove it from LONG in this file"
        assert lines > listed - 25, f"{path} has {lines} lines now: lower its number in LONG in this file from {listed}"


def test_the_folders_of_the_unit_tests_mirror_the_packages() -> None:
    for area in sorted(path for path in (ROOT / "tests" / "unit").iterdir() if path.is_dir() and path.name != "__pycache__"):
        assert area.name in PACKAGES or area.name in OTHER_AREAS, f"tests/unit/{area.name}: no such package, expected one of {', '.join(PACKAGES)}"
        if area.name not in PACKAGES:
            continue
        package = ROOT / area.name / PACKAGES[area.name]
        for folder in sorted(path for path in area.rglob("*") if path.is_dir() and any(path.glob("test_*.py"))):
            inside: Path = package / folder.relative_to(area)
            there = inside.is_dir() or inside.with_suffix(".py").is_file()
            assert there, (
                f"{folder.relative_to(ROOT)} tests nothing: there is no {inside.relative_to(ROOT)}; name the folder as the module or package"
            )
