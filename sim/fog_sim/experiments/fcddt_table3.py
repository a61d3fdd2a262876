"""FCDDT, Table 3: LeNet-5 on the CPU and, with a GPU, VGG-16 on CIFAR-10, trained centrally, federated and decomposed."""

from __future__ import annotations

from typing import Final

from fog_sim.experiments.base import Column, ExperimentSettings, Outcome, TableRow, find_data
from fog_sim.experiments.fcddt_table2 import COLUMNS, RATINGS, compare
from fog_sim.experiments.training import COMMON, SIMULATED, ByteLedger, Setup, training_rows

PAPER: Final[dict[str, dict[Column, float]]] = {"LeNet5": {"CC": 0.445, "FL": 0.45, "FCDDT": 0.45}, "VGG16": {"CC": 0.93, "FL": 0.92, "FCDDT": 0.885}}
STEPS, QUICK_STEPS = 1000, 200
VGG_STEPS = 3000
NEEDS_GPU = "not run: needs a GPU"


def run(settings: ExperimentSettings, steps: int | None = None) -> Outcome:
    """steps: for tests."""
    data = find_data(("cifar10", "cifar10-subset"), settings.env)
    rows, seeds = training_rows(data, settings), settings.repeat(full=3)
    count = steps or (QUICK_STEPS if settings.quick else STEPS)
    lenet = Setup(data=data, model={"name": "lenet5"}, steps=count, batch=50, lr=0.05, momentum=0.9, ratings=RATINGS)
    outcome = Outcome(assumptions=list(COMMON), simulated=list(SIMULATED))
    outcome.setting = {
        "data": data,
        "training images": rows,
        "nodes": lenet.nodes,
        "batch of one node": lenet.batch,
        "learning rate": lenet.lr,
        "momentum": lenet.momentum,
        "steps": lenet.steps,
        "cut": "after the first block",
        "seeds": list(seeds),
    }
    outcome.assumptions.append(
        "FL: a node's optimiser starts anew each round, so momentum is the server's, on the mean of the nodes' steps (`server_optimizer: momentum`)."
    )
    if rows < 50_000:
        outcome.assumptions.append(f"{rows:,} training images, the paper has 50,000: accuracies are lower for all columns.")
    ledger = ByteLedger("model", "method")
    compare(outcome, settings, "LeNet5", lenet, PAPER["LeNet5"], seeds, rows, ledger)
    if not gpu():
        outcome.rows += [TableRow(row="VGG16", column=column, paper=PAPER["VGG16"][column], unit="accuracy", note=NEEDS_GPU) for column in COLUMNS]
        outcome.findings.append(f"VGG16 {NEEDS_GPU} (13 convolutions; a step takes seconds on a CPU).")
    else:
        vgg = Setup(
            data=data,
            model={"name": "vgg16"},
            steps=QUICK_STEPS if settings.quick else VGG_STEPS,
            batch=32,
            lr=0.02,
            momentum=0.9,
            cut=2,
            device="cuda",
            ratings=RATINGS,
        )
        compare(outcome, settings, "VGG16", vgg, PAPER["VGG16"], seeds, rows, ledger)
    outcome.tables.append(ledger.table())
    outcome.findings.append(ledger.finding())
    return outcome


def gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())
