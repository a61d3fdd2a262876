"""The plan of fcddt and the messages between its tasks (protocol: fog_learning.methods.fcddt.method)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct

from fog_common.errors import ConfigError
from fog_common.runtime.machine import Ref
from fog_learning.job.sections import Count


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    cut: int | str = 1
    """Number of blocks on the nodes, or the name of the last of them; auto: placement chooses by the speed of nodes and links."""
    backward: Literal["cut_gradient", "frozen_front"] = "cut_gradient"
    round_steps: Count = 20
    """Steps in a round; at its end the trunk saves and evaluates."""
    sync_every: Count = 1
    """Steps between two means of the fronts; 1 = exact. Must divide round_steps."""
    u_shaped: bool = False
    """Labels and loss stay on the nodes, with the last `tail` blocks."""
    tail: Count = 1
    straggler_rate: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Fraction of the live fronts without which a step may go on."""
    wire: Literal["float32", "float16", "int8"] = "float32"
    """Encoding of activations and their gradients on the wire. float32 stands for the job's own dtype; the others are not exact."""

    @property
    def frozen(self) -> bool:
        return self.backward == "frozen_front"

    @property
    def own(self) -> bool:
        """Whether the nodes take steps of their own between syncs."""
        return self.sync_every > 1 and not self.frozen

    def is_sync(self, step: int) -> bool:
        return step % self.sync_every == 0

    def chosen(self, live: int) -> int:
        """Number of the `live` fronts that make up a step."""
        return max(1, math.ceil((1.0 - self.straggler_rate) * live - 1e-9))


def cut_at(plan: Plan, blocks: tuple[str, ...]) -> tuple[int, int]:
    """(first block of the trunk, first block of the tail or the number of blocks). ConfigError for an impossible cut."""
    names, end = ", ".join(blocks), len(blocks) - (plan.tail if plan.u_shaped else 0)
    if isinstance(plan.cut, str):
        if plan.cut not in blocks:
            raise ConfigError(f"method.cut: the model has no block {plan.cut!r}; it has {names}")
        first = blocks.index(plan.cut) + 1
    else:
        first = plan.cut
    if not 1 <= first < len(blocks):
        side = "nodes" if first >= len(blocks) else "trunk"
        raise ConfigError(
            f"method.cut: {plan.cut!r} puts every block on the {side}; the model has {len(blocks)} blocks ({names}), cut 1 to {len(blocks) - 1}"
        )
    if first >= end:
        raise ConfigError(
            f"method.tail: {plan.tail} blocks behind the cut at {plan.cut!r} leave the trunk none; the model has {len(blocks)} ({names})"
        )
    return first, end


# -- messages. life: the trunk instance; (number, attempt): the step and how often it was begun ------------------------------


class Step(Struct, frozen=True, tag="Step"):
    """Trunk -> fronts: forward steps number..until with these weights."""

    life: str
    number: int
    attempt: int
    local: Ref
    until: int


class Go(Struct, frozen=True, tag="Go"):
    """Trunk -> fronts: forward steps number..until with the weights of the last Step."""

    life: str
    number: int
    attempt: int
    until: int


class FrontRows(Struct, frozen=True, tag="Rows"):
    """Front -> trunk: activations at the cut, and labels unless u_shaped, of the front's batch."""

    life: str
    number: int
    attempt: int
    slot: int
    rows: Ref
    examples: int


class Features(Struct, frozen=True, tag="Features"):
    """Trunk -> front (u_shaped): the trunk's output for the front's rows. total: rows of all fronts in this step."""

    life: str
    number: int
    attempt: int
    features: Ref
    total: int


class Heads(Struct, frozen=True, tag="Heads"):
    """Front -> trunk (u_shaped): dl/dfeatures, and this front's part of the loss."""

    life: str
    number: int
    attempt: int
    slot: int
    heads: Ref
    loss: float


class Cut(Struct, frozen=True, tag="Cut"):
    """Trunk -> front: dl/dz of the front's rows (None: they came too late). next: the step that the front begins by itself; 0: wait for Step."""

    life: str
    number: int
    attempt: int
    cut: Ref | None
    next: int = 0


class Local(Struct, frozen=True, tag="Local"):
    """Front -> trunk: its gradient (sync_every 1), or its weights and their examples since the last sync."""

    life: str
    number: int
    attempt: int
    slot: int
    local: Ref
    examples: int


class NoStep(Struct, frozen=True, tag="Trouble"):
    """Front -> trunk: the front cannot do this step. why: the reason, for a person."""

    life: str
    number: int
    attempt: int
    slot: int
    why: str
