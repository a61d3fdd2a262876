"""What a job may use and what it has used. Pure. The core warns at 80 % and stops at 100 %."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from fog_coordinator.jobs import Job
from fog_learning.job import Budgets

WARN_AT: Final = 0.8
_UNITS: Final = {"time": "s", "bytes": "B", "joules": "J", "node_joules": "J"}


class Use(Struct, frozen=True):
    """One budget of a job. used is None while nothing is known (no node of the job knows its energy)."""

    budget: str
    used: float | None
    limit: float
    node: str = ""
    """node_joules: the node that has used most."""

    @property
    def ratio(self) -> float:
        return 0.0 if self.used is None else self.used / self.limit

    @property
    def text(self) -> str:
        """'80 of 100 J of its joules budget (pi-3)'."""
        unit = _UNITS[self.budget]
        used = "an unknown part" if self.used is None else f"{self.used:,.0f}"
        return f"{used} of {self.limit:,.0f} {unit} of its {self.budget} budget{f' ({self.node})' if self.node else ''}"

    def body(self) -> dict[str, Any]:
        return {"budget": self.budget, "used": self.used, "limit": self.limit, "ratio": None if self.used is None else self.ratio, "node": self.node}


def uses(job: Job, budgets: Budgets, now: float) -> list[Use]:
    """All budgets that the job has."""
    found: list[Use] = []
    if budgets.time_s is not None:
        found.append(Use("time", job.age_s(job.ended_at if job.ended_at is not None else now), budgets.time_s))
    if budgets.bytes is not None:
        sent = job.sent()
        found.append(Use("bytes", float(sent.up + sent.down + sent.d2d + sent.cast), float(budgets.bytes)))
    if budgets.joules is not None:
        found.append(Use("joules", sum(job.energy_j.values()) if job.energy_j else None, budgets.joules))
    if budgets.node_joules is not None:
        node = max(job.node_joules, key=lambda name: (job.node_joules[name], name), default="")
        found.append(Use("node_joules", job.node_joules.get(node), budgets.node_joules, node))
    return found
