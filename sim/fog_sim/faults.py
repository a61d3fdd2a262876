"""Faults as data: one schedule, run by the simulator and by the live runner (`make chaos`).

faults:
  - {at: 4.0, kind: kill_worker, node: node-2}
  - {at: 9.5, kind: freeze, node: node-1, seconds: 20}
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from fog_common.config import load

Kind = Literal[
    "kill_worker",  # kill -9 of the node's workers
    "kill_agent",  # kill -9 of the daemon (its workers end with it); started again after `seconds`
    "power_loss",  # all processes of the node at once, and nobody tells the broker; back after `seconds`
    "stop",  # SIGTERM: the node's tasks move in order; started again after `seconds`
    "leave",  # SIGTERM, for good
    "join",  # a node starts that was not there: an edge node of the site `home`
    "freeze",  # SIGSTOP for `seconds`
    "cut",  # the node's link is dead for `seconds`, and both ends see it
    "black_hole",  # nothing passes for `seconds`, and nobody is told
    "half_open",  # the broker has lost the node, which does not know it for `seconds`
    "reset",  # the node's connections are reset, once
    "slow",  # SLOW_LATENCY_S and SLOW_RATE_BYTES_S for `seconds`
    "drain",  # fogctl node drain; undone after `seconds`
    "disk_full",  # Saves fail for `seconds`
    "cut_site",  # the site `node` has no way to the cloud for `seconds`; needs links with `d2d`
    "clock_ahead",  # the wall clock of the node ("": of the coordinator) is CLOCK_S too far for `seconds`
    "clock_behind",  # ... or as much behind. Nothing in virtual time: no machine, core or host ever sees a wall clock
    "kill_coordinator",  # started again after `seconds`
    "restart_broker",  # away for `seconds`
]
ON_NODES: Final[tuple[Kind, ...]] = (
    "kill_worker",
    "kill_agent",
    "power_loss",
    "stop",
    "freeze",
    "cut",
    "black_hole",
    "half_open",
    "reset",
    "slow",
    "drain",
    "disk_full",
    "clock_ahead",
    "clock_behind",
)
ON_FLEET: Final[tuple[Kind, ...]] = ("kill_coordinator", "restart_broker")
SLOW_LATENCY_S: Final = 0.25
SLOW_RATE_BYTES_S: Final = 20_000.0
CLOCK_S: Final = 600.0
KEEPALIVE_S: Final = 22.0
"""A broker drops who said nothing for one and a half keepalives (15 s)."""


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    at: Annotated[float, Meta(ge=0)]
    """Seconds after the job was submitted."""
    kind: Kind
    node: str = ""
    """Name of a node; cut_site: of a site."""
    seconds: Annotated[float, Meta(ge=0)] = 0.0


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    faults: list[Fault] = []


def load_schedule(path: Path) -> Schedule:
    """ConfigError names file, line and key."""
    return load(path, Schedule)


def random_schedule(
    seed: int,
    nodes: Sequence[str],
    *,
    horizon_s: float,
    faults: int,
    longest_s: float = 30.0,
    kinds: tuple[Kind, ...] = (),
    sites: Sequence[str] = (),
) -> Schedule:
    """A reproducible schedule: `faults` of them within horizon_s, each for up to longest_s. sites: those that `cut_site` may hit."""
    rng = random.Random(f"faults-{seed}")
    allowed = kinds or (*ON_NODES, *ON_FLEET)
    made = []
    for _ in range(faults):
        kind = rng.choice(allowed)
        node = rng.choice(sites) if kind == "cut_site" else rng.choice(nodes) if kind in ON_NODES else ""
        made.append(Fault(round(rng.uniform(0.0, horizon_s), 3), kind, node, round(rng.uniform(0.5, longest_s), 3)))
    return Schedule(sorted(made, key=lambda fault: fault.at))
