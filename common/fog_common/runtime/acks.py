"""Times until letters are acknowledged, by this host's clock only. Pure."""

from __future__ import annotations

from typing import Any, Final

from fog_common.telemetry.metrics import ACK_SUM, ack_counter

LARGE_BYTES: Final = 256 * 1024
"""Size of a letter from which its time tells the link's bandwidth."""
MAX_OPEN: Final = 10_000


class Acks:
    """counters: acknowledgements by time (fog_common.telemetry.metrics.ack_counter) and the sum of the times, for the worker's report."""

    def __init__(self) -> None:
        self.counters: dict[str, float] = {}
        self.bandwidth_bytes_per_second: float | None = None
        """Bandwidth by the last large letter, a lower bound, because its time includes waiting at both ends."""
        self._open: dict[Any, tuple[float, int]] = {}

    def sent(self, now: float, key: Any, size_bytes: int) -> None:
        """A letter was sent. size_bytes: of its blobs."""
        if len(self._open) >= MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[key] = now, size_bytes

    def acked(self, now: float, key: Any) -> None:
        """A receiver has acknowledged the letter; a cast has several receivers."""
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
