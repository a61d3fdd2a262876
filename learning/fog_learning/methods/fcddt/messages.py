"""What a job file may say about fcddt, and what its tasks say to each other (protocol: fog_learning.methods.fcddt.method)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct

from fog_common.errors import ConfigError
from fog_common.runtime.machine import Ref
from fog_learning.job.sections import Count


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    cut: int | str = 1
    """How many blocks are on the nodes, or the name of the last of them; auto: placement chooses by what nodes and links can do."""
    backward: Literal["cut_gradient", "frozen_front"] = "cut_gradient"
    round_steps: Count = 20
    """Steps in a round; at its end the trunk saves and evaluates."""
    sync_every: Count = 1
    """Steps between two means of the fronts; 1 = exact. Divides round_steps."""
    u_shaped: bool = False
    """Labels and loss stay on the nodes, with the last `tail` blocks."""
    tail: Count = 1
    straggler_rate: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    wire: Literal["float32", "float16", "int8"] = "float32"
    """What activations and their gradients travel as. float32 stands for the job's own dtype; the others are not exact."""

    @property
    def frozen(self) -> bool:
        return self.backward == "frozen_front"

    @property
    def own(self) -> bool:
        """Nodes step by themselves between syncs."""
        return self.sync_every > 1 and not self.frozen

    def is_sync(self, step: int) -> bool:
        return step % self.sync_every == 0

    def chosen(self, live: int) -> int:
        """With how many of `live` fronts a step goes on."""
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


# -- what they say. life: which trunk instance; (number, attempt): which step, and how often it was begun ---------------------


class Step(Struct, frozen=True, tag="Step"):
    """Trunk -> fronts: forward steps number..until with these weights."""

    life: str
    number: int
    attempt: int
    local: Ref
    until: int


class Go(Struct, frozen=True, tag="Go"):
    """Trunk -> fronts: forward steps number..until with the weights you have."""

    life: str
    number: int
    attempt: int
    until: int


class FrontRows(Struct, frozen=True, tag="Rows"):
    life: str
    number: int
    attempt: int
    slot: int
    rows: Ref
    examples: int


class Features(Struct, frozen=True, tag="Features"):
    """Trunk -> front (u_shaped): what the trunk makes of your rows. total: rows of all fronts in this step."""

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
    """Trunk -> front: dl/dz of your rows (None: they came too late). next: the step to go on with by yourself; 0: wait for Step."""

    life: str
    number: int
    attempt: int
    cut: Ref | None
    next: int = 0


class Local(Struct, frozen=True, tag="Local"):
    """Front -> trunk: its gradient (sync_every 1), or its weights and the examples that they have seen since the last sync."""

    life: str
    number: int
    attempt: int
    slot: int
    local: Ref
    examples: int


class NoStep(Struct, frozen=True, tag="Trouble"):
    """Front -> trunk: I cannot do this step, and why."""

    life: str
    number: int
    attempt: int
    slot: int
    why: str
