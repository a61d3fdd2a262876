"""Intel and AMD: RAPL, the energy counters of processor packages and their DRAM."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from fog_common.energy.model import EnergyConfig
from fog_common.energy.reader import Covers
from fog_common.energy.sysfs import number, text


class Rapl:
    """Processor packages and their DRAM, from /sys/class/powercap. Counters wrap at max_energy_range_uj. Root, or a udev rule."""

    name, source, period_s, held = "rapl", "measured", 30.0, False
    covers: Covers = "board"

    def __init__(self, domains: list[Path]) -> None:
        self._domains = domains
        self._last = [number(domain / "energy_uj") for domain in domains]
        self._range = [number(domain / "max_energy_range_uj") for domain in domains]
        self._joules = 0.0

    @classmethod
    def found(cls, config: EnergyConfig, root: Path) -> Self | None:
        domains = []
        for domain in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
            name = text(domain / "name") or ""
            if (name.startswith("package") or name == "dram") and number(domain / "energy_uj") is not None:
                domains.append(domain)
        return cls(domains) if domains else None

    def read_joules(self, now: float) -> float | None:
        readings = [number(domain / "energy_uj") for domain in self._domains]
        grown = 0.0
        for reading, last, span in zip(readings, self._last, self._range, strict=True):
            if reading is None or last is None or (reading < last and not span):
                self._last = readings
                return None
            grown += reading - last if reading >= last else reading + (span or 0.0) - last
        self._last = readings
        self._joules += grown / 1e6
        return self._joules
