"""How long letters take until their receivers acknowledge them. Own clock only: no peer's time is trusted. Pure."""

from __future__ import annotations

from typing import Any, Final

from fog_common.telemetry.metrics import ACK_SUM, ack_counter

LARGE_BYTES: Final = 256 * 1024
"""A letter with so much says something of the link's bandwidth."""
MAX_OPEN: Final = 10_000


class Acks:
    """counters: acknowledgements by time (fog_common.telemetry.metrics.ack_counter) and the sum of the times, for the worker's report."""

    def __init__(self) -> None:
        self.counters: dict[str, float] = {}
        self.bandwidth_bytes_per_second: float | None = None
        """Of the last large letter; its time includes waiting at both ends, so the link has at least this."""
        self._open: dict[Any, tuple[float, int]] = {}

    def sent(self, now: float, key: Any, size_bytes: int) -> None:
        """size_bytes: of the blobs."""
        if len(self._open) >= MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[key] = now, size_bytes

    def acked(self, now: float, key: Any) -> None:
        """One receiver has it; of a cast there may be several."""
        if key not in self._open:
            return
        began, size = self._open[key]
        seconds = max(0.0, now - began)
        name = ack_counter(seconds)
        self.counters[name] = self.counters.get(name, 0.0) + 1.0
        self.counters[ACK_SUM] = self.counters.get(ACK_SUM, 0.0) + seconds
        if size >= LARGE_BYTES and seconds > 0:
            self.bandwidth_bytes_per_second = size / seconds

    def forget(self, key: Any) -> None:
        self._open.pop(key, None)
