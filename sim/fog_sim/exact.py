"""Exact consensus errors in the simulator: sketches travel as usual, but errors are computed from the values behind them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from fog_learning.backend.base import Result
from fog_learning.backend.torch import TorchBackend

HELD_BYTES: Final = 1 << 30
"""Limit of the kept values behind sketches; the oldest are dropped, because a consensus that begins again never uses them."""


class ExactBackend(TorchBackend):
    """The ops of a job, for all its nodes in one process."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._whole: dict[bytes, Any] = {}
        """Name of a sketch -> the value behind it."""

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
        match op:
            case "spread":
                whole = [self._whole.pop(self._name(inputs[f"sketch{i}"]), None) for i in range(len(inputs))]
                if all(each is not None for each in whole):
                    inputs, numbers = {f"sketch{i}": each for i, each in enumerate(whole)}, {**numbers, "exact": 1}
                return super().run(op, task, inputs, numbers)
            case "sketch":
                outputs, measured = super().run(op, task, inputs, numbers)
                if not measured["exact"]:
                    self._keep(outputs["sketch"], super().run(op, task, inputs, {**numbers, "size": sys.maxsize})[0]["sketch"])
                return outputs, measured
        return super().run(op, task, inputs, numbers)

    def _keep(self, sketch: Any, whole: Any) -> None:
        self._whole[self._name(sketch)] = whole
        most = max(1, HELD_BYTES // max(1, whole["sketch"].nbytes))
        while len(self._whole) > most:
            del self._whole[next(iter(self._whole))]

    def _name(self, sketch: Any) -> bytes:
        return blake2b(self.encode(sketch), digest_size=16).digest()
