"""Picture of `fogctl job plot`: headline numbers, bytes and energy per round. matplotlib comes with the extra foglearn[plot]."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fog_common.errors import ConfigError, Refused
from fog_common.wire.api.jobs import JobStatus

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS: Final = (".png", ".svg", ".pdf")


def checked(out: Path) -> Path:
    """The file, checked before any request. ConfigError if it cannot be written as a picture, or matplotlib is missing."""
    if out.suffix.lower() not in KINDS:
        raise ConfigError(f"--out {out}: a picture ends in {', '.join(KINDS)}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: the folder {out.parent} does not exist")
    if find_spec("matplotlib") is None:
        raise ConfigError('pictures need matplotlib: pip install "foglearn[plot]"')
    return out


def columns(status: JobStatus) -> dict[str, list[float | None]]:
    """Figures of each round by name, including the headline numbers; None if unknown. Bytes and joules are those of the round itself, see
    `spread`."""
    history = status.history
    return {
        **{figure.name: [entry.numbers.get(figure.name) for entry in history] for figure in status.headline},
        "round": [float(entry.round) for entry in history],
        "bytes": spread([float(entry.bytes) for entry in history], 0.0),
        "joules": spread([entry.joules for entry in history], None),  # the total before the first round is unknown
    }


def spread(totals: list[float | None], before: float | None) -> list[float | None]:
    """Growth of a total in each round. Rounds that were reported together have the same total, and share its growth equally.

    before: the total before the first round; None if unknown.
    """
    growth: list[float | None] = []
    for total, together in itertools.groupby(totals):
        count = len(list(together))
        growth += [max(0.0, total - before) / count if total is not None and before is not None else None] * count
        before = total if total is not None else before
    return growth


def draw(status: JobStatus, out: Path) -> None:
    """Write the picture. Refused for a job that has closed no round yet."""
    if not status.history:
        raise Refused(f"{status.job} has closed no round yet: {status.line}")
    from matplotlib.figure import Figure  # pyplot would need a display and global state

    figures = columns(status)
    figure = Figure(figsize=(8, 8), layout="constrained")
    figure.suptitle(f"{status.job}: {status.method}, {status.line}")
    learning, traffic, power = figure.subplots(3, 1, sharex=True)

    def line(axes: Axes, name: str, style: str, label: str, scale: float = 1.0) -> bool:
        points = [(x, y * scale) for x, y in zip(figures["round"], figures[name], strict=True) if x is not None and y is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
        return bool(points)

    handles = []
    for axes, (index, figure_) in zip(_axes(learning, len(status.headline)), enumerate(status.headline), strict=True):
        text = f"{figure_.title} ({figure_.unit})" if figure_.unit else figure_.title
        if line(axes, figure_.name, f"C{index}{'o-' if index == 0 else '.--'}", text):
            handles += axes.get_legend_handles_labels()[0]
        axes.set_ylabel(text)
        known = [value for value in figures[figure_.name] if value is not None]
        if known and not figure_.unit and figure_.better == "more" and 0.0 <= min(known) <= max(known) <= 1.0:
            axes.set_ylim(0, 1)
    if handles:
        learning.legend(handles=handles)
    line(traffic, "bytes", ".-", "bytes", 1e-6)
    traffic.set_ylabel("MB per round, all planes,\nspread between reports")
    measured = line(power, "joules", "C2.-", "joules")
    power.set_ylabel(f"J per round ({status.energy_j.source}),\nspread between reports" if measured else "energy unknown")
    power.set_xlabel("round")
    for axes in (learning, traffic, power):
        axes.grid(alpha=0.3)
    figure.savefig(out)


def _axes(first: Axes, count: int) -> list[Axes]:
    """One y axis for each headline number over the same rounds; axes after the second are drawn further to the right."""
    all_axes = [first, *(first.twinx() for _ in range(count - 1))][:count]
    for index, axes in enumerate(all_axes[2:], start=1):
        axes.spines["right"].set_position(("axes", 1.0 + 0.15 * index))
    return all_axes
