"""What this machine says about its own energy. Each reader answers `read_joules(now)`: joules since it was made, or None.

None means unknown for now (a sensor failed, a battery is charging), never zero. `root` is where /sys is found, so that tests
use a folder. `source` is the kind of truth: measured, or fitted (a correction from the literature). `whole`: it covers the
node, not only a part such as the processor or the graphics card.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from fog_common.energy.model import EnergyConfig, PmicFit

HOLD_S: Final = 600.0
"""A battery that discharges and shows the same charge for longer is not to be believed."""
MAX_GAP_S: Final = 120.0
"""A power sensor that was not read for so long says nothing about the time between."""


class Reader(Protocol):
    name: str
    source: str
    whole: bool
    period_s: float
    """Read at least this often: 1 s for what reports watts."""
    held: bool
    """The last reading says nothing about the time since the one before: the interval goes on until the next."""

    def read_joules(self, now: float) -> float | None: ...


class Integral:
    """Joules from a sensor of watts: trapezoids between readings. A gap (no reading, or too long ago) is not bridged."""

    whole, held = True, False
    period_s = 1.0

    def __init__(self, name: str, watts: Callable[[], float | None], source: str = "measured", period_s: float = 1.0) -> None:
        self.name, self.source, self.period_s = name, source, period_s
        self._watts = watts
        self._joules = 0.0
        self._last: tuple[float, float] | None = None

    def read_joules(self, now: float) -> float | None:
        watts = self._watts()
        if watts is None:
            self._last = None
            return None
        if self._last is not None and 0 <= now - self._last[0] <= MAX_GAP_S:
            self._joules += (now - self._last[0]) * (watts + self._last[1]) / 2
        self._last = (now, watts)
        return self._joules


# -- Intel and AMD: RAPL -------------------------------------------------------------------


class Rapl:
    """Processor packages and their DRAM, from /sys/class/powercap. Counters wrap at max_energy_range_uj. Root, or a udev rule."""

    name, source, whole, period_s, held = "rapl", "measured", False, 30.0, False

    def __init__(self, domains: list[Path]) -> None:
        self._domains = domains
        self._last = [_number(domain / "energy_uj") for domain in domains]
        self._range = [_number(domain / "max_energy_range_uj") for domain in domains]
        self._joules = 0.0

    @classmethod
    def found(cls, root: Path) -> Rapl | None:
        domains = []
        for domain in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
            name = _text(domain / "name") or ""
            if (name.startswith("package") or name == "dram") and _number(domain / "energy_uj") is not None:
                domains.append(domain)
        return cls(domains) if domains else None

    def read_joules(self, now: float) -> float | None:
        readings = [_number(domain / "energy_uj") for domain in self._domains]
        grown = 0.0
        for reading, last, span in zip(readings, self._last, self._range, strict=True):
            if reading is None or last is None or (reading < last and not span):
                self._last = readings
                return None
            grown += reading - last if reading >= last else reading + (span or 0.0) - last
        self._last = readings
        self._joules += grown / 1e6
        return self._joules


# -- Jetson: INA3221 -----------------------------------------------------------------------

TOTAL_RAILS: Final = ("VDD_IN", "POM_5V_IN")
"""Labels of the rail that is the whole board; the others are parts of it and are not added."""


def ina3221_watts(root: Path) -> Callable[[], float | None] | None:
    """Reads the total rail of a Jetson's power monitor; None if there is none (AGX boards have no such rail)."""
    for folder in sorted((root / "sys/bus/i2c/devices").glob("*/hwmon/hwmon*")):
        if _text(folder / "name") != "ina3221":
            continue
        for label in sorted(folder.glob("in*_label")):
            if _text(label) in TOTAL_RAILS:
                channel = label.name.removeprefix("in").removesuffix("_label")
                volts, amps = folder / f"in{channel}_input", folder / f"curr{channel}_input"
                return lambda: _product(_number(volts), _number(amps), 1e-6)  # mV x mA
    return None


# -- Raspberry Pi 5: PMIC ------------------------------------------------------------------

_RAIL = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$", re.MULTILINE)


def pmic_watts(text: str) -> float | None:
    """Sum of V x A over the rails that have both, from the output of `vcgencmd pmic_read_adc`; None if there are none."""
    found: dict[str, dict[str, float]] = {}
    for rail, kind, value in _RAIL.findall(text):
        found.setdefault(rail, {})[kind] = float(value)
    pairs = [rail["A"] * rail["V"] for rail in found.values() if len(rail) == 2]
    return sum(pairs) if pairs else None


class Pmic:
    """Watts of a Raspberry Pi 5, fitted. Gives up after repeated failures, so that a daemon never starts a broken program for ever."""

    def __init__(self, fit: PmicFit, run: Callable[[], str]) -> None:
        self._fit, self._run, self._failures = fit, run, 0

    def watts(self) -> float | None:
        if self._failures >= 3:
            return None
        try:
            rails = pmic_watts(self._run())
        except (OSError, subprocess.SubprocessError):
            rails = None
        if rails is None:
            self._failures += 1
            return None
        self._failures = 0
        return self._fit.slope * rails + self._fit.offset_w


def run_vcgencmd() -> str:
    """OSError or SubprocessError if the program is missing, slow, or may not open /dev/vcio."""
    done = subprocess.run(["vcgencmd", "pmic_read_adc"], capture_output=True, text=True, timeout=2.0, check=True)
    return done.stdout


# -- batteries -----------------------------------------------------------------------------


class Battery:
    """What a battery has given while it discharges, from its own energy gauge. While it charges: unknown.

    The gauge moves in steps: while it stands still, what was used since its last step is not known yet, and is not zero.
    """

    name, source, whole, period_s = "battery", "measured", True, 30.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = self._stored()
        self._stood: float | None = None
        """Since when the gauge has stood still."""
        self.held = False
        self._joules = 0.0

    @classmethod
    def found(cls, root: Path) -> Battery | None:
        folder = battery_folder(root)
        if folder is None:
            return None
        battery = cls(folder)
        return battery if battery._last is not None else None

    def read_joules(self, now: float) -> float | None:
        stored, last = self._stored(), self._last
        self._last, self.held = stored, False
        if stored is None or last is None or _text(self._folder / "status") != "Discharging":
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
        energy = _number(self._folder / "energy_now")
        if energy is not None:
            return energy * 3600e-6
        return _product(_number(self._folder / "charge_now"), _number(self._folder / "voltage_now"), 3600e-12)


def battery_folder(root: Path) -> Path | None:
    """The node's own battery in /sys/class/power_supply, not that of a mouse."""
    for folder in sorted((root / "sys/class/power_supply").glob("*")):
        if _text(folder / "type") == "Battery" and _text(folder / "scope") != "Device":
            return folder
    return None


# -- NVIDIA cards: NVML --------------------------------------------------------------------


class Nvml:
    """All graphics cards of the node, through libnvidia-ml: the energy counter (mJ) where the card has one, else power integrated."""

    name, source, whole, period_s, held = "nvml", "measured", False, 1.0, False

    def __init__(self, library: ctypes.CDLL, cards: list[ctypes.c_void_p]) -> None:
        self._library, self._cards = library, cards
        self._first = [self._energy(card) for card in cards]
        self._power = Integral("nvml", self._watts)
        if all(reading is not None for reading in self._first):
            self.period_s = 30.0

    @classmethod
    def found(cls, library: str = "libnvidia-ml.so.1") -> Nvml | None:
        try:
            nvml = ctypes.CDLL(library)
            count = ctypes.c_uint(0)
            if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
                return None
            cards = [ctypes.c_void_p() for _ in range(count.value)]
            cards = [card for i, card in enumerate(cards) if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(i), ctypes.byref(card)) == 0]
        except (OSError, AttributeError):
            return None
        return cls(nvml, cards) if cards else None

    def read_joules(self, now: float) -> float | None:
        if self.period_s == 1.0:
            return self._power.read_joules(now)
        total = 0.0
        for card, first in zip(self._cards, self._first, strict=True):
            reading = self._energy(card)
            if reading is None or first is None:
                return None
            total += reading - first
        return total

    def _energy(self, card: ctypes.c_void_p) -> float | None:
        value = ctypes.c_ulonglong(0)
        return value.value / 1e3 if self._library.nvmlDeviceGetTotalEnergyConsumption(card, ctypes.byref(value)) == 0 else None

    def _watts(self) -> float | None:
        total = 0.0
        for card in self._cards:
            value = ctypes.c_uint(0)
            if self._library.nvmlDeviceGetPowerUsage(card, ctypes.byref(value)):
                return None
            total += value.value / 1e3
        return total


# -- which of them -------------------------------------------------------------------------


def readers(config: EnergyConfig, root: Path = Path("/"), vcgencmd: Callable[[], str] | None = None) -> list[Reader]:
    """What to read here: one reader of the board, and the graphics cards where the board's reader does not cover them. [] = model only.

    vcgencmd: replaces the program in tests. It and NVML are looked for only on the real root, unless they are named.
    """
    choice, real = config.reader, root == Path("/")
    if choice in {"model", "none"}:
        return []
    board: Reader | None = None
    if choice in {"auto", "pmic"} and (vcgencmd or (real and shutil.which("vcgencmd"))):
        pmic = Pmic(config.pmic, vcgencmd or run_vcgencmd)
        if pmic.watts() is not None:
            board = Integral("pmic", pmic.watts, "fitted", period_s=5.0)
    if board is None and choice in {"auto", "ina3221"} and (watts := ina3221_watts(root)) is not None:
        board = Integral("ina3221", watts)
    if board is None and choice in {"auto", "rapl"}:
        board = Rapl.found(root)
    if board is None and choice in {"auto", "battery"}:
        board = Battery.found(root)
    cards = Nvml.found() if choice in {"auto", "nvml"} and real and not (board is not None and board.whole) else None
    return [reader for reader in (board, cards) if reader is not None]


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _product(a: float | None, b: float | None, scale: float) -> float | None:
    return None if a is None or b is None else a * b * scale
