"""An installed package that offers a method: `dice`, which rolls."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from support.extension import offer

TOY = """
from msgspec import Struct
from fog_common.runtime.machine import Machine
from fog_learning.methods.base import Headline, Method, Role

class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    turns: int = 3

class Dice(Machine):
    pass

METHOD = Method(
    name="dice", title="Dice", source="none", plan=Plan, roles=(Role("dice", Dice, bound="free"),), messages=(), ops=(), root="dice",
    build=lambda job, plan, peer: Dice(), headline=(Headline("sum", "sum of the dice"),), rounds=lambda job, plan: plan.turns,
)
"""


def install_dice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package lies in the folder, which this process imports from until the test ends."""
    module = folder / "dice_method.py"
    module.write_text(TOY)
    offer(folder / "site", monkeypatch, "dice", module, "METHOD")
    monkeypatch.delitem(sys.modules, "dice_method", raising=False)
    importlib.invalidate_caches()
