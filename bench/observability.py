"""What it costs to be seen, and whether what is shown is true: time of a scrape, overhead of metrics and energy, bytes against the broker's.

    python -m bench.observability [scrape] [overhead] [bytes]

Every function returns {"value": …, and its parts}, as the other figures of the bench do.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from fog_common.bus.base import BusEvent, Connected, Received
from fog_common.bus.mqtt import MqttBus
from fog_common.metrics import NODE_GAUGES, USES, joules
from fog_common.wire.messages import Announce, Heartbeat, Profile
from fog_coordinator.core import Core
from fog_coordinator.effects import Record
from fog_coordinator.exporter import Exporter
from fog_coordinator.journal import Journal
from fog_coordinator.scrape import Look, LookAsked, Scrapes
from fogctl.client import Client
from fogctl.local_fleet import LocalFleet

BARS: Final[dict[str, tuple[str, float, str]]] = {
    "scrape_s": ("at most", 0.3, "scrape of 1 000 nodes x 20 series, over HTTP"),
    "metrics_overhead": ("at most", 0.05, "change of a round's time by metrics and energy, upper end of the 95 % interval"),
    "byte_error": ("at most", 0.02, "our byte counters / those of mosquitto's $SYS - 1"),
}
JOB: Final[dict[str, Any]] = {
    "method": {"name": "fedavg", "local_steps": 5},
    "model": {"name": "mlp", "hidden": [256]},
    "data": {"name": "digits"},
    "train": {"rounds": 120, "batch_size": 32, "lr": 0.01},
    "evaluation": {"where": "none"},
}

# -- scrape --------------------------------------------------------------------------------


def scrape(nodes: int = 1000, times: int = 15) -> dict[str, Any]:
    """Seconds from the request to the last byte of /metrics, over loopback, nothing cached. 20 series of each node.

    Every node has reported since the scrape before, so that all are written to the journal first, as the service does.
    """
    core = Core("bench")
    core.on_connected(1.0)
    gauges = {name: 0.123456789 for name in NODE_GAUGES}
    counters = {"ctl_sent_bytes": 123456.0, "ctl_received_bytes": 654321.0, "data_sent_bytes": 1e9, "data_received_bytes": 1e9}
    counters |= {joules("measured", use): 123.456 for use in USES}
    for number in range(nodes):
        core.on_announce(2.0, Announce(f"node-{number}", "n", Profile("edge", "home", torch=True)))

    def report(now: float) -> None:
        for number in range(nodes):
            core.on_heartbeat(now, Heartbeat(f"node-{number}", "n", uptime_s=now, gauges=gauges, counters=counters, energy_j={"measured": 1234.5}))

    exporter = Exporter(core)
    seconds, size, series = [], 0, 0
    with tempfile.TemporaryDirectory(prefix="foglearn-bench-") as folder:
        journal = Journal.in_folder(Path(folder))

        def write() -> None:
            rows = tuple(row for effect in core.take() if isinstance(effect, Record) for row in effect.rows)
            journal.write(rows, 0.0)

        def ask(asked: LookAsked) -> None:
            core.keep()
            write()
            asked.answer(Look(exporter.collect(4.0, connected=True, rejected={}), ()))

        for turn in range(times):
            report(3.0 + turn / 100)
            write()
            pages = Scrapes(ask).serve("127.0.0.1", 0)  # each with its own empty cache
            try:
                began = time.perf_counter()
                with urllib.request.urlopen(f"http://127.0.0.1:{pages.port}/metrics") as answer:
                    text = answer.read()
                seconds.append(time.perf_counter() - began)
            finally:
                pages.close()
            size, series = len(text), sum(not line.startswith(b"#") for line in text.splitlines())
        journal.close()
    return {"value": statistics.median(seconds), "max": max(seconds), "min": min(seconds), "bytes": size, "series": series, "nodes": nodes}


# -- overhead ------------------------------------------------------------------------------

NARROW: Final = 0.02
ENOUGH_S: Final = 420.0
"""Pairs beyond the least are made until then."""


def overhead(pairs: int = 20, most: int = 80, backend: str = "torch", scrape_every_s: float = 1.0) -> dict[str, Any]:
    """The same job on two fleets, turn by turn: what energy and metrics add to the mean time of a round.

    on: energy meter, gauges, counters of workers, and while its job runs a reader of /metrics, every second (fifteen times as often as the
    shipped Prometheus). off: agents with `metrics: off` and a coordinator without pages: nothing is sampled, workers neither measure nor
    report counters and gauges; what stays is that bytes are counted by plane, and the transfer's own tallies. The fleet that has no turn is
    idle. The order changes from pair to pair. At least `pairs`, and on a machine that is not quiet up to `most` or ENOUGH_S, until the
    interval is NARROW wide to each side.
    value: upper end of the 95 % interval of the median over pairs of log(on / off) (0.01 = one per cent slower).
    """
    with ExitStack() as stack:
        runs: dict[str, Callable[[str], float]] = {}
        for name in ("on", "off"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"foglearn-bench-{name}-"))
            options = {"metrics": name == "on", "energy": {"reader": "model" if name == "on" else "none"}}
            fleet = stack.enter_context(LocalFleet(Path(folder), 2, broker="mosquitto", backend=backend, metrics=name == "on", agent_options=options))
            client = stack.enter_context(fleet.client())
            fleet.wait_for_nodes(client, 3)
            runs[name] = _turn(client, fleet.metrics_url if name == "on" else "", scrape_every_s)
        return compared(runs, pairs, most)


def _turn(client: Client, url: str, scrape_every_s: float) -> Callable[[str], float]:
    """name of a job -> mean seconds of its rounds; url: read while it runs."""

    def run(name: str) -> float:
        over = threading.Event()
        reader = threading.Thread(target=_read, args=(url, over, scrape_every_s)) if url else None
        if reader is not None:
            reader.start()
        try:
            return _rounds(client, name)
        finally:
            over.set()
            if reader is not None:
                reader.join()

    return run


def compared(runs: Mapping[str, Callable[[str], float]], pairs: int, most: int, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """runs: `on` and `off`, each a job's name -> seconds of a round."""
    changes: list[float] = []
    seconds = {name: list[float]() for name in runs}
    for name, run in runs.items():  # warm: imports, caches, forked workers
        run(f"warm-{name}")
    until = clock() + ENOUGH_S
    for pair in range(most):
        if pair >= pairs and (narrow(changes) or clock() >= until):
            break
        took = {}
        for name in sorted(runs, reverse=bool(pair % 2)):
            took[name] = runs[name](f"pair-{pair}-{name}")
            seconds[name].append(took[name])
        changes.append(math.log(took["on"] / took["off"]))
    low, high = median_interval(changes)
    return {
        "value": math.expm1(high),
        "median": math.expm1(statistics.median(changes)),
        "lower": math.expm1(low),
        "pairs": len(changes),
        "on_s": statistics.median(seconds["on"]),
        "off_s": statistics.median(seconds["off"]),
        "changes": [round(math.expm1(change), 4) for change in changes],
    }


def narrow(changes: list[float]) -> bool:
    low, high = median_interval(changes)
    return high - low <= 2 * NARROW


def median_interval(values: list[float]) -> tuple[float, float]:
    """At least 95 % interval of the median, whatever the distribution: order statistics by the binomial law. At least 6 values."""
    n, ordered = len(values), sorted(values)
    below, k = 0.0, 0
    while below + math.comb(n, k) / 2**n <= 0.025:
        below += math.comb(n, k) / 2**n
        k += 1
    return ordered[k - 1], ordered[n - k]


def _rounds(client: Client, name: str) -> float:
    """Mean seconds of a round of one job, the first one's left out. The mean: what a scrape or a report costs falls on few rounds."""
    status = _finished(client, {**JOB, "name": name})
    ends = [record["wall_s"] for record in status["history"]]
    return (float(ends[-1]) - float(ends[0])) / (len(ends) - 1)


def _finished(client: Client, spec: dict[str, Any], limit_s: float = 300.0) -> dict[str, Any]:
    job = client.request("job.submit", spec=spec)["job"]
    until = time.monotonic() + limit_s
    while (status := client.request("job.status", job=job))["state"] != "finished":
        if status["state"] in ("failed", "cancelled") or time.monotonic() > until:
            raise SystemExit(f"bench: {job} did not finish: {status['state']}: {status['why'] or status['line']}")
        time.sleep(0.25)
    return status


def _read(url: str, over: threading.Event, every_s: float) -> None:
    """A Prometheus in small."""
    while not over.wait(every_s):
        with urllib.request.urlopen(url, timeout=30) as answer:
            answer.read()


# -- bytes ---------------------------------------------------------------------------------

SYS_INTERVAL_S: Final = 2
SYS: Final = {"received": "$SYS/broker/publish/bytes/received", "sent": "$SYS/broker/publish/bytes/sent"}


def byte_counters(rounds: int = 20, backend: str = "torch") -> dict[str, Any]:
    """Our counters of a job on a fleet, and mosquitto's, read one interval of its after the end. What nodes send, the broker receives.

    value: the larger of both relative differences.
    """
    with tempfile.TemporaryDirectory(prefix="foglearn-bench-") as folder:
        lines = f"sys_interval {SYS_INTERVAL_S}"
        with LocalFleet(Path(folder), 3, broker="mosquitto", backend=backend, broker_lines=lines) as fleet, fleet.client() as client:
            fleet.wait_for_nodes(client, 4)
            _finished(client, {**JOB, "name": "bytes", "model": {"name": "mlp", "hidden": [512, 512]}, "train": {**JOB["train"], "rounds": rounds}})
            ours, theirs = _settled(lambda: _counted(fleet.metrics_url)), _asked(fleet)
    found = {
        "received": {"ours": ours["sent"], "mosquitto": theirs["received"]},
        "sent": {"ours": ours["received"], "mosquitto": theirs["sent"]},
    }
    errors = {name: abs(pair["ours"] / pair["mosquitto"] - 1.0) for name, pair in found.items()}
    return {"value": max(errors.values()), "errors": errors, **found}


def _counted(url: str) -> dict[str, float]:
    """Payload that coordinator, agents and workers sent and received, of all planes."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    names = ("fog_job_bytes_total{", "fog_node_bytes_total{", "fog_coordinator_bytes_total{")
    total = {"sent": 0.0, "received": 0.0}
    for line in text.splitlines():
        for direction in total:
            if line.startswith(names) and f'direction="{direction}"' in line and 'plane="data"' not in line:  # the jobs' own, by node
                total[direction] += float(line.rpartition(" ")[2])
    return total


def _settled(look: Callable[[], dict[str, float]], limit_s: float = 20.0) -> dict[str, float]:
    """The figures once they rest: the workers' last reports come after the last round. At rest only heartbeats go on, which are small."""
    before, until = look(), time.monotonic() + limit_s
    while time.monotonic() < until:
        time.sleep(2.5)
        after = look()
        if all(abs(after[name] - before[name]) < 0.001 * before[name] for name in before):
            return after
        before = after
    return before


def _asked(fleet: LocalFleet) -> dict[str, float]:
    """mosquitto's own counters at the first moment, after an interval of its, when they are published again."""
    events: list[BusEvent] = []
    ready = threading.Event()

    def on_event(event: BusEvent) -> None:
        events.append(event)
        if isinstance(event, Connected):
            ready.set()

    bus = MqttBus(fleet.broker_config, "bench-sys", on_event)
    bus.subscribe(*SYS.values())
    bus.start()
    try:
        ready.wait(10)
        time.sleep(SYS_INTERVAL_S * 1.5)  # what comes at once is retained, of the interval before
    finally:
        bus.close()
    last = {event.topic: float(event.payload) for event in events if isinstance(event, Received)}
    return {name: last[topic] for name, topic in SYS.items()}


FIGURES: Final[dict[str, tuple[str, Callable[[], dict[str, Any]]]]] = {
    "scrape": ("scrape_s", scrape),
    "overhead": ("metrics_overhead", overhead),
    "bytes": ("byte_error", byte_counters),
}


def measure() -> dict[str, dict[str, Any]]:
    """All three, under the names of BARS."""
    return {name: figure() for name, figure in FIGURES.values()}


if __name__ == "__main__":
    for chosen in sys.argv[1:] or FIGURES:
        name, figure = FIGURES[chosen]
        sys.stdout.write(json.dumps({name: figure()}, indent=1) + "\n")
