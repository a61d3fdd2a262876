"""A node as placement sees it: measured figures where there are some, a guess by tier, named as such, where not. Pure."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from fog_common.energy.model import EnergyConfig
from fog_common.facts import NodeFacts, NodeLink

GUESSED_FLOPS: Final = {"thing": 1e9, "edge": 4e9, "fog": 2e10, "cloud": 5e10}
USUAL_FLOPS: Final = 4e9
USUAL_OP_S: Final = 1e-3
USUAL_RTT_S: Final = 2e-3
USUAL_BYTES_S: Final = 10e6
USUAL_IDLE_W: Final = 3.0
USUAL_CORE_W: Final = 1.5
USUAL_BYTE_J: Final = 1e-8
USUAL_LINK: Final = NodeLink(rtt_s=USUAL_RTT_S, bandwidth_bytes_s=USUAL_BYTES_S, byte_j=USUAL_BYTE_J)
UNSEEN: Final = NodeFacts(tier="edge", site="home")
ENERGY: Final = EnergyConfig()
UNCONFIGURED: Final[dict[str, set[float | None]]] = {
    "idle_w": {ENERGY.idle_w},
    "core_w": {ENERGY.core_w},
    "byte_j": set(msgspec.structs.astuple(ENERGY.joules_per_byte)),
}
"""Figures of an agent whose configuration has no energy section."""


class Place(Struct, frozen=True, dict=True):
    """A node as placement sees it. A figure is worked out once, when first asked for: prices read it many thousand times."""

    node: str
    facts: NodeFacts | None = None
    """None: the node was never seen."""

    def __hash__(self) -> int:
        return hash(self.node)

    @cached_property
    def known(self) -> NodeFacts:
        return self.facts or UNSEEN

    @cached_property
    def flops(self) -> float:
        """FLOP/s on the standard op."""
        return self.known.flops or GUESSED_FLOPS.get(self.known.tier, USUAL_FLOPS)

    @cached_property
    def op_s(self) -> float:
        """Seconds of an op's overhead, whatever its size."""
        return self.known.op_s or USUAL_OP_S

    @cached_property
    def rtt_s(self) -> float:
        """To the broker and back."""
        return self.known.rtt_s if self.known.rtt_s is not None else USUAL_RTT_S

    @cached_property
    def bytes_s(self) -> float:
        """Of its link to the broker, each way."""
        return self.known.bandwidth_bytes_s or USUAL_BYTES_S

    @cached_property
    def idle_w(self) -> float:
        return self.known.idle_w if self.known.idle_w is not None else USUAL_IDLE_W

    @cached_property
    def core_w(self) -> float:
        return self.known.core_w if self.known.core_w is not None else USUAL_CORE_W

    @cached_property
    def byte_j(self) -> float:
        return self.known.byte_j if self.known.byte_j is not None else USUAL_BYTE_J

    @cached_property
    def memory_bytes(self) -> int | None:
        """Free; None = unknown, or not to be counted."""
        return self.known.memory_free_bytes or None

    @property
    def guessed(self) -> tuple[str, ...]:
        """Figures that were not measured."""
        if self.facts is None:
            return ("everything",)
        measured = {"flops": self.facts.flops, "op_s": self.facts.op_s, "rtt_s": self.facts.rtt_s, "bytes_s": self.facts.bandwidth_bytes_s}
        return tuple(name for name, figure in measured.items() if not figure)

    @property
    def assumed(self) -> tuple[str, ...]:
        """Names of the watts and joules that the agent's configuration leaves out."""
        said = {name: getattr(self.known, name) for name in UNCONFIGURED}
        return tuple(name for name, usual in UNCONFIGURED.items() if said[name] is None or said[name] in usual)

    def roomy(self) -> Place:
        """The same place where memory does not count: it is given already, or another question."""
        return self if self.facts is None else Place(self.node, replace(self.facts, memory_free_bytes=0))
