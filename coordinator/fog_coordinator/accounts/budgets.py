"""Budgets of a job and their use so far. Pure. A running job warns at 80 % and stops at 100 % of a budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from fog_common.wire.api.jobs import BudgetUse
from fog_coordinator.state.counts import Tally
from fog_coordinator.state.jobs import Job
from fog_learning.job.sections import Budgets

WARN_AT: Final = 0.8
_UNITS: Final = {"time": "s", "bytes": "B", "joules": "J", "node_cpu": "s", "node_bytes": "B", "node_joules": "J"}


class Use(Struct, frozen=True):
    """Use of one budget of a job, or of one of its nodes. used: None while unknown (no node of the job knows its energy)."""

    budget: str
    used: float | None
    limit: float
    node: str = ""
    """The node, for a budget of single nodes."""

    @property
    def ratio(self) -> float:
        return 0.0 if self.used is None else self.used / self.limit

    @property
    def text(self) -> str:
        """'80 of 100 J of its joules budget (pi-3)'."""
        unit = _UNITS[self.budget]
        used = "an unknown part" if self.used is None else f"{self.used:,.0f}"
        return f"{used} of {self.limit:,.0f} {unit} of its {self.budget} budget{f' ({self.node})' if self.node else ''}"

    @property
    def name(self) -> str:
        """Name of the budget and its node; the job warns once for each."""
        return f"{self.budget}/{self.node}" if self.node else self.budget

    def body(self) -> BudgetUse:
        return BudgetUse(budget=self.budget, used=self.used, limit=self.limit, ratio=None if self.used is None else self.ratio, node=self.node)


def uses(job: Job, budgets: Budgets, tally: Tally, now: float) -> list[Use]:
    """Use of all budgets of the job; for a budget of single nodes, that of the node with the highest use."""
    spent: list[Use] = []
    if budgets.time_s is not None:
        spent.append(Use("time", job.age_s(job.ended_at if job.ended_at is not None else now), budgets.time_s))
    if budgets.bytes is not None:
        spent.append(Use("bytes", float(job.sent().payload), float(budgets.bytes)))
    if budgets.joules is not None:
        spent.append(Use("joules", sum(job.energy_j.values()) if job.energy_j else None, budgets.joules))
    for budget, limit, by_node in _of_nodes(job, budgets, tally):
        node = max(by_node, key=lambda name: (by_node[name], name), default="")
        spent.append(Use(budget, by_node.get(node), limit, node))
    return spent


def nearly_spent(job: Job, budgets: Budgets, tally: Tally, now: float) -> list[Use]:
    """Budgets of which WARN_AT is used, including those of every node."""
    spent = [use for use in uses(job, budgets, tally, now) if not use.node]
    spent += [Use(budget, used, limit, node) for budget, limit, by_node in _of_nodes(job, budgets, tally) for node, used in sorted(by_node.items())]
    return [use for use in spent if use.ratio >= WARN_AT]


def _of_nodes(job: Job, budgets: Budgets, tally: Tally) -> Iterator[tuple[str, float, dict[str, float]]]:
    """(budget, limit, node -> its use) of each of the job's budgets of single nodes."""
    if budgets.node_cpu_s is not None:
        seconds = {node: tally.of(node, "cpu_seconds") for node in tally.nodes()}
        yield "node_cpu", budgets.node_cpu_s, {node: used for node, used in seconds.items() if used is not None}
    if budgets.node_bytes is not None:
        yield "node_bytes", float(budgets.node_bytes), job.sent_by_node()
    if budgets.node_joules is not None:
        yield "node_joules", budgets.node_joules, job.node_joules
