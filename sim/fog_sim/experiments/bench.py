"""The op backend of an experiment's run. Data sets are read once for all its runs: some take longer to unpack than to train on."""

from __future__ import annotations

from typing import Any, Final

from fog_learning.data import Dataset, load_dataset
from fog_learning.job.sections import Job
from fog_sim.costs import Costs, model_costs
from fog_sim.exact import ExactBench

_held: Final[dict[str, Dataset]] = {}
"""The last one: experiments use one after the other."""


class Bench(ExactBench):
    def _load(self) -> Dataset:
        if self._dataset is None:
            data = self.job.data
            if data.name not in _held:
                _held.clear()
                _held[data.name] = load_dataset(data.name, {}, self._env)
            self._dataset = _held[data.name].limited(data.train_limit, data.test_limit, self.job.seed)
        return self._dataset


def on_cpu(job: Job, slots: dict[str, int], roster_size: int) -> tuple[Any, Costs]:
    return _made(job, slots, roster_size, "cpu")


def on_gpu(job: Job, slots: dict[str, int], roster_size: int) -> tuple[Any, Costs]:
    return _made(job, slots, roster_size, "cuda")


def _made(job: Job, slots: dict[str, int], roster_size: int, device: str) -> tuple[Any, Costs]:
    bench = Bench(job, slots, roster_size, device=device, threads=1, evaluates=True)
    return bench, model_costs(job, bench.spec, len(bench.test_rows()), roster_size)
