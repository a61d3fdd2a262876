"""All figures, side by side in one run: a table here, bench/results/latest.json for machines.

python -m bench [--rounds N] [--only fleet|averaging|split|simulation|observability]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench import observability
from fog_common.errors import FogError

RESULTS: Final = Path(__file__).parent / "results" / "latest.json"
BARS: Final[dict[str, tuple[str, float, str]]] = {
    "round_ratio": ("at most", 3.0, "median FedAvg round / bare paho loop"),
    "wire_ratio": ("at most", 1.05, "bytes that the broker received / ideal payload"),
    "daemon_rss_mb": ("at most", 40.0, "memory of an idle daemon, MB"),
    "worker_rss_mb": ("", 0.0, "memory of a worker, MB (shared pages included)"),
    "averaging_ratio": ("at least", 0.25, "averaging / one numpy float32 add"),
    "sim_bytes": ("at most", 0.0, "simulator: bytes that differ / bytes of the live run"),
    "sim_round": ("at most", 0.3, "simulator: |simulated / live round time - 1|"),
    "sim_events": ("", 0.0, "simulator: events per CPU second, 100 nodes"),
    "sim_thousand_s": ("at most", 300.0, "simulator: CPU seconds for 1 000 nodes, 20 rounds"),
    "split_ratio": ("at least", 0.3, "steps/s of live fcddt, 4 nodes / one process, union batch"),
    **observability.BARS,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure foglearn against the least that could do the same.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--only",
        choices=("fleet", "averaging", "split", "simulation", "observability"),
        default=None,
        help="a part: the figures over a broker, the op, split training, the simulator, what it costs to be seen",
    )
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if options.only in (None, "fleet"):
        from bench import rounds

        results |= rounds.measure(options.rounds)
    if options.only in (None, "averaging"):
        from bench import averaging

        results["averaging_ratio"] = averaging.measure()
    if options.only in (None, "split"):
        results |= _split()
    if options.only in (None, "simulation"):
        from bench import simulation

        results |= simulation.measure()
    if options.only in (None, "observability"):
        results |= observability.measure()
    about = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if options.only is None:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({**results, "about": about}, indent=1) + "\n")
    sys.stdout.write(table(results))
    return 0


def _split() -> dict[str, Any]:
    from bench import split
    from fog_common.errors import ConfigError

    try:
        return {"split_ratio": split.measure()}
    except ConfigError as error:  # no MNIST here: not measured is not a figure
        sys.stderr.write(f"split_ratio not measured: {error}\n")
        return {}


def table(results: dict[str, Any]) -> str:
    lines = []
    for name, result in results.items():
        word, bar, what = BARS[name]
        value = float(result["value"])
        held = "" if not word else "ok" if (value <= bar if word == "at most" else value >= bar) else "MISSED"
        lines.append(f"{name:<16} {value:>8.3f}   {f'{word} {bar:g}':<14} {held:<7} {what}")
        parts = ", ".join(f"{key} {part:.4g}" if isinstance(part, float) else f"{key} {part}" for key, part in result.items() if key != "value")
        lines.append(f"{'':<16} {parts}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FogError as error:
        sys.exit(f"error: {error}")
