"""The node's battery: its own gauge of energy or charge."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from fog_common.energy.model import EnergyConfig
from fog_common.energy.reader import Covers
from fog_common.energy.sysfs import number, product, text

HOLD_S: Final = 600.0
"""A battery that discharges and shows the same charge for longer is not to be believed."""


class Battery:
    """Energy that a battery gave while discharging, from its own energy gauge; unknown while it charges.

    The gauge moves in steps: while it stands still, what was used since its last step is not known yet, and is not zero.
    """

    name, source, period_s = "battery", "measured", 30.0
    covers: Covers = "node"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = self._stored()
        self._stood: float | None = None
        """Since when the gauge has stood still."""
        self.held = False
        self._joules = 0.0

    @classmethod
    def found(cls, config: EnergyConfig, root: Path) -> Self | None:
        folder = battery_folder(root)
        if folder is None:
            return None
        battery = cls(folder)
        return battery if battery._last is not None else None

    def read_joules(self, now: float) -> float | None:
        stored, last = self._stored(), self._last
        self._last, self.held = stored, False
        if stored is None or last is None or text(self._folder / "status") != "Discharging":
            self._stood = None
            return None
        if stored == last:
            self._stood = now if self._stood is None else self._stood
            self.held = now - self._stood < HOLD_S
            return self._joules if self.held else None
        self._stood = None
        self._joules += max(0.0, last - stored)
        return self._joules

    def _stored(self) -> float | None:
        """Joules in the battery: energy_now (µWh), else charge_now (µAh) x voltage_now (µV)."""
        energy = number(self._folder / "energy_now")
        if energy is not None:
            return energy * 3600e-6
        return product(number(self._folder / "charge_now"), number(self._folder / "voltage_now"), 3600e-12)


def battery_folder(root: Path) -> Path | None:
    """The node's own battery in /sys/class/power_supply, not that of a mouse."""
    for folder in sorted((root / "sys/class/power_supply").glob("*")):
        if text(folder / "type") == "Battery" and text(folder / "scope") != "Device":
            return folder
    return None
