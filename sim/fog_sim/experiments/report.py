"""Reports of an outcome as JSON, Markdown and plots. matplotlib (extra `plot`) is imported only to draw; the report tells if it is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from fog_sim.experiments.base import Experiment, Outcome, Plot, TableRow


def as_json(experiment: Experiment, outcome: Outcome, *, quick: bool, took_s: float, command: str, date: str) -> dict[str, Any]:
    """The content of the .json file, which `fogctl paper run --json` prints as `data`."""
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "source": experiment.source,
        "quick": quick,
        "command": command,
        "date": date,
        "took_s": round(took_s, 1),
        "setting": outcome.setting,
        "rows": [row.as_json() for row in outcome.rows],
        "tables": [{"title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows]} for table in outcome.tables],
        "assumptions": outcome.assumptions,
        "simulated": outcome.simulated,
        "findings": outcome.findings,
    }


def as_markdown(experiment: Experiment, outcome: Outcome, data: dict[str, Any]) -> str:
    parts = [f"# {experiment.name}: {experiment.title}", f"{experiment.source}. `{data['command']}`, {data['date']}, {data['took_s']} s."]
    parts += ["Quick run: fewer steps, seeds and points; the bars are meant for the full run."] if data["quick"] else []
    parts += ["## Setting", ", ".join(f"{key}: {_shown(value)}" for key, value in outcome.setting.items()) + "."] if outcome.setting else []
    parts += ["## Ours beside the paper's", _grid(("row", "column", "paper", "ours", "unit", "note"), row_cells(outcome.rows))]
    for table in outcome.tables:
        parts += [f"## {table.title}", _grid(table.columns, table.rows)]
    for title, lines in (("What holds", outcome.findings), ("What is simulated", outcome.simulated), ("Assumptions", outcome.assumptions)):
        parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)] if lines else []
    parts += [f"![{plot.title}]({experiment.name}-{plot.name}.png)" for plot in outcome.plots]
    return "\n\n".join(parts) + "\n"


def row_cells(rows: Sequence[TableRow]) -> list[list[str]]:
    """Cells of each row: row, column, paper, ours ± std, unit, note."""
    return [[row.row, row.column, figure(row.paper), ours(row), row.unit, row.note] for row in rows]


def ours(row: TableRow) -> str:
    if row.ours is None:
        return "-"
    return figure(row.ours) + (f" ± {figure(row.std)}" if row.std is not None else "")


def figure(value: float | None) -> str:
    """Four significant digits; '-' for None."""
    if value is None or not isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(columns), "|" + " --- |" * len(columns), *(line(row) for row in rows)])


def write(folder: Path, experiment: Experiment, outcome: Outcome, data: dict[str, Any]) -> tuple[list[Path], str]:
    """Write NAME.md, NAME.json and NAME-PLOT.png to `folder`, which is made if it is missing; returns (files, reason without plots or '')."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, table = folder / f"{experiment.name}.md", folder / f"{experiment.name}.json"
    table.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    written, why = [markdown, table], ""
    if outcome.plots and find_spec("matplotlib") is None:
        why = "no plots: matplotlib is not installed; pip install 'foglearn[plot]'"
    else:
        for plot in outcome.plots:
            written.append(draw(plot, folder / f"{experiment.name}-{plot.name}.png"))
    shown = outcome if not why else Outcome(**{name: getattr(outcome, name) for name in outcome.__struct_fields__ if name != "plots"})
    markdown.write_text(as_markdown(experiment, shown, data), encoding="utf-8")
    return written, why


def draw(plot: Plot, file: Path) -> Path:
    """Draw a plot as PNG, without a display; returns the file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7, 4.5), layout="constrained")
    axes = picture.add_subplot()
    for line in plot.lines:
        xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
        axes.plot(xs, ys, marker="." if line.dashed else "o", linestyle="--" if line.dashed else "-", label=line.label)
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    if plot.log_x:
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    FigureCanvasAgg(picture).print_png(str(file))
    return file
