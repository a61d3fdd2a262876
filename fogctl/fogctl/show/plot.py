"""`fogctl job plot`: accuracy, bytes and energy per round as a picture. matplotlib is an extra: foglearn[plot]."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from fog_common.errors import ConfigError, Refused

KINDS: Final = (".png", ".svg", ".pdf")
PLANES: Final = ("up", "down", "d2d", "cast")


def checked(out: Path) -> Path:
    """ConfigError for a file that cannot be written as a picture, or if matplotlib is not there: said before anything is asked."""
    if out.suffix.lower() not in KINDS:
        raise ConfigError(f"--out {out}: a picture ends in {', '.join(KINDS)}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: the folder {out.parent} does not exist")
    if find_spec("matplotlib") is None:
        raise ConfigError('pictures need matplotlib: pip install "foglearn[plot]"')
    return out


def columns(status: dict[str, Any]) -> dict[str, list[float | None]]:
    """Figures of each round from a job's STATUS; None where unknown. Bytes and joules are those of the round itself, see `spread`."""
    history = status["history"]
    return {
        "round": [float(entry["round"]) for entry in history],
        "accuracy": [entry.get("accuracy") for entry in history],
        "loss": [entry.get("loss") for entry in history],
        "bytes": spread([entry.get("bytes") for entry in history], 0.0),
        "joules": spread([entry.get("joules") for entry in history], None),  # when its energy began to count is not known
    }


def spread(totals: list[float | None], before: float | None) -> list[float | None]:
    """What each round added to a total that is known only when reports come: rounds that were heard of together have the same total, and
    share alike what it grew. before: the total before the first round; None if unknown."""
    found: list[float | None] = []
    for total, together in itertools.groupby(totals):
        count = len(list(together))
        found += [max(0.0, total - before) / count if total is not None and before is not None else None] * count
        before = total if total is not None else before
    return found


def draw(status: dict[str, Any], out: Path) -> None:
    """Write the picture. Refused for a job that has closed no round yet."""
    if not status["history"]:
        raise Refused(f"{status['job']} has closed no round yet: {status['line']}")
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    found = columns(status)
    figure = Figure(figsize=(8, 8), layout="constrained")
    figure.suptitle(f"{status['job']}: {status['method']}, {status['line']}")
    learning, traffic, power = figure.subplots(3, 1, sharex=True)

    def line(axes: Axes, name: str, style: str, label: str, scale: float = 1.0) -> bool:
        points = [(x, y * scale) for x, y in zip(found["round"], found[name], strict=True) if x is not None and y is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
        return bool(points)

    line(learning, "accuracy", "o-", "accuracy")
    learning.set_ylabel("accuracy")
    learning.set_ylim(0, 1)
    other = learning.twinx()
    line(other, "loss", "C1.--", "loss")
    other.set_ylabel("loss")
    handles = [*learning.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
    if handles:
        learning.legend(handles=handles)
    line(traffic, "bytes", ".-", "bytes", 1e-6)
    traffic.set_ylabel("MB per round, all planes,\nspread between reports")
    known = line(power, "joules", "C2.-", "joules")
    source = status["energy_j"]["source"]
    power.set_ylabel(f"J per round ({source}),\nspread between reports" if known else "energy unknown")
    power.set_xlabel("round")
    for axes in (learning, traffic, power):
        axes.grid(alpha=0.3)
    figure.savefig(out)
