"""What every experiment takes and gives: settings, rows beside the paper's, tables, plots, assumptions."""

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
    """Fewer steps, seeds and points: minutes on two cores. Bars are meant for the full run."""
    seeds: int | None = None
    """Repetitions; None: as the experiment says."""
    say: Callable[[str], None] = lambda text: None
    """Hears one line at a time about what runs now."""
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    live: Callable[[dict[str, Any], int, int], dict[str, Any]] | None = None
    """Runs a job on real processes of this machine: (job, agents, sites with a broker of their own) -> its STATUS at the end. None: no such
    run is wanted."""

    def repeat(self, full: int, quick: int = 2) -> range:
        """The seeds to run."""
        return range(self.seeds if self.seeds is not None else quick if self.quick else full)


class TableRow(Struct, frozen=True, kw_only=True):
    """One figure of ours beside the paper's. None: the paper gives none, or it was not run (`note` says why)."""

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
    """Shown in the report, beside the rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Line(Struct, frozen=True):
    label: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    """The paper's."""


class Plot(Struct, frozen=True, kw_only=True):
    name: str
    """Of the file."""
    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = False


class Outcome(Struct, kw_only=True):
    """All that a report needs. Every sentence is for a person."""

    rows: list[TableRow] = []
    tables: list[ResultTable] = []
    plots: list[Plot] = []
    setting: dict[str, Any] = {}
    """What was run: sizes, steps, rates, seeds."""
    assumptions: list[str] = []
    """What the paper leaves open and we chose."""
    simulated: list[str] = []
    """What is real, what is simulated, what is modelled."""
    findings: list[str] = []
    """Bars and shapes: does it hold?"""


class Experiment(Struct, frozen=True):
    name: str
    title: str
    source: str
    module: str
    data: tuple[tuple[str, ...], ...] = ()
    """Data sets it needs files of: one of each group."""
    live: bool = False
    """A part of it runs live, too, if `Settings.live` is there."""

    def run(self, settings: ExperimentSettings) -> Outcome:
        if settings.live is not None and not self.live:
            raise ConfigError(f"--live: {self.name} runs in the simulator only; fog-vs-fl has a live part")
        for group in self.data:
            find_data(group, settings.env)
        outcome: Outcome = import_module(f"fog_sim.experiments.{self.module}").run(settings)
        return outcome


def find_data(names: Sequence[str], env: Mapping[str, str]) -> str:
    """The first of these data sets whose files are there. ConfigError says which files are needed, and where."""
    from fog_learning.data import places

    found = [name for name in names if any(place.exists() for place in places(name, {}, env))]
    if found:
        return found[0]
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
    """(mean, sample standard deviation; None of a single value)."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def held(what: str, holds: bool, how: str) -> str:
    """One line of `findings`."""
    return f"{'holds' if holds else 'DOES NOT HOLD'}: {what} ({how})"


Column = Literal["CC", "FL", "FCDDT"]
