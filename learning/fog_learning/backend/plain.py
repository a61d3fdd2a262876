"""The plain ops as the backend of a simulated fleet: the final weights show the share of every slot's training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fog_common.errors import OpError
from fog_common.telemetry.speed import Speed
from fog_common.wire.messages import BlockReport, ClassSet
from fog_learning.backend.base import Result
from fog_learning.backend.plain_ops import OPS
from fog_learning.job.sections import JobFile


class PlainBackend:
    """Keeps nothing of the job. options: of TorchBackend, ignored."""

    classes: ClassSet | None = None
    blocks: tuple[BlockReport, ...] = ()
    weights = ""

    def __init__(self, job: JobFile, slots: Mapping[str, int], roster_size: int, **options: Any) -> None:
        return None

    def preflight(self) -> list[str]:
        return []

    def speed(self) -> Speed | None:
        return None

    def assign(self, slots: Mapping[str, int], roster_size: int) -> None:
        return None

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
        if op not in OPS:
            raise OpError(f"no plain op {op!r}")
        outputs, gives = OPS[op](task, dict(inputs), dict(numbers))
        return outputs, {name: float(value) for name, value in gives.items()}

    def encode(self, value: Any) -> bytes:
        return msgspec.msgpack.encode(value)

    def decode(self, content: Any) -> Any:
        return msgspec.msgpack.decode(content)
