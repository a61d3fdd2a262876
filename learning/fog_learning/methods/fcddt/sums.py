"""Sums over the steps of one round of fcddt. Pure."""

from __future__ import annotations

from msgspec import Struct

from fog_common.runtime.machine import RoundRecord


class Sums(Struct):
    """Sums over the finished steps of the round that runs."""

    loss: float = 0.0
    """Sum of loss x examples."""
    examples: int = 0
    fronts: int = 0
    """Smallest number of fronts that made up a step; 0 = no step yet."""

    def add(self, loss: float, examples: dict[int, int]) -> None:
        """Count a step. loss: mean over its examples; examples: slot -> rows of the step."""
        total = sum(examples.values())
        self.loss += loss * total
        self.examples += total
        self.fronts = min(self.fronts or len(examples), len(examples))

    def record(self, number: int, now: float) -> RoundRecord:
        """The record of a round that closes now, in seconds of job time. Its loss is the mean over all examples, 0.0 without any."""
        loss = self.loss / self.examples if self.examples else 0.0
        return RoundRecord(number, now, self.fronts, self.examples, {"loss": loss})
