"""FCDDT, Table 2: a two-layer MLP and a two-layer CNN on MNIST, trained centrally (CC), federated (FL) and decomposed (FCDDT)."""

from __future__ import annotations

from typing import Any, Final

from fog_sim.experiments.base import Column, ExperimentSettings, Line, Outcome, Plot, TableRow, held, mean_std
from fog_sim.experiments.training import COMMON, SIMULATED, ByteLedger, Setup, bytes_per_step, mean_curve, training_rows

PAPER: Final[dict[str, dict[Column, float]]] = {
    "MLP": {"CC": 0.90, "FL": 0.90, "FCDDT": 0.89},
    "CNN": {"CC": 0.96, "FL": 0.96, "FCDDT": 0.96},
}
MODELS: Final[dict[str, dict[str, Any]]] = {"MLP": {"name": "mlp", "hidden": [64]}, "CNN": {"name": "cnn"}}
CUT: Final = {"MLP": 1, "CNN": 1}
STEPS: Final = 300
QUICK_STEPS: Final = 150
RATINGS: Final = 6
"""Points of a curve."""
COLUMNS: Final[tuple[Column, ...]] = ("CC", "FL", "FCDDT")


def run(settings: ExperimentSettings, data: str = "mnist", steps: int | None = None, models: tuple[str, ...] = ("MLP", "CNN")) -> Outcome:
    """data, steps, models: for tests."""
    count = steps or (QUICK_STEPS if settings.quick else STEPS)
    seeds = settings.repeat(full=5)
    rows = training_rows(data, settings)
    outcome = Outcome(assumptions=list(COMMON), simulated=list(SIMULATED))
    setups = {name: Setup(data=data, model=MODELS[name], steps=count, cut=CUT[name], ratings=RATINGS) for name in models}
    one = next(iter(setups.values()))
    outcome.setting = {
        "nodes": one.nodes,
        "batch of one node": one.batch,
        "learning rate": one.lr,
        "steps": count,
        "optimiser": "SGD",
        "cut": "after the first block",
        "seeds": list(seeds),
    }
    ledger = ByteLedger("model", "method")
    for name, setup in setups.items():
        compare(outcome, settings, name, setup, PAPER.get(name, {}), seeds, rows, ledger)
    outcome.tables.append(ledger.table())
    outcome.findings.append(ledger.finding())
    return outcome


def compare(
    outcome: Outcome, settings: ExperimentSettings, name: str, setup: Setup, paper: dict[Column, float], seeds: range, rows: int, ledger: ByteLedger
) -> None:
    """Run the three columns of one model, and add rows, a plot, bytes and findings to the outcome."""
    means: dict[Column, float] = {}
    lines: list[Line] = []
    for column in COLUMNS:
        accuracies, curves, sizes = [], [], None
        for seed in seeds:
            settings.say(f"{name} {column} seed {seed}: {setup.steps} steps")
            done = setup.run(column, seed)
            accuracies.append(done.accuracy())
            curves.append(setup.curve(column, done))
            sizes = bytes_per_step(setup, column, done, rows)
            settings.say(f"{name} {column} seed {seed}: accuracy {accuracies[-1]:.4f}")
        assert sizes is not None
        mean, std = mean_std(accuracies)
        means[column] = mean
        more = {**sizes.as_json(), "values": accuracies}
        outcome.rows.append(TableRow(row=name, column=column, paper=paper.get(column), ours=mean, std=std, unit="accuracy", more=more))
        ledger.add(name, column, found=sizes)
        lines.append(Line(column, mean_curve(curves)))
        if column in paper:
            lines.append(Line(f"{column}, paper", [(0, paper[column]), (setup.steps, paper[column])], dashed=True))
    outcome.plots.append(Plot(name=name.lower(), title=f"{name}: accuracy on the test set", x="step", y="accuracy", lines=lines))
    gap = abs(means["FCDDT"] - means["CC"])
    outcome.findings.append(held(f"{name}: |FCDDT - CC| <= 0.01", gap <= 0.01, f"{gap:.4f}"))
    if paper:
        short = {column: paper[column] - means[column] for column in COLUMNS}
        worst = max(short, key=lambda column: short[column])
        shown = f"worst: {worst} {means[worst]:.4f} against {paper[worst]:.3f}"
        outcome.findings.append(held(f"{name}: every value within 0.02 of the paper's or above", short[worst] <= 0.02, shown))
