"""Heartbeats of nodes that have every sensor, and of workers that measure everything: for tests of what is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from fog_common.runtime.machine import Waiting
from fog_common.telemetry.metrics import USES, joules
from fog_common.wire.messages import Heartbeat, Planes, Profile, WorkerState
from support.stand_ins import StandIn

GAUGES = {
    "cpu_ratio": 0.42,
    "memory_used_bytes": 3e8,
    "memory_free_bytes": 7e8,
    "disk_free_bytes": 2e10,
    "temperature_celsius": 51.5,
    "battery_ratio": 0.81,
    "rss_bytes": 3.1e7,
    "workers_rss_bytes": 1.2e8,
    "power_watts": 4.25,
    "carbon_g": 0.75,
    "rtt_seconds": 0.0042,
}
"""All that an agent can know."""


def profile(tier: str = "edge", site: str = "home", **changes: Any) -> Profile:
    return Profile(tier=tier, site=site, cores=4, memory_bytes=1 << 30, memory_free_bytes=1 << 29, torch=True, bandwidth_bytes_s=1e6, **changes)


def counters(seconds: float, source: str = "measured") -> dict[str, float]:
    """Of an agent that has run so long."""
    return {
        "cpu_seconds": seconds * 0.4,
        "data_sent_bytes": seconds * 2000,
        "data_received_bytes": seconds * 1500,
        "ctl_sent_bytes": seconds * 100,
        "ctl_received_bytes": seconds * 60,
        **{joules(source, use): seconds * share for use, share in zip(USES, (1.0, 2.0, 0.25, 0.125), strict=True)},
    }


def beat(node: str, seconds: float, *workers: WorkerState, nonce: str = "n1", source: str = "measured", **changes: Any) -> Heartbeat:
    values: dict[str, Any] = {
        "gauges": GAUGES,
        "counters": counters(seconds, source),
        "energy_j": {source: seconds * 3.375},
        "uptime_s": seconds,
        **changes,
    }
    return Heartbeat(node=node, nonce=nonce, workers=workers, **values)


def measuring(worker: WorkerState, seconds: float) -> WorkerState:
    """The same worker with everything that a worker can measure, after so many seconds."""
    names = ("received_messages_up", "received_messages_down", "received_messages_d2d", "received_messages_cast")
    sent = tuple(name.replace("received", "sent") for name in names)
    plane = int(seconds * 10_000)
    return replace(
        worker,
        sent=Planes(up=plane, down=plane * 2, d2d=plane * 3, cast=plane * 4),
        received=Planes(up=plane, down=plane * 2, d2d=plane * 3, cast=plane * 4),
        ideal_bytes=plane * 9,
        counters={
            "ack_seconds_le_0.01": seconds * 5,
            "ack_seconds_le_0.1": seconds,
            "ack_seconds_le_inf": float(int(seconds / 10)),
            "ack_seconds": seconds * 0.1,
            **dict.fromkeys((*names, *sent), float(int(seconds * 7))),
            "op_seconds": seconds * 0.6,
            "op_train_seconds": seconds * 0.5,
            "op_mean_seconds": seconds * 0.05,
            "op_evaluate_seconds": seconds * 0.03,
            "op_mix_seconds": seconds * 0.01,
            "op_trunk_step_seconds": seconds * 0.01,
            "op_unheard_of_seconds": seconds * 0.01,
            "role_trainer_seconds": seconds * 0.5,
            "role_server_seconds": seconds * 0.1,
            "repaired_chunks": float(int(seconds)),
            "rejected_stale_view_total": float(int(seconds / 2)),
            "restored_total": 1.0,
            "late_updates": float(int(seconds / 3)),
            "late_rows": 1e6,
            "cpu_seconds": seconds * 0.7,
        },
        gauges={
            "rss_bytes": 1.3e8,
            "spool_bytes": 4096.0,
            "ops_queued": 2.0,
            "step_seconds": 0.012,
            "consensus_error": 0.004,
            "staleness_rounds": 1.0,
            "bandwidth_bytes_per_second": 2.5e6,
        },
    )


@dataclass
class MeasuringNode(StandIn):
    """A stand-in node that has every sensor, and whose workers measure everything."""

    counted_from: float | None = None
    """When its workers began to count; None: when it booted."""

    def heartbeat(self, now: float) -> Heartbeat:
        said = super().heartbeat(now)
        full = beat(self.name, said.uptime_s, nonce=said.nonce)
        began = self.born if self.counted_from is None else self.counted_from
        workers = tuple(_at_work(measuring(worker, now - began)) if worker.phase == "ready" else worker for worker in said.workers)
        return replace(said, workers=workers, gauges=full.gauges, counters=full.counters, energy_j=full.energy_j)


def _at_work(worker: WorkerState) -> WorkerState:
    """Its root waits for one of two updates, and its rounds have a loss."""
    tasks = []
    for state in worker.tasks:
        rounds = tuple(replace(record, numbers={**record.numbers, "loss": 1.0 / record.round}) for record in state.history)
        waiting = Waiting("updates", 1, 2, ("trainer-1",)) if state.task == "server" else None
        tasks.append(replace(state, history=rounds, waiting=waiting))
    return replace(worker, tasks=tuple(tasks))
