"""FCDDT, Fig. 7: accuracy by batch size. The paper shows VGG-16 on CIFAR-10 without numbers in the text."""

from __future__ import annotations

import msgspec

from fog_sim.experiments.base import ExperimentSettings, Line, Outcome, Plot, TableRow, find_data, mean_std
from fog_sim.experiments.training import COMMON, SIMULATED, ByteLedger, Setup, bytes_per_step, training_rows

BATCHES = (10, 25, 50, 100, 200, 400)
QUICK_BATCHES = (10, 50, 200)
QUICK_STEPS, STEPS = 120, 600


def run(settings: ExperimentSettings, setup: Setup | None = None, batches: tuple[int, ...] | None = None) -> Outcome:
    """setup, batches: for tests."""
    sizes = batches or (QUICK_BATCHES if settings.quick else BATCHES)
    seeds, steps = settings.repeat(full=3, quick=1), QUICK_STEPS if settings.quick else STEPS
    base = setup or Setup(data=find_data(("cifar10", "cifar10-subset"), settings.env), model={"name": "lenet5"}, steps=steps, lr=0.05, momentum=0.9)
    outcome = Outcome(
        setting={
            "data": base.data,
            "model": base.model["name"],
            "nodes": base.nodes,
            "steps": base.steps,
            "learning rate": base.lr,
            "momentum": base.momentum,
            "seeds": list(seeds),
        },
        assumptions=[
            *COMMON[:1],
            "The paper's figure is VGG-16 on CIFAR-10 on a GPU; here the model is LeNet-5, which a CPU can do. B is the batch of one node.",
            "All batch sizes take the same number of steps: a larger batch sees more images.",
        ],
        simulated=list(SIMULATED),
    )
    points, ledger, rows = [], ByteLedger("batch"), training_rows(base.data, settings)
    for batch in sizes:
        each = _with_batch(base, batch)
        accuracies, moved = [], None
        for seed in seeds:
            settings.say(f"B={batch} seed {seed}: {each.steps} steps")
            done = each.run("FCDDT", seed)
            accuracies.append(done.accuracy())
            settings.say(f"B={batch} seed {seed}: accuracy {accuracies[-1]:.4f}")
            moved = bytes_per_step(each, "FCDDT", done, rows)
        assert moved is not None
        ledger.add(f"B={batch}", found=moved)
        mean, std = mean_std(accuracies)
        points.append((float(batch), mean))
        more = {"batch": batch, **moved.as_json(), "values": accuracies}
        outcome.rows.append(TableRow(row=f"B={batch}", column="FCDDT", ours=mean, std=std, unit="accuracy", more=more))
    outcome.tables.append(ledger.table())
    outcome.plots = [
        Plot(name="batch", title="Accuracy by batch size", x="batch of one node", y="accuracy", lines=[Line("FCDDT", points)], log_x=True)
    ]
    best, small = max(points, key=lambda point: point[1]), points[0]
    outcome.findings.append(
        f"Best at B={best[0]:g} ({best[1]:.3f}), smallest batch {small[1]:.3f}: with the same number of steps a larger batch is "
        f"{'better, until it no longer matters' if best[0] > small[0] else 'no better here'}."
    )
    outcome.findings.append(ledger.finding())
    return outcome


def _with_batch(base: Setup, batch: int) -> Setup:
    return msgspec.structs.replace(base, batch=batch)
