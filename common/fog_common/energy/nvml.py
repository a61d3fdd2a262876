"""NVIDIA cards: NVML."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Self

from fog_common.energy.model import EnergyConfig
from fog_common.energy.reader import Covers, Integral


class Nvml:
    """All graphics cards of the node, through libnvidia-ml: the energy counter (mJ) where the card has one, else power integrated."""

    name, source, period_s, held = "nvml", "measured", 1.0, False
    covers: Covers = "cards"

    def __init__(self, library: ctypes.CDLL, cards: list[ctypes.c_void_p]) -> None:
        self._library, self._cards = library, cards
        self._first = [self._energy(card) for card in cards]
        self._power = Integral(self._watts)
        if all(reading is not None for reading in self._first):
            self.period_s = 30.0

    @classmethod
    def found(cls, config: EnergyConfig, root: Path, library: str = "libnvidia-ml.so.1") -> Self | None:
        """The library speaks of this machine, so that it is opened only on the real root."""
        if root != Path("/"):
            return None
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
