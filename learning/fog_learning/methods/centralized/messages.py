"""The plan of centralized training and the messages between its tasks."""

from __future__ import annotations

from msgspec import Struct

from fog_common.runtime.machine import Ref
from fog_learning.job.sections import Count


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    round_steps: Count = 20
    """Steps in a round, each on the union of the slots' batches."""


class AskSamples(Struct, frozen=True, tag="Ask"):
    """Center -> sources: send the samples."""


class Samples(Struct, frozen=True, tag="Samples"):
    """Source -> center: all samples of a slot, and their number."""

    slot: int
    samples: Ref
    examples: int


class NoSamples(Struct, frozen=True, tag="Trouble"):
    """Source -> center: the node cannot or will not send its samples. why: the reason, for a person."""

    slot: int
    why: str
