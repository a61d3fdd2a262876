"""Measurements of the daemon between heartbeats: load, memory, temperature, bytes, energy. No thread; the owner calls sample()."""

from __future__ import annotations

import os
from pathlib import Path

from fog_agent.core import Sample
from fog_agent.node import probes
from fog_agent.process.workers import resident_bytes
from fog_common.energy.meter import Meter
from fog_common.energy.model import carbon_g
from fog_common.wire.messages import WorkerState


class Gauges:
    """Totals of the daemon and of all its workers, including ended ones; totals never fall."""

    def __init__(self, meter: Meter, folder: Path, root: Path = Path("/")) -> None:
        self._meter, self._folder, self._root = meter, folder, root
        self._counters: dict[str, float] = {}
        self._past = [0.0, 0.0, 0.0]
        """CPU seconds, bytes sent, bytes received of workers that have ended."""
        self._live: dict[str, tuple[int, list[float]]] = {}
        self._ticks = probes.cpu_times(root)

    @property
    def period_s(self) -> float:
        return self._meter.period_s

    def count(self, name: str, by: float = 1.0) -> None:
        self._counters[name] = self._counters.get(name, 0.0) + by

    def on_worker(self, state: WorkerState) -> None:
        incarnation, totals = self._live.get(state.job, (state.incarnation, [0.0, 0.0, 0.0]))
        if incarnation != state.incarnation:
            self._past = [past + last for past, last in zip(self._past, totals, strict=True)]
        now = [state.counters.get("cpu_seconds", 0.0), float(state.sent.total), float(state.received.total)]
        self._live[state.job] = (state.incarnation, now)

    def sample(self, now: float, workers: dict[str, int]) -> Sample:
        """Measure now. workers: resident bytes by job."""
        cpu, sent, received = (past + sum(totals[i] for _, totals in self._live.values()) for i, past in enumerate(self._past))
        own = os.times()
        cpu += own.user + own.system
        data = {name: value for name, value in (("data_sent_bytes", sent), ("data_received_bytes", received)) if value}
        sent += self._counters.get("ctl_sent_bytes", 0.0)
        received += self._counters.get("ctl_received_bytes", 0.0)
        used = self._meter.sample(now, cpu, sent, received)
        before, self._ticks = self._ticks, probes.cpu_times(self._root)
        total, free = probes.memory_bytes(self._root)
        grams = carbon_g(sum(used.values()), self._meter.config.gco2_per_kwh) if used else None
        known = {
            "cpu_ratio": probes.cpu_ratio(before, self._ticks),
            "memory_used_bytes": float(total - free) if total else None,
            "memory_free_bytes": float(free) if total else None,
            "disk_free_bytes": probes.disk_free_bytes(self._folder),
            "temperature_celsius": probes.temperature_c(self._root),
            "battery_ratio": probes.battery_level(self._root),
            "rss_bytes": float(resident_bytes(os.getpid())) or None,
            "workers_rss_bytes": float(sum(workers.values())) or None,
            "power_watts": self._meter.watts,
            "carbon_g": grams,
        }
        return Sample(
            gauges={name: value for name, value in known.items() if value is not None},
            counters={"cpu_seconds": cpu, **data, **self._counters, **self._meter.uses},
            energy_j=used,
        )
