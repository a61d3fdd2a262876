"""FCDDT, Fig. 8: accuracy by straggler rate and batch size. p = 20 nodes: the paper's "even with four FNs" fits 20 at a rate of 0.8."""

from __future__ import annotations

from typing import Final

import msgspec

from fog_sim.experiments.base import ExperimentSettings, Line, Outcome, Plot, TableRow, find_data, held, mean_std
from fog_sim.experiments.training import COMMON, SIMULATED, ByteLedger, Setup, bytes_per_step, training_rows

NODES: Final = 20
RATES: Final = (0.0, 0.2, 0.4, 0.6, 0.8)
BATCHES: Final = (100, 200, 500, 1000)
"""Batch of all nodes together; each node takes 5 to 50 images."""


def run(
    settings: ExperimentSettings, setup: Setup | None = None, batches: tuple[int, ...] = BATCHES, rates: tuple[float, ...] | None = None
) -> Outcome:
    """setup, batches, rates: for tests."""
    shares, seeds = rates or ((0.0, 0.4, 0.8) if settings.quick else RATES), settings.repeat(full=3, quick=1)
    base = setup or Setup(
        data=find_data(("cifar10", "cifar10-subset"), settings.env),
        model={"name": "lenet5"},
        nodes=NODES,
        steps=100 if settings.quick else 400,
        lr=0.05,
        momentum=0.9,
        spread=0.5,
        redraw_s=0.005,
    )
    outcome = Outcome(
        setting={
            "data": base.data,
            "model": base.model["name"],
            "p": base.nodes,
            "steps": base.steps,
            "learning rate": base.lr,
            "momentum": base.momentum,
            "seeds": list(seeds),
        },
        assumptions=[
            *COMMON[:1],
            f'p = {base.nodes}: not given in the paper; "even with four FNs" at rate 0.8 fits 20. At rate a the cloud goes on with the first ceil((1 - a) p).',
            "The batch is that of all nodes together (each node takes batch / p images): 1,000 from each of 20 nodes would be the whole training set in three steps.",
            "The paper's figure is VGG-16 on CIFAR-10 on a GPU; here the model is LeNet-5, which a CPU can do.",
            f"Who is slow changes: the nodes' speeds are drawn anew every {1000 * base.redraw_s:g} ms of virtual time, from 1 ± {base.spread:g}.",
            "All points take the same number of steps.",
            "Formula of the bytes: all p nodes get the weights and send activations, of which those of the last floor(a p) are in vain; only the first "
            "get an answer and send gradients.",
        ],
        simulated=[*SIMULATED, "Who comes first in a step is decided by simulated speeds and links."],
    )
    accuracy: dict[tuple[int, float], float] = {}
    ledger, rows = ByteLedger("batch", "straggler rate"), training_rows(base.data, settings)
    for batch in batches:
        for rate in shares:
            point = msgspec.structs.replace(base, batch=max(1, batch // base.nodes), straggler_rate=rate)
            accuracies, moved = [], None
            for seed in seeds:
                settings.say(f"batch {batch} rate {rate:g} seed {seed}: {point.steps} steps")
                done = point.run("FCDDT", seed)
                accuracies.append(done.accuracy())
                settings.say(f"batch {batch} rate {rate:g} seed {seed}: accuracy {accuracies[-1]:.4f}")
                moved = bytes_per_step(point, "FCDDT", done, rows)
            assert moved is not None
            ledger.add(f"batch {batch}", f"rate {rate:g}", found=moved)
            accuracy[batch, rate], std = mean_std(accuracies)
            more = {"batch": batch, "straggler_rate": rate, "p": base.nodes, **moved.as_json(), "values": accuracies}
            outcome.rows.append(
                TableRow(row=f"batch {batch}", column=f"rate {rate:g}", ours=accuracy[batch, rate], std=std, unit="accuracy", more=more)
            )
    lines = [Line(f"batch {batch}", [(rate, accuracy[batch, rate]) for rate in shares]) for batch in batches]
    outcome.plots = [Plot(name="stragglers", title=f"Accuracy by straggler rate, p = {base.nodes}", x="straggler rate", y="accuracy", lines=lines)]
    outcome.tables.append(ledger.table())
    _judge(outcome, accuracy, batches, shares)
    outcome.findings.append(ledger.finding())
    return outcome


def _judge(outcome: Outcome, accuracy: dict[tuple[int, float], float], batches: tuple[int, ...], rates: tuple[float, ...]) -> None:
    """Compare with the paper: at the highest rate the smallest batch loses much accuracy, the two largest hardly any."""
    low, high = min(rates), max(rates)
    loss = {batch: accuracy[batch, low] - accuracy[batch, high] for batch in batches}
    shown = ", ".join(f"batch {batch}: {loss[batch]:+.3f}" for batch in batches)
    outcome.findings.append(f"Accuracy lost from rate {low:g} to {high:g}: {shown}.")
    small, large = loss[batches[0]], max(loss[batch] for batch in batches[-2:])
    outcome.findings.append(
        held("the paper's shape, first part: the larger the batch, the less is lost (smallest against largest)", small > loss[batches[-1]], shown)
    )
    outcome.findings.append(held("the paper's shape, second part: the two largest batches lose less than 0.05", large < 0.05, f"{large:+.3f}"))
    outcome.findings.append(held("the paper's shape, third part: the smallest batch falls hard (by 0.1 or more)", small >= 0.1, f"{small:+.3f}"))
