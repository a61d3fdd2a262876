"""The fleet as Prometheus sees it: samples collected from the core by the thread that owns it, rendered and kept for others.

A node that left keeps `fog_node_up 0` and the time when it was last seen; its other series go once it has missed three reports. Jobs
are shown until some minutes after their end, so that their last values are scraped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fog_common.errors import ConfigError
from fog_common.runtime.machine import RoundRecord
from fog_common.telemetry.metrics import (
    ACK_COUNTERS,
    ACK_LE,
    ACK_SUM,
    DIRECTIONS,
    PLANES,
    REFUSED_UPDATES,
    ROUND_LE,
    SOURCES,
    Samples,
    add_histogram,
    add_node,
    add_worker,
    bucket,
)
from fog_common.wire.api.states import ENDED, JOB_STATES, NODE_STATES
from fog_common.wire.messages import TaskState, WorkerState
from fog_coordinator.core import Core
from fog_coordinator.reading import plans, status
from fog_coordinator.reading.headline import headline, last_number
from fog_coordinator.state.book import Entry
from fog_coordinator.state.counts import by_plane
from fog_coordinator.state.history import History
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Node
from fog_coordinator.state.rules import READY
from fog_learning.ops import Op

LINGER_S: Final = 300.0
"""Ended jobs are shown this long."""
MISSED: Final = 3
"""Reports after which a node's measurements are no longer shown."""


class Exporter:
    """collect() is called by the owner of the core. The sums of ended and forgotten jobs stay in the fleet's histograms."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._rounds = [0.0] * (len(ROUND_LE) + 1)
        self._rounds_s = 0.0
        self._timed: dict[str, int] = {}
        """job -> newest round that is in the histogram"""
        self._acks: dict[str, dict[str, float]] = {}
        """job -> its acknowledgements, as last seen"""
        self._acks_past: dict[str, float] = {}

    def collect(self, now: float, *, connected: bool, rejected: Mapping[str, int], traffic: Mapping[str, int] | None = None) -> Samples:
        """All samples at `now`. rejected: messages that the service dropped, by reason; traffic: bytes by direction."""
        core, samples = self._core, Samples()
        samples["fog_build_info"] = [((core.version or "unknown",), 1.0)]
        samples["fog_broker_up"] = [((), float(connected))]
        if core.started_at is not None:
            samples["fog_coordinator_start_timestamp_seconds"] = [((), core.started_at)]
        samples["fog_coordinator_rejected_messages_total"] = [((reason,), float(count)) for reason, count in sorted(rejected.items())]
        samples["fog_coordinator_bytes_total"] = [((direction,), float(count)) for direction, count in (traffic or {}).items()]
        nodes = list(core.registry)
        samples["fog_nodes"] = [((state,), float(sum(node.state == state for node in nodes))) for state in NODE_STATES]
        samples["fog_jobs"] = [((state,), float(sum(status.shown_state(core, job) == state for job in core.book.jobs))) for state in JOB_STATES]
        fresh = {node.node for node in nodes if self._fresh(now, node)}
        self._nodes(samples, nodes, fresh)
        for job in core.book.jobs:
            if job.state not in ENDED or job.ended_at is None or now - job.ended_at < LINGER_S:
                self._job(samples, now, job, fresh)
        self._histograms(samples)
        return samples

    def _fresh(self, now: float, node: Node) -> bool:
        return node.reported_at > 0.0 and now - node.reported_at <= MISSED * self._core.rules.heartbeat_s

    # -- nodes -----------------------------------------------------------------------------

    def _nodes(self, samples: Samples, nodes: list[Node], fresh: set[str]) -> None:
        up, seen = samples.setdefault("fog_node_up", []), samples.setdefault("fog_node_last_seen_timestamp_seconds", [])
        carbon: dict[str, float] = {}
        for node in nodes:
            labels = (node.node, node.profile.site)
            up.append((labels, float(node.online and node.node in fresh)))
            if node.spoke_at:
                seen.append((labels, node.spoke_at))
            totals = node.totals.sums()
            if grams := totals.get("carbon_g"):
                carbon[node.profile.site] = carbon.get(node.profile.site, 0.0) + grams
            if node.node in fresh:
                add_node(samples, *labels, node.measured, totals)
        samples["fog_site_carbon_grams_total"] = [((site,), grams) for site, grams in sorted(carbon.items())]

    # -- jobs ------------------------------------------------------------------------------

    def _job(self, samples: Samples, now: float, job: Job, fresh: set[str]) -> None:
        core, name = self._core, (job.id,)
        history = core.book[job.id].history

        def add(metric: str, value: float | None, *labels: str) -> None:
            if value is not None:
                samples.setdefault(metric, []).append(((job.id, *labels), value))

        add("fog_job_state", 1.0, status.shown_state(core, job))
        add("fog_job_round", float(status.current_round(core, job)))
        add("fog_job_rounds", float(job.rounds))
        add("fog_job_view", float(job.view))
        add("fog_job_wall_seconds", job.age_s(job.ended_at if job.ended_at is not None else now) if job.started_at is not None else None)
        newest = history.rounds.get(history.newest)
        add("fog_job_progress_timestamp_seconds", max(job.since, newest.at if newest is not None else 0.0))
        if newest is not None:
            before = history.rounds.get(history.newest - 1)
            add("fog_job_round_seconds", duration(newest.record, before.record if before is not None else None))
        if job.plan is not None:
            add("fog_job_predicted_step_seconds", job.plan.seconds)
            add("fog_job_step_seconds", measured.step_s if (measured := plans.measure(job, history)) is not None else None)
        for figure in headline(core.book[job.id]):
            value = last_number(history, figure.name)
            add("fog_job_headline", value, figure.name)
            if figure.metric:
                add(figure.metric, value)
        sent = by_plane(job.sent())
        sums = core.book[job.id].tally.sums
        for plane in PLANES:
            for direction in DIRECTIONS:
                count = sent[plane] if direction == "sent" else sums.get(f"received_bytes/{plane}", 0.0)
                if count:
                    samples.setdefault("fog_job_bytes_total", []).append(((*name, plane, direction), count))
                add("fog_job_messages_total", sums.get(f"{direction}_messages_{plane}"), plane, direction)
        add("fog_job_ideal_bytes_total", float(job.ideal_bytes()))
        add("fog_job_repaired_chunks_total", _summed(sums, "repaired_"))
        add("fog_job_rejected_letters_total", _summed(sums, "rejected_"))
        add("fog_job_restored_tasks_total", sums.get("restored_total", 0.0))
        for reason in sorted({*REFUSED_UPDATES.values()}):
            counted = sum(sums.get(measured, 0.0) for measured, of in REFUSED_UPDATES.items() if of == reason)
            add("fog_job_refused_updates_total", counted, reason)
        for family, seconds in op_seconds(sums, _rows(core.book[job.id])).items():
            add("fog_job_op_seconds_total", seconds, family)
        for key, joules in job.energy_by.items():
            role, source, use = key.split("/")
            if source in SOURCES:
                add("fog_job_energy_joules_total", joules, role, source, use)
        for budget in status.uses(core, job, now):
            add("fog_job_budget_used_ratio", budget.ratio if budget.used is not None else None, budget.budget)
        if job.state not in ENDED:
            self._workers(samples, job, fresh)

    def _workers(self, samples: Samples, job: Job, fresh: set[str]) -> None:
        core = self._core
        root: TaskState | None = None
        rounds: dict[tuple[str, str], int] = {}
        errors: list[float] = []
        workers: dict[str, WorkerState] = {}
        for name in sorted(job.participants() & fresh):
            node = core.registry.get(name)
            worker = node.workers.get(job.id) if node is not None else None
            if worker is not None and worker.phase == READY:
                workers[name] = worker
                add_worker(samples, job.id, name, worker.gauges)
                if "consensus_error" in worker.gauges:
                    errors.append(worker.gauges["consensus_error"])
        states = {(name, state.task): state for name, worker in workers.items() for state in worker.tasks if state.since}
        for seat in job.seats:
            state = states.get((seat.node, seat.task))
            if state is None:
                continue
            rounds[seat.node, seat.role] = max(state.round, rounds.get((seat.node, seat.role), 0))
            if seat.task == job.root:
                root = state
                if (staleness := workers[seat.node].gauges.get("staleness_rounds")) is not None:
                    samples.setdefault("fog_job_staleness_rounds", []).append(((job.id,), staleness))
        samples.setdefault("fog_task_round", []).extend(((job.id, node, role), float(number)) for (node, role), number in rounds.items())
        if errors:
            samples.setdefault("fog_job_consensus_error", []).append(((job.id,), max(errors)))
        if root is not None:
            waits = root.waiting
            who = set(waits.who) if waits is not None and waits.have else set()
            samples.setdefault("fog_job_stragglers", []).append(((job.id,), float(len(who))))
            places = {seat.node for seat in job.seats if seat.task != job.root}
            late = {seat.node for seat in job.seats if seat.task in who}
            samples.setdefault("fog_worker_awaited", []).extend(((job.id, node), float(node in late)) for node in sorted(places & fresh))

    # -- the whole fleet -------------------------------------------------------------------

    def _histograms(self, samples: Samples) -> None:
        for entry in self._core.book:
            self._time(entry.job.id, entry.history)
        for name in [name for name in self._acks if name not in self._core.book]:
            _add(self._acks_past, self._acks.pop(name))
            self._timed.pop(name, None)
        total = dict(self._acks_past)
        for entry in self._core.book:
            sums = entry.tally.sums
            self._acks[entry.job.id] = {counter: sums[counter] for counter in (*ACK_COUNTERS, ACK_SUM) if counter in sums}
            _add(total, self._acks[entry.job.id])
        counts = [total.get(counter, 0.0) for counter in ACK_COUNTERS]
        add_histogram(samples, "fog_ack_round_trip_seconds", ACK_LE, counts, total.get(ACK_SUM, 0.0))
        add_histogram(samples, "fog_round_duration_seconds", ROUND_LE, self._rounds, self._rounds_s)

    def _time(self, name: str, history: History) -> None:
        """Rounds that are new since the last look. One that is closed again after a fall-back counts once."""
        last = self._timed.get(name, 0)
        if history.newest <= last:
            return
        for number in sorted(number for number in history.rounds if number > last):
            before = history.rounds.get(number - 1)
            seconds = duration(history.rounds[number].record, before.record if before is not None else None)
            if seconds is not None:
                self._rounds[bucket(ROUND_LE, seconds)] += 1.0
                self._rounds_s += seconds
        self._timed[name] = history.newest


def duration(record: RoundRecord, before: RoundRecord | None) -> float | None:
    """Seconds of job time between the ends of two rounds, the first one's since the beginning; None if the one before is not known."""
    if before is None:
        return record.closed_at if record.round <= 1 else None
    return max(0.0, record.closed_at - before.closed_at)


def _rows(entry: Entry) -> tuple[Op, ...]:
    """Ops of the job's method; () for an ended job whose file this version cannot read."""
    try:
        return entry.method.ops
    except ConfigError:
        return ()


def op_seconds(sums: Mapping[str, float], rows: Iterable[Op]) -> dict[str, float]:
    """Seconds by family of ops, from counters `op_NAME_seconds`. rows: of the job's method; ops without a row are `other`."""
    families = {row.name: row.family for row in rows}
    found: dict[str, float] = {}
    for name, seconds in sums.items():
        if name.startswith("op_") and name.endswith("_seconds") and name != "op_seconds":
            family = families.get(name[len("op_") : -len("_seconds")], "other")
            found[family] = found.get(family, 0.0) + seconds
    return found


def _summed(sums: Mapping[str, float], prefix: str) -> float:
    return sum(value for name, value in sums.items() if name.startswith(prefix))


def _add(total: dict[str, float], counts: Mapping[str, float]) -> None:
    for name, value in counts.items():
        total[name] = total.get(name, 0.0) + value
