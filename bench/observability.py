"""What it costs to be seen, and whether what is shown is true: time of a scrape, overhead of metrics and energy, bytes against the broker's.

    python -m bench.observability [scrape] [overhead] [bytes]

Every function returns {"value": …, and its parts}, as the other figures of the bench do.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from fog_common.bus.base import BusEvent, Connected, Received
from fog_common.bus.mqtt import MqttBus
from fog_common.telemetry.metrics import NODE_GAUGES, USES, joules
from fog_common.wire.api.states import CANCELLED, ENDED
from fog_common.wire.messages import Announce, Heartbeat, Profile
from fog_coordinator.core import Core
from fog_coordinator.reading.exporter import Exporter
from fog_coordinator.shell.journal import Journal
from fog_coordinator.shell.scrape import Look, LookAsked, Scrapes
from fog_coordinator.state.effects import JournalRecord
from fogctl.client import Client
from fogctl.fleet.local_fleet import CLOUD_NODE, LocalFleet
from fogctl.show.watch import whole_status

BARS: Final[dict[str, tuple[str, float, str]]] = {
    "scrape_s": ("at most", 0.3, "scrape of 1 000 nodes x 20 series, over HTTP"),
    "metrics_overhead": ("at most", 0.05, "change of a round's time by metrics and energy, upper end of the 95 % interval"),
    "byte_error": ("at most", 0.02, "our byte counters / those of mosquitto's $SYS - 1"),
}
JOB: Final[dict[str, Any]] = {
    "method": {"name": "fedavg", "local_steps": 5},
    "model": {"name": "mlp", "hidden": [256]},
    "data": {"name": "digits"},
    "train": {"rounds": 100_000, "batch_size": 32, "lr": 0.01},
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
            rows = tuple(row for effect in core.take() if isinstance(effect, JournalRecord) for row in effect.rows)
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
"""More comparisons than the least are made until then."""
TURN_S: Final = 1.0
BLOCKS: Final = 10
"""Comparisons that one pair of jobs gives."""
PAUSE_S: Final = 0.5
"""A round that took longer was stopped in the middle. A round takes about 0.02 s, a pause at least TURN_S."""
DISCARDED: Final = 3
"""Pairs of jobs that may be unusable."""

Turn = tuple[str, float]
"""Which of the two jobs runs, and for how many seconds."""


class Racer:
    """A fleet whose job runs only when it has its turn: else its workers are stopped (SIGSTOP)."""

    def __init__(self, fleet: LocalFleet, client: Client, url: str, scrape_every_s: float) -> None:
        """url: read while it runs."""
        self._fleet, self._client, self._url, self._every_s = fleet, client, url, scrape_every_s
        self._job, self._workers = "", list[int]()
        self._unread_s = 0.0
        """For how long it has run since the pages were read."""

    def start(self, name: str) -> None:
        """A job that has no end of its own, stopped once its first rounds (imports, caches) are done."""
        self._job = self._client.request("job.submit", spec={**JOB, "name": name})["job"]
        _until(self._client, self._job, lambda status: status["round"] >= 5)
        self._workers = [pid for node in (CLOUD_NODE, *self._fleet.agents) for pid in self._fleet.workers_of(node)]
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> None:
        self._signal(signal.SIGCONT)
        end = time.monotonic() + seconds
        self._unread_s += seconds
        if self._url and self._unread_s >= self._every_s:
            self._unread_s = 0.0
            time.sleep(seconds / 2)
            _read(self._url)
        time.sleep(max(0.0, end - time.monotonic()))
        self._signal(signal.SIGSTOP)

    def end(self) -> list[list[float]]:
        """Ends the job. Seconds of the rounds of each turn, but for the first two and the one that was stopped."""
        self._signal(signal.SIGCONT)
        self._client.request("job.cancel", job=self._job)
        _until(self._client, self._job, lambda status: status["state"] == CANCELLED)
        ends = [float(record.wall_s) for record in whole_status(self._client, self._job).history]
        return turns_of([after - before for before, after in pairwise(ends)])

    def _signal(self, signum: int) -> None:
        for pid in self._workers:
            os.kill(pid, signum)


def overhead(least: int = 50, backend: str = "torch", scrape_every_s: float = 5.0) -> dict[str, Any]:
    """The same job on two fleets, second by second in turn: what energy and metrics add to the mean time of a round.

    on: energy meter, gauges, counters of workers, and a reader of /metrics after every five seconds in which its job runs (three times as
    often as the shipped Prometheus). off: agents with `metrics: off` and a coordinator without pages: nothing is sampled, workers neither measure nor
    report counters and gauges; what stays is that bytes are counted by plane, and the transfer's own tallies. Both jobs live at the same
    time; whose turn it is not has its workers stopped, so that a machine whose speed changes within seconds changes both alike. A comparison
    is one of them for TURN_S, the other for twice that, the first again; who is in the middle changes, and after BLOCKS of them the jobs do.
    A worker that is woken has reports to make up for, so `on` makes more of them per round than it would. At least `least` comparisons
    (the processes of a job have some luck of their own: five pairs), and more until the interval is NARROW wide to each side or ENOUGH_S are over.
    value: upper end of the 95 % interval of the median over comparisons of log(on / off) (0.01 = one per cent slower).
    """
    with ExitStack() as stack:
        racers: dict[str, Racer] = {}
        for name in ("on", "off"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"foglearn-bench-{name}-"))
            options = {"metrics": name == "on", "energy": {"reader": "model" if name == "on" else "none"}}
            fleet = stack.enter_context(LocalFleet(Path(folder), 2, broker="mosquitto", backend=backend, metrics=name == "on", agent_options=options))
            client = stack.enter_context(fleet.client())
            fleet.wait_for_nodes(client, 3)
            racers[name] = Racer(fleet, client, fleet.metrics_url if name == "on" else "", scrape_every_s)

        def race(name: str) -> list[Race]:
            for side, racer in racers.items():
                racer.start(f"{name}-{side}")
            plan = turns(BLOCKS)
            time.sleep(1.5 * PAUSE_S)  # the pause before the first turn
            for side, seconds in plan:
                racers[side].turn(seconds)
            ran = {side: iter(racer.end()) for side, racer in racers.items()}
            return blocks([(side, next(ran[side], [])) for side, _ in plan])

        return compared(race, least)


Race = dict[str, list[float]]
"""Seconds of the rounds of one comparison, by `on` and `off`."""


def turns(blocks: int) -> list[Turn]:
    """off for a turn, on for two, off for one; the next comparison the other way round: they always alternate."""
    found: list[Turn] = []
    for number in range(blocks):
        outer, inner = ("on", "off") if number % 2 else ("off", "on")
        found += [(outer, TURN_S), (inner, 2 * TURN_S), (outer, TURN_S)]
    return found


def turns_of(seconds: list[float]) -> list[list[float]]:
    """seconds: of all rounds, one after another -> those of each turn. What was before the first pause is no turn."""
    found: list[list[float]] = []
    for took in seconds:
        if took > PAUSE_S:
            found.append([])
        elif found:
            found[-1].append(took)
    return [each[2:] for each in found]


def blocks(ran: list[tuple[str, list[float]]]) -> list[Race]:
    """Three turns are a comparison. None at all if a turn has no rounds: then some other round took as long as a pause, or a fleet stood still."""
    if not all(rounds for _, rounds in ran):
        return []
    return [{first[0]: first[1] + last[1], middle[0]: middle[1]} for first, middle, last in zip(*[iter(ran)] * 3, strict=True)]


def compared(race: Callable[[str], list[Race]], least: int, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """race: name of a pair of jobs -> their comparisons, none if they are unusable."""
    changes: list[float] = []
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    until, number, discarded = clock() + ENOUGH_S, 0, 0
    while len(changes) < least or not (narrow(changes) or clock() >= until):
        found = race(f"race-{number}")
        number += 1
        discarded += not found
        if discarded > DISCARDED:
            raise SystemExit(f"bench: {discarded} of {number} pairs of jobs could not be told apart by their pauses; is the machine busy?")
        for each in found:
            means = {side: statistics.mean(rounds) for side, rounds in each.items()}
            changes.append(math.log(means["on"] / means["off"]))
            for side, mean in means.items():
                seconds[side].append(mean)
    low, high = median_interval(changes)
    return {
        "value": math.expm1(high),
        "median": math.expm1(statistics.median(changes)),
        "lower": math.expm1(low),
        "mean": math.expm1(statistics.mean(changes)),
        "comparisons": len(changes),
        "jobs": number,
        "discarded": discarded,
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


def _until(client: Client, job: str, good: Callable[[dict[str, Any]], bool], limit_s: float = 300.0) -> None:
    until = time.monotonic() + limit_s
    while not good(status := client.request("job.status", job=job)):
        if status["state"] in ENDED or time.monotonic() > until:
            raise SystemExit(f"bench: {job} is {status['state']}: {status['why'] or status['line']}")
        time.sleep(0.1)


def _read(url: str) -> None:
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
            spec = {**JOB, "name": "bytes", "model": {"name": "mlp", "hidden": [512, 512]}, "train": {**JOB["train"], "rounds": rounds}}
            job = client.request("job.submit", spec=spec)["job"]
            _until(client, job, lambda status: status["state"] == "finished")
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
