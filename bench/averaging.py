"""Averaging throughput: the op `accumulate` against one numpy float32 add of the same bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from fog_learning.backend.torch import TorchBackend
from fog_learning.job.reading import job_from
from fog_learning.ops.values import Weights

SIZES: Final = (1_000_000, 4_000_000, 16_000_000)
"""Parameters: the model of the round bench, and up to 64 MB."""
REPEATS: Final = 30


def measure() -> dict[str, Any]:
    """value: bytes per second of `accumulate` / of `a += b`, float32, one thread each, for the size at which it is worst.

    Medians of interleaved runs, in seconds of the thread's own processor time: both are one thread's work, and what other processes
    take of the machine meanwhile would otherwise count for the longer one only.
    """
    ratios = {parameters: _ratio(parameters) for parameters in SIZES}
    worst = min(SIZES, key=lambda parameters: ratios[parameters]["value"])
    parts = {f"ratio_{parameters // 1_000_000}m": entry["value"] for parameters, entry in ratios.items()}
    return {**ratios[worst], "parameters": worst, **parts}


def _ratio(parameters: int) -> dict[str, float]:
    job = job_from({"name": "bench", "method": {"name": "fedavg"}, "model": {"name": "mlp", "hidden": [963, 963]}, "data": {"name": "digits"}})
    bench = TorchBackend(job, {}, 1, threads=1)
    dice = np.random.default_rng(0)
    a, b = (dice.standard_normal(parameters, dtype=np.float32) for _ in range(2))
    update = Weights({"w": torch.from_numpy(dice.standard_normal(parameters, dtype=np.float32))})
    total = bench.run("accumulate", "bench", {"add": update}, {"n": 100})[0]["sum"]
    ours, theirs = [], []
    for _ in range(REPEATS):
        theirs.append(_seconds(lambda: np.add(a, b, out=a)))
        ours.append(_seconds(lambda: bench.run("accumulate", "bench", {"sum": total, "add": update}, {"n": 100})))
    size = 4 * parameters
    add_s, ours_s = statistics.median(theirs), statistics.median(ours)
    return {"value": add_s / ours_s, "ours_bytes_s": size / ours_s, "numpy_bytes_s": size / add_s}


def _seconds(action: Callable[[], object]) -> float:
    began = time.thread_time()
    action()
    return time.thread_time() - began
