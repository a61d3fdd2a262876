"""A root's Save does not grow with the number of rounds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from fog_learning.job.reading import job_from
from fog_learning.methods import resolve_method
from support.inline import Inline

LIMIT_BYTES = 16 * 1024
SLOTS = 4
NUMBERS = {"examples": 10.0, "loss": 0.5, "accuracy": 0.5, "n": 40.0, "bytes": 8.0, "steps": 1.0, "error": 0.1, "exact": 1.0, "change": 0.1}
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"method": {"name": "fedavg", "local_steps": 1}},
    "fog": {"method": {"name": "fog", "local_steps": 1}, "topology": {"layers": []}},
    "gossip": {"method": {"name": "gossip", "local_steps": 1}},
    "fcddt": {"method": {"name": "fcddt", "cut": 1, "round_steps": 1}},
    "centralized": {"method": {"name": "centralized", "round_steps": 1}, "privacy": {"share_samples": True}},
}


class Hollow:
    """Ops that compute nothing: a few bytes for every output that an op's row names."""

    def __init__(self, job: Any) -> None:
        self.rows = {row.name: row for row in resolve_method(job)[0].ops}

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        slots = sorted({found[0] for name in inputs if (found := re.findall(r"\d+$", name))})
        outputs: dict[str, Any] = {}
        for name in self.rows[op].outputs:
            plain = name.removesuffix("?")
            outputs |= {f"{plain[:-2]}{slot}": b"x" for slot in slots} if plain.endswith("0…") else {plain: b"x"}
        return outputs, dict(NUMBERS)

    def encode(self, value: Any) -> bytes:
        return bytes(value)

    def decode(self, content: Any) -> bytes:
        return bytes(content)


@pytest.mark.parametrize("rounds", [60, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", METHODS)
def test_a_roots_state_without_blobs_stays_small(name: str, rounds: int) -> None:
    job = job_from({"name": "long", "model": {"name": "cnn"}, "train": {"rounds": rounds}, "data": {"name": "digits"}, **METHODS[name]})
    sizes: dict[int, int] = {}

    def note(run: Inline, task: str, label: int) -> None:
        if task == run.root:
            sizes[label] = len(msgspec.msgpack.encode(run.records[task]))

    Inline(job, Hollow(job), SLOTS, on_save=note).run()  # type: ignore[arg-type]
    assert max(sizes) >= rounds
    assert sizes[50] <= LIMIT_BYTES
    assert max(sizes.values()) <= LIMIT_BYTES
    assert sizes[rounds] <= 1.25 * sizes[50] + 256, "the state grows with the rounds"
