"""The single faults that are measured, as schedules. Names are those of the table in docs/reliability.md."""

from __future__ import annotations

import random
from typing import Final

from msgspec import Struct

from fog_sim.faults import Fault, Kind, Schedule
from fogctl.fleet.local_fleet import CLOUD_NODE

LENGTHS: Final = {"": 60, "long": 250, "mixed": 100}
"""Rounds of a job, so that it lasts longer than its fault."""
MIXED: Final[tuple[Kind, ...]] = (
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
    "kill_coordinator",
    "restart_broker",
)


class Case(Struct, frozen=True):
    """A schedule, and the job that it hits."""

    name: str
    seed: int
    rounds: int
    schedule: Schedule


def cases(seed: int) -> list[Case]:
    """One of each kind. When in a round and on which agent it falls follows from the seed."""
    made = []
    for name, length, *faults in _faults(random.Random(f"live-{seed}")):
        made.append(Case(name, seed, LENGTHS[length], Schedule(list(faults))))
    return made


def _faults(rng: random.Random) -> list[tuple]:  # type: ignore[type-arg]
    """(name, length of the job, faults …)"""

    def node() -> str:
        return f"agent-{rng.randint(1, 3)}"

    def at() -> float:
        return round(rng.uniform(0.05, 1.0), 3)

    away = node()
    return [
        ("nothing", ""),
        ("kill -9 a worker", "", Fault(at(), "kill_worker", node())),
        ("kill -9 the server's worker", "", Fault(at(), "kill_worker", CLOUD_NODE)),
        ("kill -9 an agent", "", Fault(at(), "kill_agent", node(), 1.0)),
        ("kill -9 the coordinator", "", Fault(at(), "kill_coordinator", "", 1.0)),
        ("kill -9 the broker", "", Fault(at(), "restart_broker", "", 1.0)),
        ("power loss of a node", "", Fault(at(), "power_loss", node(), 5.0)),
        ("power loss of the server's node", "", Fault(at(), "power_loss", CLOUD_NODE, 5.0)),
        ("power loss of the server's node, for long", "long", Fault(at(), "power_loss", CLOUD_NODE, 30.0)),
        ("SIGTERM of an agent", "", Fault(at(), "stop", node(), 4.0)),
        ("SIGTERM of the server's agent", "", Fault(at(), "stop", CLOUD_NODE, 6.0)),
        ("a node frozen, woken after it was given up", "long", Fault(at(), "freeze", node(), 15.0)),
        ("the server's node frozen, woken after it was replaced", "long", Fault(at(), "freeze", CLOUD_NODE, 25.0)),
        ("disk full at a node", "", Fault(at(), "disk_full", node(), 3.0)),
        ("disk full at the server's node", "", Fault(at(), "disk_full", CLOUD_NODE, 3.0)),
        (
            "clock 10 minutes ahead, the coordinator's, killed meanwhile",
            "",
            Fault(0.1, "clock_ahead", "", 8.0),
            Fault(at(), "kill_coordinator", "", 1.0),
        ),
        (
            "clock 10 minutes behind, the coordinator's, killed meanwhile",
            "",
            Fault(0.1, "clock_behind", "", 8.0),
            Fault(at(), "kill_coordinator", "", 1.0),
        ),
        (
            "clock 10 minutes ahead, the server's node's, killed meanwhile",
            "",
            Fault(0.1, "clock_ahead", CLOUD_NODE, 8.0),
            Fault(at(), "kill_agent", CLOUD_NODE, 1.0),
        ),
        ("clock 10 minutes behind, a node's, killed meanwhile", "", Fault(0.1, "clock_behind", away, 8.0), Fault(at(), "kill_agent", away, 1.0)),
        ("link cut", "", Fault(at(), "cut", node(), 3.0)),
        ("link a black hole", "", Fault(at(), "black_hole", node(), 5.0)),
        ("link half open", "", Fault(at(), "half_open", node(), 3.0)),
        ("link reset", "", Fault(at(), "reset", node())),
        ("link slow (20 kB/s, 0.25 s)", "", Fault(at(), "slow", node(), 3.0)),
        ("offline for long, restarted meanwhile", "long", Fault(0.5, "cut", away, 20.0), Fault(8.0, "kill_agent", away, 1.0)),
        ("drain of the server's node", "", Fault(at(), "drain", CLOUD_NODE, 5.0)),
    ]
