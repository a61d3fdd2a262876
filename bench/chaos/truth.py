"""What must hold of a job whose ops are the stand-in's whole numbers: its weights follow from its history, number by number."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from blake3 import blake3

from fog_learning.backend.standin import SIZE, StandinBackend, Value, examples, gain


def slots_of(count: float, slots: Sequence[int]) -> tuple[int, ...] | None:
    """The slots whose examples add up to `count`; None if none do. Up to three slots every sum is another one."""
    for number in range(1, len(slots) + 1):
        for chosen in combinations(slots, number):
            if sum(examples(slot) for slot in chosen) == count:
                return chosen
    return None


def digest_of(rounds: Sequence[tuple[int, Sequence[int]]]) -> str:
    """Digest of the final weights if exactly these slots are in the means of these rounds."""
    value = 0
    for number, slots in rounds:
        value = sum(examples(slot) * (value + gain(slot, number)) for slot in slots) // sum(examples(slot) for slot in slots)
    encode = StandinBackend.encode
    return str(blake3(encode(None, Value(array("q", [value] * SIZE)))).hexdigest())  # type: ignore[arg-type]


def violations(status: Mapping[str, Any], rounds: int, slots: Sequence[int]) -> list[str]:
    """Of a finished job: rounds missing or out of order, a slot counted twice, weights that are not those of the history."""
    history = status["history"]
    found = []
    numbers = [record["round"] for record in history]
    if numbers != list(range(1, rounds + 1)):
        found.append(f"closed rounds {numbers[:3]}…{numbers[-3:]}, expected 1 to {rounds}")
    members = []
    for record in history:
        chosen = slots_of(record["examples"], slots)
        if chosen is None or len(chosen) != record["updates"]:
            found.append(f"round {record['round']}: {record['updates']} updates of {record['examples']} examples are no set of slots")
        else:
            members.append((record["round"], chosen))
    if not found and status["digest"] != digest_of(members):
        found.append("the final weights are not those that follow from the history")
    return found


def whole(status: Mapping[str, Any], slots: Sequence[int]) -> bool:
    """Every round held the updates of all slots."""
    return all(record["updates"] == len(slots) for record in status["history"])
