"""Every exported metric, once: name, kind, help, labels, and what agents and workers call it. Pure; no dependency.

Base units (seconds, bytes, joules, watts, ratios from 0 to 1); labels are closed sets or ids of the fleet: node, site, job, role, plane,
direction, source, and small vocabularies (state, op, use, budget, reason, version). Never a round number, a task id, or a text.
A value that is not known is absent, never 0.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from msgspec import Struct

Value = float
Sample = tuple[tuple[str, ...], Value]
"""(label values in the metric's order, value)"""
Samples = dict[str, list[Sample]]
"""Metric name -> its series. Of a histogram: names with _bucket, _sum, _count."""


class Metric(Struct, frozen=True):
    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


_NODE = ("node", "site")
_WORKER = ("job", "node")

METRICS: Final = (
    # -- the coordinator itself ------------------------------------------------------------
    Metric("fog_build_info", "gauge", "1, with the version of the coordinator.", ("version",)),
    Metric("fog_broker_up", "gauge", "1 while the coordinator is connected to its broker."),
    Metric("fog_coordinator_start_timestamp_seconds", "gauge", "When the coordinator began, Unix time."),
    Metric("fog_coordinator_bytes_total", "counter", "Payload of all that the coordinator said and heard, results included.", ("direction",)),
    Metric("fog_coordinator_rejected_messages_total", "counter", "Messages that were dropped: malformed, forged, unknown.", ("reason",)),
    Metric("fog_nodes", "gauge", "Nodes by state: online, offline, unknown.", ("state",)),
    Metric("fog_jobs", "gauge", "Jobs that are remembered, by state.", ("state",)),
    Metric("fog_ack_round_trip_seconds", "histogram", "From the sending of a letter to its acknowledgement by the receiver, blobs included."),
    Metric("fog_round_duration_seconds", "histogram", "Time between the ends of two rounds."),
    # -- nodes: at most 20 series each while idle ------------------------------------------
    Metric("fog_node_up", "gauge", "1 while the node reports, 0 since it left or has missed three reports.", _NODE),
    Metric("fog_node_last_seen_timestamp_seconds", "gauge", "When something was heard of the node last, by the coordinator's clock.", _NODE),
    Metric("fog_node_cpu_ratio", "gauge", "Load of all its cores, 0 to 1.", _NODE),
    Metric("fog_node_memory_used_bytes", "gauge", "Memory in use.", _NODE),
    Metric("fog_node_memory_free_bytes", "gauge", "Memory that is available.", _NODE),
    Metric("fog_node_disk_free_bytes", "gauge", "Free space where the agent keeps its state.", _NODE),
    Metric("fog_node_temperature_celsius", "gauge", "Temperature of the hottest sensor.", _NODE),
    Metric("fog_node_battery_ratio", "gauge", "Charge of the battery, 0 to 1.", _NODE),
    Metric("fog_node_agent_resident_bytes", "gauge", "Resident memory of the agent's daemon.", _NODE),
    Metric("fog_node_power_watts", "gauge", "Mean power over the last reporting interval.", _NODE),
    Metric(
        "fog_node_energy_joules_total",
        "counter",
        "Energy by how it is known (measured, fitted, modelled) and what it was used for (idle, compute, send, receive).",
        (*_NODE, "source", "use"),
    ),
    Metric("fog_node_bytes_total", "counter", "Payload of the agent's control messages, and of all its workers.", (*_NODE, "plane", "direction")),
    Metric("fog_link_rtt_seconds", "gauge", "Round trip between the node and its broker.", _NODE),
    Metric(
        "fog_link_bandwidth_bytes_per_second",
        "gauge",
        "Link to the broker, as the agent probed it; else the last large transfer over its time, a lower bound.",
        _NODE,
    ),
    Metric("fog_site_carbon_grams_total", "counter", "CO2 derived from joules by the factors in the agents' configurations.", ("site",)),
    # -- jobs ------------------------------------------------------------------------------
    Metric("fog_job_state", "gauge", "1 for the state that the job is in.", ("job", "state")),
    Metric("fog_job_round", "gauge", "The round that is open, or the last one.", ("job",)),
    Metric("fog_job_rounds", "gauge", "Rounds that the job is to have.", ("job",)),
    Metric("fog_job_round_seconds", "gauge", "Duration of the last round that was closed.", ("job",)),
    Metric("fog_job_step_seconds", "gauge", "Time of a training step with all that belongs to it, mean over the closed rounds.", ("job",)),
    Metric("fog_job_predicted_step_seconds", "gauge", "The same as placement predicted it.", ("job",)),
    Metric("fog_job_wall_seconds", "gauge", "Time since training began.", ("job",)),
    Metric(
        "fog_job_progress_timestamp_seconds", "gauge", "When the last round was closed or the state changed, by the coordinator's clock.", ("job",)
    ),
    Metric("fog_job_loss", "gauge", "Training loss of the last round.", ("job",)),
    Metric("fog_job_accuracy", "gauge", "Accuracy of the last evaluation, 0 to 1.", ("job",)),
    Metric("fog_job_headline", "gauge", "Last value of each number by which the job's method is judged.", ("job", "name")),
    Metric("fog_job_consensus_error", "gauge", "Largest disagreement left after averaging among neighbours.", ("job",)),
    Metric("fog_job_stragglers", "gauge", "Tasks that the open round waits for although others have answered.", ("job",)),
    Metric("fog_job_staleness_rounds", "gauge", "How many rounds late the oldest update was that the last aggregate counted; 0 if none.", ("job",)),
    Metric("fog_job_view", "gauge", "View of the job's placement.", ("job",)),
    Metric("fog_job_bytes_total", "counter", "Payload on the wire by plane and direction.", ("job", "plane", "direction")),
    Metric("fog_job_messages_total", "counter", "Messages by plane and direction.", ("job", "plane", "direction")),
    Metric("fog_job_ideal_bytes_total", "counter", "Payload of the tensors alone, each counted once.", ("job",)),
    Metric("fog_job_repaired_chunks_total", "counter", "Parts of parcels that had to be sent again.", ("job",)),
    Metric("fog_job_rejected_letters_total", "counter", "Letters that were refused: of an older view, of a dead worker, malformed.", ("job",)),
    Metric("fog_job_refused_updates_total", "counter", "Updates that did not count: late, repeated, bad, troubled.", ("job", "reason")),
    Metric("fog_job_restored_tasks_total", "counter", "Tasks that were continued from a Save.", ("job",)),
    Metric("fog_job_op_seconds_total", "counter", "Seconds spent in tensor computations by family.", ("job", "op")),
    Metric(
        "fog_job_energy_joules_total",
        "counter",
        "Share of its nodes' energy by role of the task, how it is known and what it was used for.",
        ("job", "role", "source", "use"),
    ),
    Metric(
        "fog_job_budget_used_ratio",
        "gauge",
        "Used part of a budget: time, bytes, joules; node_cpu, node_bytes, node_joules of the node that used most. At 1 the job stops.",
        ("job", "budget"),
    ),
    # -- workers: one job on one node ------------------------------------------------------
    Metric("fog_task_round", "gauge", "Round that the node's task of this role is at.", (*_WORKER, "role")),
    Metric("fog_worker_awaited", "gauge", "1 while the open round waits for a task of this node although others have answered, else 0.", _WORKER),
    Metric("fog_worker_spool_bytes", "gauge", "Updates that the root has not saved yet.", _WORKER),
    Metric("fog_worker_queued_ops", "gauge", "Computations that wait.", _WORKER),
    Metric("fog_worker_resident_bytes", "gauge", "Resident memory of the worker.", _WORKER),
    Metric("fog_worker_step_seconds", "gauge", "Time that the node computes in a training step.", _WORKER),
)
BY_NAME: Final = {metric.name: metric for metric in METRICS}

# -- histograms ----------------------------------------------------------------------------

ACK_LE: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROUND_LE: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
ACK_SUM: Final = "ack_seconds"


def bucket(bounds: tuple[float, ...], value: float) -> int:
    """Index of the smallest bound that is >= value; len(bounds) for more than all."""
    return bisect_left(bounds, value)


def ack_counter(value: float) -> str:
    """The counter of a worker that grows by one for an acknowledgement after `value` seconds. Each holds its own bucket only."""
    return ACK_COUNTERS[bucket(ACK_LE, value)]


ACK_COUNTERS: Final = tuple(f"ack_seconds_le_{bound:g}" for bound in (*ACK_LE, math.inf))

# -- counters of workers -------------------------------------------------------------------

REFUSED_UPDATES: Final = {
    "late_updates": "late",
    "repeated_updates": "repeated",
    "bad_updates": "bad",
    "troubled_updates": "troubled",
    "late_rows": "late",
    "troubled_steps": "troubled",
}
"""Numbers of `Measure` that are increments, not values -> their label `reason`."""
PLANES: Final = ("up", "down", "d2d", "cast")
DIRECTIONS: Final = ("sent", "received")
USES: Final = ("idle", "compute", "send", "receive")
UNDIVIDED: Final = "unknown"
"""Use of joules that an agent without an energy model cannot divide."""
SOURCES: Final = ("measured", "fitted", "modelled")


def joules(source: str, use: str) -> str:
    """The counter of an agent."""
    return f"joules/{source}/{use}"


# -- a node --------------------------------------------------------------------------------

NODE_GAUGES: Final = {
    "cpu_ratio": "fog_node_cpu_ratio",
    "memory_used_bytes": "fog_node_memory_used_bytes",
    "memory_free_bytes": "fog_node_memory_free_bytes",
    "disk_free_bytes": "fog_node_disk_free_bytes",
    "temperature_celsius": "fog_node_temperature_celsius",
    "battery_ratio": "fog_node_battery_ratio",
    "rss_bytes": "fog_node_agent_resident_bytes",
    "power_watts": "fog_node_power_watts",
    "rtt_seconds": "fog_link_rtt_seconds",
    "bandwidth_bytes_per_second": "fog_link_bandwidth_bytes_per_second",
}
NODE_COUNTERS: Final = {
    **{f"{plane}_{direction}_bytes": ("fog_node_bytes_total", (plane, direction)) for plane in ("ctl", "data") for direction in DIRECTIONS},
    **{joules(source, use): ("fog_node_energy_joules_total", (source, use)) for source in SOURCES for use in (*USES, UNDIVIDED)},
}
"""Counter of a node -> (metric, its last labels)."""


def add_node(samples: Samples, node: str, site: str, gauges: Mapping[str, float], totals: Mapping[str, float]) -> None:
    """Samples of a node's own measurements. totals: its counters."""
    labels = (node, site)
    for name, metric in NODE_GAUGES.items():
        if (value := gauges.get(name)) is not None:
            samples.setdefault(metric, []).append((labels, value))
    for name, (metric, last) in NODE_COUNTERS.items():
        if (value := totals.get(name)) is not None:
            samples.setdefault(metric, []).append(((node, site, *last), value))


WORKER_GAUGES: Final = {
    "spool_bytes": "fog_worker_spool_bytes",
    "ops_queued": "fog_worker_queued_ops",
    "rss_bytes": "fog_worker_resident_bytes",
    "step_seconds": "fog_worker_step_seconds",
}


def add_worker(samples: Samples, job: str, node: str, gauges: Mapping[str, float]) -> None:
    for name, metric in WORKER_GAUGES.items():
        if (value := gauges.get(name)) is not None:
            samples.setdefault(metric, []).append(((job, node), value))


def add_histogram(samples: Samples, name: str, bounds: tuple[float, ...], counts: Iterable[float], total: float) -> None:
    """counts: observations of each bucket (not cumulative), one more than bounds; total: the sum of all observed values."""
    reached, buckets = 0.0, samples.setdefault(f"{name}_bucket", [])
    for bound, count in zip((*bounds, math.inf), counts, strict=True):
        reached += count
        buckets.append((("+Inf" if bound == math.inf else f"{bound:g}",), reached))
    samples.setdefault(f"{name}_sum", []).append(((), total))
    samples.setdefault(f"{name}_count", []).append(((), reached))


# -- series --------------------------------------------------------------------------------


class Part(NamedTuple):
    """A name that a query can ask for, and its labels in order."""

    name: str
    labels: tuple[str, ...]


def parts(metric: Metric) -> Iterator[Part]:
    if metric.kind == "histogram":
        yield Part(f"{metric.name}_bucket", (*metric.labels, "le"))
        yield Part(f"{metric.name}_sum", metric.labels)
        yield Part(f"{metric.name}_count", metric.labels)
    else:
        yield Part(metric.name, metric.labels)


def series_names() -> list[str]:
    """Every name that a query can ask for, sorted: the golden list."""
    return sorted(part.name for metric in METRICS for part in parts(metric))
