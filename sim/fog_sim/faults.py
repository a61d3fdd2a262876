"""Schedules of faults as data, run by the simulator and by the live runner (`make chaos`).

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
    "power_loss",  # all processes of the node end at once, without notice to the broker; back after `seconds`
    "stop",  # SIGTERM: the node's tasks move in order; started again after `seconds`
    "leave",  # SIGTERM, for good
    "join",  # a new edge node of the site `home` starts
    "freeze",  # SIGSTOP for `seconds`
    "cut",  # the node's link is dead for `seconds`, and both ends see it
    "black_hole",  # the node's link is dead for `seconds`, and neither end sees it
    "half_open",  # the broker has lost the node's connections, which the node does not see for `seconds`
    "reset",  # the node's connections are reset, once
    "slow",  # SLOW_LATENCY_S and SLOW_RATE_BYTES_S for `seconds`
    "drain",  # fogctl node drain; undone after `seconds`
    "disk_full",  # Saves fail for `seconds`
    "cut_site",  # the site `node` has no way to the cloud for `seconds`; needs links with `d2d`
    "clock_ahead",  # the wall clock of the node ("": of the coordinator) is CLOCK_S ahead for `seconds`
    "clock_behind",  # the same clock is CLOCK_S behind; both have no effect in virtual time, which has no wall clock
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
"""Silence after which a broker drops a connection: one and a half keepalives (15 s)."""


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """One fault. seconds: its length, see Kind."""

    at: Annotated[float, Meta(ge=0)]
    """Seconds after the job was submitted."""
    kind: Kind
    node: str = ""
    """Name of the node, or of the site for cut_site."""
    seconds: Annotated[float, Meta(ge=0)] = 0.0


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a fault file."""

    faults: list[Fault] = []


def load_schedule(path: Path) -> Schedule:
    """The schedule in a file. ConfigError names file, line and key."""
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
    """A reproducible schedule of `faults` faults within horizon_s, each at most longest_s long. sites: those that `cut_site` may cut."""
    rng = random.Random(f"faults-{seed}")
    allowed = kinds or (*ON_NODES, *ON_FLEET)
    made = []
    for _ in range(faults):
        kind = rng.choice(allowed)
        node = rng.choice(sites) if kind == "cut_site" else rng.choice(nodes) if kind in ON_NODES else ""
        made.append(Fault(round(rng.uniform(0.0, horizon_s), 3), kind, node, round(rng.uniform(0.5, longest_s), 3)))
    return Schedule(sorted(made, key=lambda fault: fault.at))
