"""The plain ops as the op backend of a simulated fleet: the weights at the end say whose training is in them, and how much of it."""

from __future__ import annotations

from typing import Any

import msgspec

from fog_common.errors import OpError
from fog_learning.backend.plain_ops import OPS


class PlainBench:
    def preflight(self) -> list[str]:
        return []

    def assign(self, slots: dict[str, int], roster_size: int) -> None:
        return None

    def run(self, op: str, task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        if op not in OPS:
            raise OpError(f"no plain op {op!r}")
        outputs, gives = OPS[op](task, inputs, numbers)
        return outputs, {name: float(value) for name, value in gives.items()}

    def encode(self, value: Any) -> bytes:
        return msgspec.msgpack.encode(value)

    def decode(self, content: Any) -> Any:
        return msgspec.msgpack.decode(content)
