"""`fogctl job plot`: accuracy, bytes and energy per round as a picture. matplotlib is an extra: foglearn[plot]."""

from __future__ import annotations

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
    """Figures of each round from a job's STATUS. Bytes and joules are those of the round itself; None where unknown."""
    history = status["history"]
    found: dict[str, list[float | None]] = {
        "round": [float(entry["round"]) for entry in history],
        "accuracy": [entry.get("accuracy") for entry in history],
        "loss": [entry.get("loss") for entry in history],
    }
    for name in ("bytes", "joules"):
        before: float | None = 0.0 if name == "bytes" else None  # of the first round it is not known when its energy began to count
        grown: list[float | None] = []
        for entry in history:
            value = entry.get(name)
            grown.append(max(0.0, value - before) if value is not None and before is not None else None)
            before = value if value is not None else before
        found[name] = grown
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
    traffic.set_ylabel("MB per round, all planes")
    known = line(power, "joules", "C2.-", "joules")
    source = status["energy_j"]["source"]
    power.set_ylabel(f"J per round ({source})" if known else "energy unknown")
    power.set_xlabel("round")
    for axes in (learning, traffic, power):
        axes.grid(alpha=0.3)
    figure.savefig(out)
