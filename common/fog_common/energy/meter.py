"""Joules since the agent began, by source. No thread: whoever owns the meter samples it."""

from __future__ import annotations

from pathlib import Path

from fog_common.energy.model import EnergyConfig, Parts, modelled
from fog_common.energy.readers import Reader, readers


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
        self._parts = Parts()
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
    def parts(self) -> Parts:
        """All joules divided by use (idle, compute, send, receive), in the proportions of the model; measured ones too."""
        return self._parts

    def sample(self, now: float, cpu_seconds: float, sent_bytes: float = 0.0, received_bytes: float = 0.0) -> dict[str, float]:
        """Joules by source (measured, fitted, modelled) since the first sample. Arguments are totals; a total that falls began anew."""
        before, self._before = self._before, (now, cpu_seconds, sent_bytes, received_bytes)
        if before is None:
            for reader in self._readers:
                self._grown(reader, now)
            return self.joules
        seconds, cpu, sent, received = (
            max(0.0, now - before[0]),
            _growth(before[1], cpu_seconds),
            _growth(before[2], sent_bytes),
            _growth(before[3], received_bytes),
        )
        parts = None if self.config.reader == "none" else modelled(self.config, seconds, cpu, sent, received)
        spent, known, board = 0.0, False, False
        for reader in self._readers:
            grown = self._grown(reader, now)
            if grown is not None:
                self._add(reader.source, grown)
                spent, known = spent + grown, True
                board = board or reader.name != "nvml"
        if not board and parts is not None:
            self._add("modelled", parts.total)
            spent, known = spent + parts.total, True
        if parts is not None and known and parts.total > 0:
            self._parts += parts.scaled(spent / parts.total)
        self.watts = spent / seconds if known and seconds > 0 else None
        return self.joules

    @property
    def joules(self) -> dict[str, float]:
        return dict(self._joules)

    def _add(self, source: str, joules: float) -> None:
        self._joules[source] = self._joules.get(source, 0.0) + joules

    def _grown(self, reader: Reader, now: float) -> float | None:
        """Joules of this reader in the interval; None if it did not know both ends."""
        last, total = self._last.pop(reader.name, None), reader.read_joules(now)
        if total is None:
            return None
        self._last[reader.name] = total
        return None if last is None else max(0.0, total - last)


def _growth(before: float, after: float) -> float:
    return after - before if after >= before else after
