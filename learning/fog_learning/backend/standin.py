"""A backend without torch, for tests of everything but learning: whole numbers, so that every mean can be checked.

A value is an `array('q')` of `size` numbers. `train` adds `gain(slot, round)` to each, `examples(slot)` is its
weight, `mean` divides and rounds down: a job without losses ends with `expected(rounds, slots)`.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fog_common.errors import OpError, WireError
from fog_common.telemetry.speed import Speed
from fog_common.wire.messages import BlockReport, ClassSet
from fog_learning.job.sections import JobFile

Result = tuple[dict[str, "array[int]"], dict[str, float]]

MAGIC: Final = b"standin1"
_HEAD: Final = struct.Struct("<8sqq")
"""magic, n (0: weights; else Σ of the weights' scaled n, the value is a sum), count."""
SIZE: Final = 256
SCALE: Final = 1024
"""All n count in 1/1024, since that of a late update is a fraction."""


def gain(slot: int, round: int) -> int:
    """The number that training of a slot adds in a round."""
    return (slot + 1) * 1000 + round


def examples(slot: int) -> int:
    return 10 + slot % 7


def expected(rounds: int, slots: Iterable[int], first: int = 0) -> int:
    """Every number of the weights after so many rounds in which exactly these slots were averaged."""
    members, value = list(slots), first
    n = sum(examples(slot) for slot in members)
    for round in range(1, rounds + 1):
        value = sum(examples(slot) * (value + gain(slot, round)) for slot in members) // n
    return value


class Value:
    """weights (n = 0), or a sum of weights with n = Σ n · SCALE."""

    __slots__ = ("n", "numbers")

    def __init__(self, numbers: array[int], n: int = 0) -> None:
        self.numbers, self.n = numbers, n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and (self.n, self.numbers) == (other.n, other.numbers)

    __hash__ = None  # type: ignore[assignment]


class StandinBackend:
    """size: numbers in a value (8 B each). options: of TorchBackend, ignored."""

    def __init__(self, job: JobFile, slots: Mapping[str, int], roster_size: int, *, size: int = SIZE, **options: Any) -> None:
        self.job = job
        self.slots = dict(slots)
        self.roster_size = roster_size
        self.size = size

    def assign(self, slots: Mapping[str, int], roster_size: int) -> None:
        self.slots, self.roster_size = dict(slots), roster_size

    @property
    def classes(self) -> ClassSet | None:
        return None

    @property
    def blocks(self) -> tuple[BlockReport, ...]:
        return ()

    @property
    def weights(self) -> str:
        return ""

    def preflight(self) -> list[str]:
        return []

    def speed(self) -> Speed | None:
        return None

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> tuple[dict[str, Value], dict[str, float]]:
        match op:
            case "init":
                return {"weights": Value(array("q", bytes(8 * self.size)))}, {"bytes": 8.0 * self.size}
            case "train":
                slot = int(numbers.get("slot", self.slots.get(task, -1)))
                added = gain(slot, int(numbers["round"]))
                trained = array("q", [number + added for number in self._weights(inputs, "weights").numbers])
                return {"weights": Value(trained)}, {"examples": float(examples(slot)), "loss": 1 / (1 + int(numbers["round"]))}
            case "accumulate":
                return {"sum": self._accumulate(inputs, numbers)}, {}
            case "mean":
                total = inputs.get("sum")
                if not isinstance(total, Value) or total.n <= 0:
                    raise OpError("no update to average; the method should have kept the round open")
                return {"weights": Value(array("q", [number // total.n for number in total.numbers]))}, {"n": total.n / SCALE}
            case "server_opt":
                return {"weights": self._weights(inputs, "mean")}, {}
            case "evaluate" | "evaluate_local":
                first = self._weights(inputs, "weights").numbers[0]
                return {}, {"accuracy": first / (first + 1000.0), "loss": 1000.0 / (first + 1000.0), "examples": 100.0}
            case _:
                raise OpError(f"the stand-in has no op {op!r}")

    def encode(self, value: Value) -> bytearray:
        content = bytearray(_HEAD.pack(MAGIC, value.n, len(value.numbers)))
        content += value.numbers.tobytes()
        return content

    def decode(self, content: bytes | bytearray | memoryview) -> Value:
        """WireError for bytes that are not a value."""
        if len(content) < _HEAD.size:
            raise WireError(f"a stand-in value needs {_HEAD.size} B, this has {len(content)}")
        magic, n, count = _HEAD.unpack_from(content)
        if magic != MAGIC or count * 8 != len(content) - _HEAD.size:
            raise WireError("not a stand-in value")
        numbers = array("q")
        numbers.frombytes(memoryview(content)[_HEAD.size :])
        return Value(numbers, n)

    def _weights(self, inputs: Mapping[str, Any], name: str) -> Value:
        value = inputs.get(name)
        if not isinstance(value, Value) or value.n:
            raise OpError(f"{name} is not a value of weights")
        return value

    def _accumulate(self, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Value:
        total, add = inputs.get("sum"), inputs["add"]
        scaled, n = (1, add.n) if add.n else (round(numbers["n"] * SCALE), round(numbers["n"] * SCALE))
        if total is None:
            total = Value(array("q", bytes(8 * len(add.numbers))))
        if len(total.numbers) != len(add.numbers):
            raise OpError(f"{len(add.numbers)} numbers cannot be added to {len(total.numbers)}")
        return Value(array("q", [a + scaled * b for a, b in zip(total.numbers, add.numbers, strict=True)]), total.n + n)
