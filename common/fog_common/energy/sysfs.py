"""Values of files in /sys: text and numbers, None where a file is missing, unreadable or holds something else."""

from __future__ import annotations

from pathlib import Path


def text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def number(path: Path) -> float | None:
    content = text(path)
    try:
        return None if content is None else float(content)
    except ValueError:
        return None


def product(a: float | None, b: float | None, scale: float) -> float | None:
    """a x b x scale; None if a or b is unknown."""
    return None if a is None or b is None else a * b * scale
