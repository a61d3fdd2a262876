"""What a job file may say about centralized training, and what its tasks say to each other."""

from __future__ import annotations

from msgspec import Struct

from fog_common.runtime.machine import Ref
from fog_learning.job.sections import Count


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    round_steps: Count = 20
    """Steps in a round, each on the union of the slots' batches."""


class AskSamples(Struct, frozen=True, tag="Ask"):
    """Center -> sources: send me your samples."""


class Samples(Struct, frozen=True, tag="Samples"):
    slot: int
    samples: Ref
    examples: int


class NoSamples(Struct, frozen=True, tag="Trouble"):
    """Source -> center: I cannot, or will not, and why."""

    slot: int
    why: str
