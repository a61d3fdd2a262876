"""What the planner knows of nodes: measured figures where there are some, a guess by tier, named as such, where not. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from fog_common.energy.model import EnergyConfig
from fog_coordinator.state.nodes import Node
from fog_learning.costs.demands import WORKER_BYTES
from fog_learning.costs.place import Place
from fog_learning.job.sections import Where

GUESSED_FLOPS: Final = {"thing": 1e9, "edge": 4e9, "fog": 2e10, "cloud": 5e10}
GUESS: Final = Place("")
ENERGY: Final = EnergyConfig()
USUAL: Final[dict[str, set[float | None]]] = {
    "idle_w": {ENERGY.idle_w},
    "core_w": {ENERGY.core_w},
    "byte_j": set(msgspec.structs.astuple(ENERGY.joules_per_byte)),
}
"""What an agent announces whose configuration says nothing about energy."""


def place_of(node: Node) -> Place:
    """A worker's own measurement is newer than what its agent announced."""
    profile = node.profile
    gauges: dict[str, float] = {}
    for worker in node.workers.values():
        gauges |= {name: worker.gauges[name] for name in ("flops_per_second", "op_overhead_seconds") if worker.gauges.get(name)}
    known = {
        "flops": gauges.get("flops_per_second") or profile.flops,
        "op_s": gauges.get("op_overhead_seconds") or profile.op_s,
        "rtt_s": profile.rtt_s,
        "bytes_s": profile.bandwidth_bytes_s,
        "idle_w": profile.idle_w,
        "core_w": profile.core_w,
        "byte_j": profile.byte_j,
    }
    return Place(
        node=node.node,
        tier=profile.tier,
        flops=known["flops"] or GUESSED_FLOPS.get(profile.tier, GUESS.flops),
        op_s=known["op_s"] or GUESS.op_s,
        rtt_s=known["rtt_s"] if known["rtt_s"] is not None else GUESS.rtt_s,
        bytes_s=known["bytes_s"] or GUESS.bytes_s,
        memory_bytes=free_bytes(node),
        idle_w=known["idle_w"] if known["idle_w"] is not None else GUESS.idle_w,
        core_w=known["core_w"] if known["core_w"] is not None else GUESS.core_w,
        byte_j=known["byte_j"] if known["byte_j"] is not None else GUESS.byte_j,
        guessed=tuple(name for name in ("flops", "op_s", "rtt_s", "bytes_s") if not known[name]),
        assumed=tuple(name for name, usual in USUAL.items() if known[name] is None or known[name] in usual),
    )


def free_bytes(node: Node) -> int | None:
    """Memory that a new worker could have; None = unknown. The heartbeat's figure is newer than the profile's."""
    free = int(node.gauges.get("memory_free_bytes", 0)) or node.profile.memory_free_bytes
    if not free:
        return None
    return min(free, node.profile.memory_bytes) if node.profile.memory_bytes else free


def most_alike(node: Node, first: int, need: int) -> int | None:
    """How many tasks of one kind the node has room for in one worker; None: any number. first: bytes with one of them and all else that the
    job has there; need: bytes of a worker for one alone, 0 = unknown. The interpreter counts once."""
    free, more = free_bytes(node), need - WORKER_BYTES
    if free is None or not need:
        return None
    if first > free:
        return 0
    return 1 + (free - first) // more if more > 0 else None


def described(rules: Where) -> str:
    """'of tier fog, with label gpu=yes': what `placement` asks for, for a person."""
    parts = [f"named {', '.join(rules.names)}"] if rules.names else []
    parts += [f"of tier {' or '.join(rules.tier)}"] if rules.tier else []
    parts += [f"of site {' or '.join(rules.site)}"] if rules.site else []
    parts += [f"with label {key}={wanted}" for key, wanted in rules.labels.items()]
    return ", ".join(parts) or "of any kind"
