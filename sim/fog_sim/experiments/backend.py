"""The op backend of an experiment's runs. Each data set is read once for all runs, because some take longer to unpack than to train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fog_learning.backend.base import Backend
from fog_learning.data import Dataset, load_dataset
from fog_learning.job.sections import JobFile
from fog_sim.costs import Costs, model_costs
from fog_sim.exact import ExactBackend

_held: Final[dict[str, Dataset]] = {}
"""The last data set read; experiments use one after the other."""


def read_once(name: str, paths: Mapping[str, str], env: Mapping[str, str]) -> Dataset:
    """The data set of load_dataset, kept in memory until another one is read."""
    if name not in _held:
        _held.clear()
        _held[name] = load_dataset(name, paths, env)
    return _held[name]


def on_cpu(job: JobFile, slots: dict[str, int], roster_size: int) -> tuple[Backend, Costs]:
    return _made(job, slots, roster_size, "cpu")


def on_gpu(job: JobFile, slots: dict[str, int], roster_size: int) -> tuple[Backend, Costs]:
    return _made(job, slots, roster_size, "cuda")


def _made(job: JobFile, slots: dict[str, int], roster_size: int, device: str) -> tuple[Backend, Costs]:
    backend = ExactBackend(job, slots, roster_size, device=device, threads=1, evaluates=True, read=read_once)
    return backend, model_costs(job, backend.models.spec, len(backend.rows.test()), roster_size)
