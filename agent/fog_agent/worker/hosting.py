"""Construction of a host for one job on one node, for the live worker and the simulator."""

from __future__ import annotations

from typing import Any

import msgspec

from fog_common.runtime.host import Host
from fog_common.runtime.refs import BlobTable, Codec, Disk, Refs
from fog_common.runtime.saves import Program
from fog_common.runtime.shelf import Shelf
from fog_common.transfer.endpoint import Address, Endpoint, TransferLimits
from fog_common.wire import topics
from fog_common.wire.messages import DesiredJob
from fog_learning.job.sections import JobFile
from fog_learning.methods import resolve_method


def open_host(
    desired: DesiredJob,
    job: JobFile,
    *,
    node: str,
    site: str,
    tier: str,
    fleet: str,
    incarnation: int,
    codec: Codec,
    disk: Disk,
    shelf: Shelf,
    chunk_bytes: int,
) -> Host:
    """A host for the job on this node. ConfigError if the method does not take the job."""
    method, plan = resolve_method(job)
    name = desired.job
    me = Address(node, site, tier, f"{topics.BULK}~{name}")
    blobs = BlobTable(disk)
    peers = max(1, len(desired.placement.tasks))
    limits = TransferLimits(chunk_bytes=chunk_bytes, window_chunks=max(2, min(32, 900 // peers)))
    return Host(
        me,
        job=name,
        incarnation=incarnation,
        program=Program({role.name: role.machine for role in method.roles}, method.messages),
        build=lambda peer: method.build(job, plan, peer),
        refs=Refs(codec, blobs, f"{node}-{incarnation}"),
        endpoint=Endpoint(me, fleet, name, incarnation, blobs, limits),
        shelf=shelf,
    )


def inbox(host: Host, fleet: str) -> list[str]:
    """Filters of the host's inbox."""
    me = host.me
    return topics.inbox_filters(fleet, me.site, me.node, me.kind)


def casts(host: Host, fleet: str, roles: tuple[str, ...]) -> list[str]:
    """Filters of the casts to these roles of the host's job."""
    me = host.me
    return [filter_ for role in roles for filter_ in topics.cast_filters(fleet, me.site, host.job, role, me.kind)]


def slots_of(desired: DesiredJob, node: str) -> tuple[dict[str, int], int]:
    """(task -> slot of this node's data tasks, number of slots in the job's roster)."""
    tasks = desired.placement.tasks
    mine = {peer.task: peer.slot for peer in tasks if peer.node == node and peer.slot >= 0}
    return mine, len({peer.slot for peer in tasks if peer.slot >= 0})


def fit(limits: TransferLimits, max_payload: int) -> TransferLimits:
    """Limits for a broker that takes no payload over max_payload bytes."""
    chunk, inline = min(limits.chunk_bytes, max_payload), min(limits.inline_bytes, max_payload // 2)
    return msgspec.structs.replace(limits, chunk_bytes=chunk, inline_bytes=inline)


def counters_of(host: Host) -> dict[str, float]:
    """Counters of the host and its endpoint."""
    rejected: dict[str, Any] = host.endpoint.rejected
    return {
        **host.counters,
        **host.mail.acks.counters,
        **{f"rejected_{reason}_total": float(n) for reason, n in rejected.items()},
        **{name: float(n) for name, n in host.endpoint.counters.items()},
    }
