"""Joules since the agent began, by source. No thread: whoever owns the meter samples it."""

from __future__ import annotations

from pathlib import Path

from fog_common.energy.model import EnergyConfig, Parts, modelled
from fog_common.energy.reader import Reader
from fog_common.energy.sensors import readers
from fog_common.telemetry.metrics import UNDIVIDED, USES, joules


class Meter:
    """Every interval between two samples is counted once, under the best source that knew it.

    A reader of the whole node replaces the model; one that covers only graphics cards is added to it. A reader that fails for an
    interval is replaced by the model for that interval, so joules only grow and what is unknown is absent, never zero.
    """

    def __init__(self, config: EnergyConfig, root: Path = Path("/"), found: list[Reader] | None = None) -> None:
        self.config = config
        self._readers = readers(config, root) if found is None else found
        self._last: dict[str, float] = {}
        self._joules: dict[str, float] = {}
        self._uses: dict[str, float] = {}
        self._before: tuple[float, float, float, float] | None = None
        self.watts: float | None = None
        """Mean power over the last interval; None if unknown."""

    @property
    def source(self) -> str:
        """For the node's profile: 'measured rapl+nvml', 'fitted pmic', 'modelled', or '' (nothing known)."""
        if self._readers:
            return f"{self._readers[0].source} {'+'.join(reader.name for reader in self._readers)}"
        return "" if self.config.reader == "none" or self.config.idle_w is None else "modelled"

    @property
    def period_s(self) -> float:
        """Sample at least this often."""
        return min((reader.period_s for reader in self._readers), default=30.0)

    @property
    def uses(self) -> dict[str, float]:
        """All joules by `joules(source, use)`. Those of the board, measured or not, in the proportions of the model; those of graphics cards
        are computing. Undivided without a model."""
        return dict(self._uses)

    def sample(self, now: float, cpu_seconds: float, sent_bytes: float = 0.0, received_bytes: float = 0.0) -> dict[str, float]:
        """Joules by source (measured, fitted, modelled) since the first sample. Arguments are totals; a total that falls began anew."""
        totals = [(reader, reader.read_joules(now)) for reader in self._readers]
        if self._before is not None and any(reader.held for reader in self._readers):
            return self.joules  # the interval goes on
        before, self._before = self._before, (now, cpu_seconds, sent_bytes, received_bytes)
        if before is None:
            for reader, total in totals:
                self._grown(reader, total)
            return self.joules
        seconds, cpu, sent, received = (
            max(0.0, now - before[0]),
            _growth(before[1], cpu_seconds),
            _growth(before[2], sent_bytes),
            _growth(before[3], received_bytes),
        )
        parts = None if self.config.reader == "none" else modelled(self.config, seconds, cpu, sent, received)
        spent, known, board = 0.0, False, False
        for reader, total in totals:
            grown = self._grown(reader, total)
            if grown is not None:
                cards = reader.covers == "cards"
                self._add(reader.source, grown, Parts(compute=1.0) if cards else parts)
                spent, known = spent + grown, True
                board = board or not cards
        if not board and parts is not None:
            self._add("modelled", parts.total, parts)
            spent, known = spent + parts.total, True
        self.watts = spent / seconds if known and seconds > 0 else None
        return self.joules

    @property
    def joules(self) -> dict[str, float]:
        return dict(self._joules)

    def _add(self, source: str, grown: float, parts: Parts | None) -> None:
        """parts: in whose proportions they were used."""
        self._joules[source] = self._joules.get(source, 0.0) + grown
        by = {use: getattr(parts, use) / parts.total for use in USES} if parts is not None and parts.total > 0 else {UNDIVIDED: 1.0}
        for use, ratio in by.items():
            if not ratio:
                continue
            name = joules(source, use)
            self._uses[name] = self._uses.get(name, 0.0) + grown * ratio

    def _grown(self, reader: Reader, total: float | None) -> float | None:
        """Joules of this reader in the interval; None if it did not know both ends."""
        last = self._last.pop(reader.name, None)
        if total is None:
            return None
        self._last[reader.name] = total
        return None if last is None else max(0.0, total - last)


def _growth(before: float, after: float) -> float:
    return after - before if after >= before else after
