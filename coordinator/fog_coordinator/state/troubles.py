"""Lists of nodes, and equal problems of several nodes, as one line for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

FEW: Final = 3
"""Largest number of nodes with one problem that are all named; of more nodes, the first two are."""


def listed(names: Sequence[str], most: int = 5) -> str:
    """'pi-1, pi-2 and 10 more'."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def merged(problems: Iterable[tuple[str, str]]) -> list[str]:
    """(node, text) … -> one line per text: 'pi-1, pi-2 and 10 more: torch is missing', in the order of the first of each."""
    nodes: dict[str, list[str]] = {}
    for name, text in problems:
        of_text = nodes.setdefault(text, [])
        if name not in of_text:
            of_text.append(name)
    return [f"{listed(names, FEW if len(names) <= FEW else 2)}: {text}" for text, names in nodes.items()]
