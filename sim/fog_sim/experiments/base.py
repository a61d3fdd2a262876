"""Types of all experiments: settings, rows beside the paper's, tables, plots, outcome."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from statistics import fmean, stdev
from typing import Any, Literal

from msgspec import Struct, field

from fog_common.errors import ConfigError


class ExperimentSettings(Struct, frozen=True, kw_only=True):
    quick: bool = False
    """Fewer steps, seeds and points, for minutes on two cores. The bars apply to the full run."""
    seeds: int | None = None
    """Number of repetitions; None: the experiment's own."""
    say: Callable[[str], None] = lambda text: None
    """Called with a line for a person about the present step."""
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    live: Callable[[dict[str, Any], int, int], dict[str, Any]] | None = None
    """Runs a job on real processes of this machine: (job, agents, sites with a broker of their own) -> its STATUS at the end. None: no live
    run."""

    def repeat(self, full: int, quick: int = 2) -> range:
        """The seeds to run."""
        return range(self.seeds if self.seeds is not None else quick if self.quick else full)


class TableRow(Struct, frozen=True, kw_only=True):
    """One figure of ours beside the paper's. None: the paper has no such figure, or it was not run (`note` gives the reason)."""

    row: str
    column: str
    paper: float | None = None
    ours: float | None = None
    std: float | None = None
    unit: str = ""
    note: str = ""
    more: dict[str, Any] = {}
    """Further keys of the row in JSON."""

    def as_json(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in ("row", "column", "paper", "ours", "std", "unit", "note")}
        return {**known, **self.more}


class ResultTable(Struct, frozen=True):
    """A table of the report, beside the rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Line(Struct, frozen=True):
    label: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    """A line of the paper."""


class Plot(Struct, frozen=True, kw_only=True):
    name: str
    """Part of the file's name."""
    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = False


class Outcome(Struct, kw_only=True):
    """Content of a report. Every sentence is for a person."""

    rows: list[TableRow] = []
    tables: list[ResultTable] = []
    plots: list[Plot] = []
    setting: dict[str, Any] = {}
    """Sizes, steps, rates and seeds of the run."""
    assumptions: list[str] = []
    """Our choices where the paper leaves them open."""
    simulated: list[str] = []
    """Parts that are real, simulated or modelled."""
    findings: list[str] = []
    """Bars and shapes with their verdicts."""


class Experiment(Struct, frozen=True):
    """An experiment of the table; module: its file in this package, with `run(settings) -> Outcome`."""

    name: str
    title: str
    source: str
    module: str
    data: tuple[tuple[str, ...], ...] = ()
    """Groups of data sets; the experiment needs the files of one set of each group."""
    live: bool = False
    """A part of the experiment can also run live, see `ExperimentSettings.live`."""

    def run(self, settings: ExperimentSettings) -> Outcome:
        """Run the experiment. ConfigError for missing data files, or a live run that does not exist."""
        if settings.live is not None and not self.live:
            raise ConfigError(f"--live: {self.name} runs in the simulator only; fog-vs-fl has a live part")
        for group in self.data:
            find_data(group, settings.env)
        outcome: Outcome = import_module(f"fog_sim.experiments.{self.module}").run(settings)
        return outcome


def find_data(names: Sequence[str], env: Mapping[str, str]) -> str:
    """The first of these data sets whose files exist. ConfigError names the files that are needed, and their folder."""
    from fog_learning.data import places

    present = [name for name in names if any(place.exists() for place in places(name, {}, env))]
    if present:
        return present[0]
    files = {
        "mnist": "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz",
        "cifar10": "one *train*.npz and one *test*.npz, each with x (uint8, N x 3 x 32 x 32) and y",
    }
    where = env.get("FOGLEARN_DATA")
    at = f"not found in {where}" if where else "FOGLEARN_DATA is not set"
    raise ConfigError(
        f"this experiment needs the data set {' or '.join(names)}: {at}; set FOGLEARN_DATA to a folder that holds {names[0]}/ with "
        f"{files.get(names[0], 'its files')}"
    )


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """(mean, sample standard deviation or None for a single value)."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def held(what: str, holds: bool, how: str) -> str:
    """One line of `findings`. what: the claim; how: the figures."""
    return f"{'holds' if holds else 'DOES NOT HOLD'}: {what} ({how})"


Column = Literal["CC", "FL", "FCDDT"]
