"""Samples as Prometheus reads them: a custom collector of prometheus_client, in a registry of its own, and the text kept for a moment.

Imported only by who serves a page: an idle daemon has no use for the library. Names, kinds and labels are those of fog_common.telemetry.metrics.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import prometheus_client.samples as written
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry

from fog_common.telemetry.metrics import METRICS, Sample, Samples, parts, series_names

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
KEEP_S: Final = 1.0
"""Readers within this time get the same text."""
_KNOWN: Final = frozenset(series_names())


class Exposition:
    """look: asked for the samples, at most once in keep_s seconds, on the thread of the reader; what it raises, text() raises."""

    def __init__(self, look: Callable[[], Samples], keep_s: float = KEEP_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = CollectorRegistry(auto_describe=False)  # never the global one, which adds what Python's process did
        self._registry.register(SampleCollector(look))
        self._keep_s, self._clock = keep_s, clock
        self._lock = threading.Lock()
        self._text = b""
        self._until: float | None = None

    def text(self) -> bytes:
        """Text format 0.0.4. KeyError for a name that is not in the table; ValueError for a wrong number of labels."""
        with self._lock:  # a second reader takes what the first one made
            if self._until is None or self._clock() >= self._until:
                self._text = generate_latest(self._registry)
                self._until = self._clock() + self._keep_s
            return self._text


class SampleCollector(Collector):
    """One family for each metric of the table that has samples. No `_created` series: they would double the counters."""

    def __init__(self, look: Callable[[], Samples]) -> None:
        self._look = look

    def collect(self) -> Iterator[Family]:
        samples = self._look()
        if unknown := samples.keys() - _KNOWN:
            raise KeyError(f"not in METRICS: {', '.join(sorted(unknown))}")
        for metric in METRICS:
            family = Family(metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name, metric.help, metric.kind)
            for name, labels in parts(metric):
                family.samples.extend(_lines(name, labels, samples.get(name, ())))
            if family.samples:
                yield family


def _lines(name: str, labels: tuple[str, ...], series: list[Sample] | tuple[()]) -> Iterator[written.Sample]:
    size = len(labels)
    for values, value in series:
        if len(values) != size:
            raise ValueError(f"{name} has labels {labels}, got {values}")
        yield written.Sample(name, dict(zip(labels, values, strict=True)), value)


def render(samples: Mapping[str, list[Sample]]) -> bytes:
    """The text of these samples, once."""
    return Exposition(lambda: dict(samples)).text()
