"""Parameters of a campaign: the first ones run in `make check`, all of them in `make test`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(values: Iterable[Any], count: int) -> list[Any]:
    """The values as parameters, tuples as the values of several names; those behind the first `count` are marked `thorough`."""
    return [
        value if at < count else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.thorough)
        for at, value in enumerate(values)
    ]
