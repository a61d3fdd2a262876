"""Jetson boards: the INA3221 power monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from fog_common.energy.model import EnergyConfig
from fog_common.energy.reader import Integral
from fog_common.energy.sysfs import number, product, text

TOTAL_RAILS: Final = ("VDD_IN", "POM_5V_IN")
"""Labels of the rail that is the whole board; the others are parts of it and are not added."""


class Ina3221(Integral):
    """The total rail of a Jetson's power monitor. AGX boards have no such rail."""

    name = "ina3221"

    def __init__(self, millivolts: Path, milliamps: Path) -> None:
        super().__init__(lambda: product(number(millivolts), number(milliamps), 1e-6))

    @classmethod
    def found(cls, config: EnergyConfig, root: Path) -> Self | None:
        for folder in sorted((root / "sys/bus/i2c/devices").glob("*/hwmon/hwmon*")):
            if text(folder / "name") != "ina3221":
                continue
            for label in sorted(folder.glob("in*_label")):
                if text(label) in TOTAL_RAILS:
                    channel = label.name.removeprefix("in").removesuffix("_label")
                    return cls(folder / f"in{channel}_input", folder / f"curr{channel}_input")
        return None
