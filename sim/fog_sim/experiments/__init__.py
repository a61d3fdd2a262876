"""Experiments that put a paper's figures beside ours: their table. Each experiment is one file with `run(settings) -> Outcome`."""

from __future__ import annotations

from typing import Final

from fog_sim.experiments.base import Experiment, ExperimentSettings, Outcome

__all__ = ["EXPERIMENTS", "Experiment", "ExperimentSettings", "Outcome", "run_experiment"]

_FCDDT: Final = "decomposed deep training (FCDDT)"

EXPERIMENTS: Final[dict[str, Experiment]] = {
    each.name: each
    for each in (
        Experiment("fcddt-table2", "MNIST accuracy: centralized, federated, decomposed", f"{_FCDDT}, Table 2", "fcddt_table2", (("mnist",),)),
        Experiment(
            "fcddt-table3",
            "CIFAR-10 accuracy: centralized, federated, decomposed",
            f"{_FCDDT}, Table 3",
            "fcddt_table3",
            (("cifar10", "cifar10-subset"),),
        ),
        Experiment("fcddt-fig7", "accuracy by batch size", f"{_FCDDT}, Fig. 7", "fcddt_fig7", (("cifar10", "cifar10-subset"),)),
        Experiment("fcddt-fig8", "accuracy by straggler rate and batch size", f"{_FCDDT}, Fig. 8", "fcddt_fig8", (("cifar10", "cifar10-subset"),)),
        Experiment("fcddt-table4", "learning beside critical traffic: delay and bandwidth", f"{_FCDDT}, Table 4", "fcddt_table4", ()),
        Experiment(
            "fog-vs-fl",
            "parameters sent and device energy: a star against a tree of D2D clusters",
            "fog learning, section IV",
            "fog_vs_fl",
            live=True,
        ),
    )
}


def run_experiment(name: str, settings: ExperimentSettings) -> Outcome:
    """Run an experiment by name. ConfigError (exit 2) for an unknown name or missing data files."""
    from fog_common.config import suggest
    from fog_common.errors import ConfigError

    if name not in EXPERIMENTS:
        raise ConfigError(f"{name!r}: {suggest(name, list(EXPERIMENTS), 'experiment')}")
    return EXPERIMENTS[name].run(settings)
