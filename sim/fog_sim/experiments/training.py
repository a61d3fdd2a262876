"""FCDDT beside its baselines on one star: the same partition, the same batches step by step, the same number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final, Literal

from msgspec import Struct

from fog_learning.job.reading import job_from
from fog_learning.job.sections import JobFile
from fog_learning.methods.centralized import traffic as centralized
from fog_learning.methods.fcddt import traffic as fcddt
from fog_learning.methods.fcddt.messages import Plan, cut_at
from fog_learning.methods.fedavg import traffic as fedavg
from fog_learning.models import ModelSpec, resolve_model
from fog_sim.experiments.base import Column, ExperimentSettings, ResultTable, held
from fog_sim.experiments.stage import Finished, Stage, star
from fog_sim.links import PRESETS

METHOD: Final[dict[Column, str]] = {"CC": "centralized", "FL": "fedavg", "FCDDT": "fcddt"}
FLOAT: Final = 4


class Setup(Struct, frozen=True, kw_only=True):
    """One configuration of the three columns. steps: optimiser steps; ratings: approximate number of evaluations on the whole test set, at the
    same steps in all columns, including the last."""

    data: str
    model: dict[str, Any]
    steps: int
    nodes: int = 4
    batch: int = 100
    lr: float = 0.1
    momentum: float = 0.0
    sync_every: int = 1
    straggler_rate: float = 0.0
    cut: int = 1
    ratings: int = 1
    train_limit: int | None = None
    redraw_s: float = 0.0
    spread: float = 0.0
    device: Literal["cpu", "cuda"] = "cpu"

    def spec(self, column: Column, seed: int) -> dict[str, Any]:
        """The job file."""
        per_round = self.per_round(column)
        method: dict[str, Any] = {"name": METHOD[column]}
        match column:
            case "FL":
                method |= {"local_steps": 1}
                if self.momentum:  # a trainer's optimiser begins anew each round, so the server applies momentum to the mean step
                    method |= {"server_optimizer": "momentum", "beta1": self.momentum}
            case "CC":
                method |= {"round_steps": per_round}
            case "FCDDT":
                method |= {"cut": self.cut, "round_steps": per_round, "sync_every": self.sync_every, "straggler_rate": self.straggler_rate}
        rounds = self.steps // per_round
        every = max(1, self.steps // self._longest() // self.ratings) * self._longest() // per_round
        return {
            "name": f"paper-{column.lower()}",
            "method": method,
            "model": self.model,
            "data": {"name": self.data, **({"train_limit": self.train_limit} if self.train_limit else {})},
            "train": {"rounds": rounds, "batch_size": self.batch, "lr": self.lr, "momentum": self.momentum},
            "evaluation": {"every": every},
            "seed": seed,
            **({"privacy": {"share_samples": True}} if column == "CC" else {}),
        }

    def per_round(self, column: Column) -> int:
        """Steps in a round: the largest divisor of all steps up to 50; for FL 1."""
        return 1 if column == "FL" else self._longest()

    def _longest(self) -> int:
        return max((size for size in range(1, 51) if self.steps % size == 0 and size % self.sync_every == 0), default=self.steps)

    def curve(self, column: Column, run: Finished) -> list[tuple[float, float]]:
        """(step, accuracy) of each rating."""
        rated = ((self.per_round(column) * record.round, record.numbers.get("accuracy")) for record in run.history)
        return [(float(step), accuracy) for step, accuracy in rated if accuracy is not None]

    def job(self, column: Column = "FCDDT") -> JobFile:
        return job_from(self.spec(column, 0), "the experiment's job")

    def shape(self) -> ModelSpec:
        from fog_learning.data.known import known_shape

        return resolve_model(self.model, *(known_shape(self.data) or (None, None)))

    def run(self, column: Column, seed: int) -> Finished:
        """Run a column in the simulator, on a local network, with real tensors."""
        from fog_sim.experiments.backend import on_cpu, on_gpu

        spec, lan = self.spec(column, seed), PRESETS["lan"].link
        stage = Stage(
            spec,
            star(spec, self.nodes),
            links=lambda task: (lan, None),
            backend=on_gpu if self.device == "cuda" else on_cpu,
            seed=seed,
            redraw_s=self.redraw_s,
            spread=self.spread,
        )
        return stage.run()


class Bytes(Struct, frozen=True):
    """Bytes of one step through the nodes' own links (sent and received; a cast counts at each receiver)."""

    measured: float
    """All bytes, with headers, acknowledgements and repairs."""
    tensors: float
    """Part of `measured` that are tensors which tasks sent."""
    formula: float
    """Bytes of tensors by the formula of this implementation."""
    paper: float
    """Bytes of tensors by the paper's formula."""

    def as_json(self) -> dict[str, float]:
        return {"bytes_measured": self.measured, "bytes_of_tensors": self.tensors, "bytes_formula": self.formula, "bytes_paper": self.paper}


def bytes_per_step(setup: Setup, column: Column, run: Finished, rows: int) -> Bytes:
    """Bytes of a run per step. rows: training rows of all nodes together."""
    spec, p = setup.shape(), setup.nodes
    batches = [min(setup.batch, rows // p)] * p
    devices = [name for name in run.far if not name.startswith(("center", "server", "trunk"))]
    measured = sum(run.far[name].total + run.near[name].total for name in devices) / setup.steps
    tensors = (run.ideal_bytes + (p - 1) * run.ideal_cast_bytes) / setup.steps
    match column:
        case "FCDDT":
            plan = Plan(cut=setup.cut, sync_every=setup.sync_every, round_steps=setup.sync_every, straggler_rate=setup.straggler_rate)
            first = plan.chosen(p)
            each = fcddt.per_step(spec, plan, batches[:first], FLOAT)
            late = fcddt.per_step(spec, Plan(cut=setup.cut, backward="frozen_front"), batches[first:], FLOAT)  # activations without an answer
            formula = each.up + each.down + p * each.cast + late.up
            paper = fcddt.paper(spec, cut_at(plan, spec.block_names)[0], batches)
        case "FL":
            each = fedavg.per_step(spec, p, 1, FLOAT)
            formula, paper = each.up + each.down + p * each.cast, fedavg.paper(spec, p)
        case "CC":
            formula, paper = centralized.per_step(spec, rows, setup.steps, 1).total, centralized.paper(spec, batches)
    return Bytes(measured, tensors, formula, FLOAT * paper)


def training_rows(data: str, settings: ExperimentSettings) -> int:
    from fog_learning.data import load_dataset

    return len(load_dataset(data, {}, settings.env).train_y)


def mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Mean of curves with the same steps."""
    return [(points[0][0], fmean(value for _, value in points)) for points in zip(*curves, strict=True)]


class ByteLedger:
    """Bytes of an experiment's runs, for its table and its finding."""

    def __init__(self, *columns: str) -> None:
        """columns: titles of the parts of a run's name."""
        self.columns = columns
        self.lines: list[tuple[tuple[str, ...], Bytes]] = []

    def add(self, *name: str, found: Bytes) -> None:
        self.lines.append((name, found))

    def table(self) -> ResultTable:
        columns = (*self.columns, "measured", "of these tensors", "formula of what is built", "measured / formula", "formula as the paper counts")
        rows = [
            [
                *name,
                *(f"{figure:,.0f}" for figure in (found.measured, found.tensors, found.formula)),
                f"{found.measured / found.formula:.3f}",
                f"{found.paper:,.0f}",
            ]
            for name, found in self.lines
        ]
        return ResultTable("Bytes per step over the nodes' links, sent and received", columns, rows)

    def finding(self) -> str:
        """Verdict whether the tensors are within 5 % of the formula, with the share of headers and acknowledgements."""
        off = {" ".join(name): found.tensors / found.formula - 1 for name, found in self.lines}
        worst = max(off, key=lambda name: abs(off[name]))
        headers = [found.measured / found.tensors - 1 for _, found in self.lines]
        how = f"worst: {worst} {off[worst]:+.1%}; headers, acknowledgements and repairs add {min(headers):.1%} to {max(headers):.1%}"
        return held("the tensors that were sent are within 5 % of the formula", abs(off[worst]) <= 0.05, how)


COMMON: Final = [
    "The paper gives neither the number of fog nodes, nor batch size, learning rate or number of steps of its accuracy tables; ours are above.",
    "All columns start from the same weights, and at step t take the same rows: batch t of each node's part of the training set (IID).",
    "FCDDT is `backward: cut_gradient`: the paper's Algorithm 3 cannot be computed as written (docs/papers.md).",
    "CC sends every sample once, as stored (one byte a pixel); the paper's p·B·d counts a new batch from each node in each step.",
    "The paper counts values; the last column of the table of bytes takes four bytes a value.",
]
SIMULATED: Final = [
    "Training is real (torch, CPU), by the same state machines, transfer and messages as on a fleet.",
    "The network is simulated in virtual time: bytes are those of the real frames, counted at the nodes' links.",
]
