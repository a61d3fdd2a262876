"""Decomposed training, live, against one process that trains the unsplit model on the union batch. Needs MNIST in $FOGLEARN_DATA/mnist."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import torch

from bench.rounds import run
from fog_learning.data import load_dataset
from fog_learning.models import resolve_model
from fog_learning.models.build import build
from fogctl.fleet.local_fleet import LocalFleet

NODES: Final = 4
BATCH: Final = 100
ROUND_STEPS: Final = 10
JOB: Final[dict[str, Any]] = {
    "name": "split",
    "method": {"name": "fcddt", "cut": 1, "round_steps": ROUND_STEPS},
    "model": {"name": "cnn"},
    "data": {"name": "mnist"},
    "train": {"rounds": 8, "batch_size": BATCH, "lr": 0.05, "momentum": 0.9},
    "evaluation": {"where": "none"},
}


def measure() -> dict[str, Any]:
    """value: steps/s of 4 nodes with B = 100 each / steps/s of one process with the union batch of 400, with as many threads as it is fastest with."""
    threads = torch.get_num_threads()
    alone = max(_alone(count) for count in sorted({1, threads}))
    torch.set_num_threads(threads)
    with (
        tempfile.TemporaryDirectory(prefix="foglearn-bench-") as folder,
        LocalFleet(Path(folder), NODES, broker="mosquitto") as fleet,
        fleet.client() as client,
    ):
        fleet.wait_for_nodes(client, NODES + 1)
        _, status = run(fleet, client, JOB)
    ends = [record["wall_s"] for record in status["history"]]
    seconds = [later - earlier for earlier, later in itertools.pairwise(ends)][1:]
    live = ROUND_STEPS / statistics.median(seconds)
    return {"value": live / alone, "live_steps_s": live, "alone_steps_s": alone, "nodes": NODES, "batch": BATCH, "model": "cnn"}


def _alone(threads: int, steps: int = 20) -> float:
    """Steps per second of plain torch, median."""
    torch.set_num_threads(threads)
    data = load_dataset("mnist", {}, os.environ)
    spec = resolve_model({"name": "cnn"}, data.input_shape, data.classes)
    module = build(spec)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    rows = NODES * BATCH
    x = torch.from_numpy(data.train_x[:rows].copy()).float().reshape(rows, *data.input_shape) / 255
    y = torch.from_numpy(data.train_y[:rows].copy()).long()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimiser.step()
        seconds.append(time.perf_counter() - began)
    return 1 / statistics.median(seconds[2:])
