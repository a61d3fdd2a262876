"""Torch backends for the tests of ops: the digits on a small model, without files of this machine."""

from __future__ import annotations

from typing import Any, Final

import torch
from msgspec.structs import replace

from fog_learning.backend.torch import TorchBackend
from fog_learning.job.sections import Data, JobFile, Partition, Privacy, Train
from fog_learning.ops.values import Weights

JOB: Final = JobFile(
    name="digits",
    method={"name": "fedavg"},
    model={"name": "mlp", "hidden": [16]},
    data=Data(partition=Partition("dirichlet")),
    train=Train(batch_size=32, momentum=0.9),
    seed=3,
)
CONSENTING: Final = replace(JOB, privacy=Privacy(share_samples=True))
"""Samples may leave their nodes."""


def backend_for(job: JobFile = JOB, slots: int = 4, **more: Any) -> TorchBackend:
    """Tasks t0, t1 … own the slots 0, 1 …; the node evaluates too."""
    return TorchBackend(job, {f"t{slot}": slot for slot in range(slots)}, slots, env={}, **{"evaluates": True, **more})


def first_of(backend: TorchBackend) -> Weights:
    """The first weights of the whole model."""
    return backend.run("init", "server", {}, {})[0]["weights"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Same names in the same order, same bits."""
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)
