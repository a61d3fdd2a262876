"""FCDDT beside its baselines on one star: the same partition, the same batches step by step, the same number of steps."""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

from fog_learning.job import Job
from fog_learning.jobfile import job_from
from fog_learning.methods import traffic
from fog_learning.methods.fcddt_messages import Plan, cut_at
from fog_learning.models import ModelSpec, resolve_model
from fog_sim.experiments.base import Column
from fog_sim.experiments.stage import Finished, Stage, star
from fog_sim.links import PRESETS

METHOD: Final[dict[Column, str]] = {"CC": "centralized", "FL": "fedavg", "FCDDT": "fcddt"}
FLOAT: Final = 4


class Setup(Struct, frozen=True, kw_only=True):
    """One configuration of the three columns. steps: optimiser steps; the last weights are rated on the whole test set."""

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
    train_limit: int | None = None
    redraw_s: float = 0.0
    spread: float = 0.0
    device: Literal["cpu", "cuda"] = "cpu"

    def spec(self, column: Column, seed: int) -> dict[str, Any]:
        """The job file. A round of CC and FCDDT holds up to 50 steps, one of FL is a step; the evaluation comes after the last."""
        sizes = (size for size in range(1, 51) if self.steps % size == 0 and size % self.sync_every == 0)
        per_round = 1 if column == "FL" else max(sizes, default=self.steps)
        method: dict[str, Any] = {"name": METHOD[column]}
        match column:
            case "FL":
                method |= {"local_steps": 1}
                if self.momentum:  # a trainer's optimiser starts anew each round: the server's does the same on the mean step
                    method |= {"server_optimizer": "momentum", "beta1": self.momentum}
            case "CC":
                method |= {"round_steps": per_round}
            case "FCDDT":
                method |= {"cut": self.cut, "round_steps": per_round, "sync_every": self.sync_every, "straggler_rate": self.straggler_rate}
        rounds = self.steps // per_round
        return {
            "name": f"paper-{column.lower()}",
            "method": method,
            "model": self.model,
            "data": {"name": self.data, **({"train_limit": self.train_limit} if self.train_limit else {})},
            "train": {"rounds": rounds, "batch_size": self.batch, "lr": self.lr, "momentum": self.momentum},
            "evaluation": {"every": rounds},
            "seed": seed,
            **({"privacy": {"share_samples": True}} if column == "CC" else {}),
        }

    def job(self, column: Column = "FCDDT") -> Job:
        return job_from(self.spec(column, 0), "the experiment's job")

    def shape(self) -> ModelSpec:
        from fog_learning.data import known_shape

        return resolve_model(self.model, *(known_shape(self.data) or (None, None)))

    def run(self, column: Column, seed: int) -> Finished:
        """In the simulator, on a local network, with real tensors."""
        from fog_sim.experiments.bench import on_cpu, on_gpu

        spec, lan = self.spec(column, seed), PRESETS["lan"].link
        stage = Stage(
            spec,
            star(spec, self.nodes),
            links=lambda task: (lan, None),
            bench=on_gpu if self.device == "cuda" else on_cpu,
            seed=seed,
            redraw_s=self.redraw_s,
            spread=self.spread,
        )
        return stage.run()


class Bytes(Struct, frozen=True):
    """Of one step, through the nodes' own links (sent and received; a cast counts at each receiver)."""

    measured: float
    """With headers, acknowledgements and repairs."""
    formula: float
    """Tensors alone, of the variant that is built here."""
    paper: float
    """As the paper counts it."""


def bytes_per_step(setup: Setup, column: Column, run: Finished, rows: int) -> Bytes:
    """rows: training rows of all nodes together."""
    spec, p = setup.shape(), setup.nodes
    batches = [min(setup.batch, rows // p)] * p
    devices = [name for name in run.far if not name.startswith(("center", "server", "trunk"))]
    measured = sum(run.far[name].total + run.near[name].total for name in devices) / setup.steps
    match column:
        case "FCDDT":
            plan = Plan(cut=setup.cut, sync_every=setup.sync_every, round_steps=setup.sync_every)
            each = traffic.fcddt(spec, plan, batches, FLOAT)
            formula = each.up + each.down + p * each.cast
            paper = traffic.paper_fcddt(spec, cut_at(plan, spec.block_names)[0], batches)
        case "FL":
            each = traffic.fedavg(spec, p, 1, FLOAT)
            formula, paper = each.up + each.down + p * each.cast, traffic.paper_fl(spec, p)
        case "CC":
            formula, paper = traffic.centralized(spec, rows, setup.steps, 1).total, traffic.paper_cc(spec, batches)
    return Bytes(measured, formula, FLOAT * paper)


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
