"""Room for tasks on a node, and the conditions of a role in words. Pure."""

from __future__ import annotations

from fog_coordinator.state.nodes import Node
from fog_learning.costs.demands import WORKER_BYTES
from fog_learning.job.sections import Where


def most_alike(node: Node, first: int, need: int) -> int | None:
    """Number of tasks of one kind that fit on the node in one worker; None: any number. first: bytes with one of them and all else that the
    job has there; need: bytes of a worker for one alone, 0 = unknown. The interpreter counts once."""
    free, more = node.free_bytes, need - WORKER_BYTES
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
