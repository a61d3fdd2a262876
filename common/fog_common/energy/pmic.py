"""Raspberry Pi 5: the rails of its PMIC, as `vcgencmd pmic_read_adc` prints them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Self

from fog_common.energy.model import EnergyConfig, PmicFit
from fog_common.energy.reader import Integral

_RAIL = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$", re.MULTILINE)


class Pmic(Integral):
    """Watts of a Raspberry Pi 5, fitted. Gives up after repeated failures, so that a daemon never starts a broken program for ever."""

    name, source, period_s = "pmic", "fitted", 5.0

    def __init__(self, fit: PmicFit, run: Callable[[], str]) -> None:
        super().__init__(self.watts)
        self._fit, self._run, self._failures = fit, run, 0

    @classmethod
    def found(cls, config: EnergyConfig, root: Path, run: Callable[[], str] | None = None) -> Self | None:
        """run: replaces the program in tests; the program itself is looked for only on the real root."""
        if run is None and not (root == Path("/") and shutil.which("vcgencmd")):
            return None
        pmic = cls(config.pmic, run or run_vcgencmd)
        return None if pmic.watts() is None else pmic

    def watts(self) -> float | None:
        if self._failures >= 3:
            return None
        try:
            rails = rails_watts(self._run())
        except (OSError, subprocess.SubprocessError):
            rails = None
        if rails is None:
            self._failures += 1
            return None
        self._failures = 0
        return self._fit.slope * rails + self._fit.offset_w


def rails_watts(text: str) -> float | None:
    """Sum of V x A over the rails that have both, from the output of `vcgencmd pmic_read_adc`; None if there are none."""
    rails: dict[str, dict[str, float]] = {}
    for rail, kind, value in _RAIL.findall(text):
        rails.setdefault(rail, {})[kind] = float(value)
    pairs = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
    return sum(pairs) if pairs else None


def run_vcgencmd() -> str:
    """OSError or SubprocessError if the program is missing, slow, or may not open /dev/vcio."""
    done = subprocess.run(["vcgencmd", "pmic_read_adc"], capture_output=True, text=True, timeout=2.0, check=True)
    return done.stdout
