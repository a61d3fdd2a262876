"""Tensor ops on plain lists of numbers, for schedules of methods that average among neighbours.

Weights are [parameter, share of slot 0, share of slot 1, …]: training of a slot halves the parameter, adds `gain(slot)` and sets the
shares to that slot alone, so that any mean shows the share of every slot's training.
"""

from __future__ import annotations

import math
from typing import Any

SLOTS = 12
Values = dict[str, Any]
Numbers = dict[str, float]

# -- ops on plain numbers: [parameter, share of slot 0, share of slot 1, …] --------------------


def gain(slot: int) -> float:
    return math.sin(slot + 1.0)


def examples(slot: int) -> int:
    return 10 + 7 * slot


def _train(task: str, inputs: Values, numbers: Values) -> tuple[Values, Numbers]:
    slot = int(numbers["slot"])
    after = 0.5 * inputs["weights"][0] + gain(slot)
    return {"weights": [after, *(1.0 if slot == other else 0.0 for other in range(SLOTS))]}, {"examples": examples(slot), "loss": 1.0}


def _accumulate(task: str, inputs: Values, numbers: Values) -> tuple[Values, Numbers]:
    total = inputs.get("sum") or {"y": [0.0] * len(inputs["add"]), "n": 0.0}
    n = float(numbers["n"])
    return {"sum": {"y": [y + n * w for y, w in zip(total["y"], inputs["add"], strict=True)], "n": total["n"] + n}}, {}


def _mean(task: str, inputs: Values, numbers: Values) -> tuple[Values, Numbers]:
    return {"weights": [y / inputs["sum"]["n"] for y in inputs["sum"]["y"]]}, {}


def _pair(task: str, inputs: Values, numbers: Values) -> tuple[Values, Numbers]:
    value = [w * numbers["n"] for w in inputs["weights"]]
    return {"value": value, "sent": value}, {}


def _mix(task: str, inputs: Values, numbers: Values) -> tuple[Values, Numbers]:
    value = list(inputs["value"])
    for i in range(len(numbers)):
        value = [y + numbers[f"w{i}"] * (a - b) for y, a, b in zip(value, inputs[f"from{i}"], inputs["sent"], strict=True)]
    return {"value": value, "sent": value}, {"change": 0.0}


def _settle(task: str, inputs: Values, numbers: Values) -> tuple[Values, Numbers]:
    whole, part, of = [y / numbers["m"] for y in inputs["value"]], int(numbers["part"]), int(numbers["of"])
    return {"weights": whole[part * len(whole) // of : (part + 1) * len(whole) // of]}, {}


def _join(task: str, inputs: Values, numbers: Values) -> tuple[Values, Numbers]:
    joined = [value for i in range(len(inputs) - 1) for value in inputs[f"slice{i}"]]
    assert len(joined) == len(inputs["like"])
    return {"weights": joined}, {}


def _spread(task: str, inputs: Values, numbers: Values) -> tuple[Values, Numbers]:
    assert numbers["exact"] == 1
    rows, m = [inputs[f"sketch{i}"] for i in range(len(inputs))], [numbers[f"m{i}"] for i in range(len(inputs))]
    mean = [sum(column) / sum(m) for column in zip(*rows, strict=True)]
    return {}, {"error": max(math.dist([y / mass for y in row], mean) for row, mass in zip(rows, m, strict=True))}


OPS: dict[str, Any] = {
    "init": lambda task, inputs, numbers: ({"weights": [0.0] * (1 + SLOTS)}, {}),
    "train": _train,
    "accumulate": _accumulate,
    "mean": _mean,
    "pair": _pair,
    "mix": _mix,
    "settle": _settle,
    "join": _join,
    "sketch": lambda task, inputs, numbers: ({"sketch": inputs["value"]}, {"exact": 1.0}),
    "spread": _spread,
    "evaluate": lambda task, inputs, numbers: ({}, {"accuracy": 0.5, "loss": 0.5}),
}


def shares(slots: range | list[int]) -> list[float]:
    """The shares in a mean over these slots, each counted once by its examples."""
    total = sum(examples(slot) for slot in slots)
    return [examples(slot) / total if slot in slots else 0.0 for slot in range(SLOTS)]


def flat(rounds: int, slots: int) -> float:
    """The parameter after so many rounds of federated averaging over slots 0, 1, …"""
    w, total = 0.0, sum(examples(slot) for slot in range(slots))
    for _ in range(rounds):
        w = sum(examples(slot) * (0.5 * w + gain(slot)) for slot in range(slots)) / total
    return w
