"""What the dashboards ask: their panels' queries, with Grafana's variables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
FILLED = {"$__rate_interval": "15s", "$__range": "1m", "$node": ".*", "$site": ".*", "$job": ".*"}


class Asked(NamedTuple):
    dashboard: str
    panel: str
    expression: str


def load(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(path.read_text())
    return body


def queries() -> Iterator[Asked]:
    for path in DASHBOARDS:
        for panel in load(path)["panels"]:
            for target in panel["targets"]:
                expression = target["expr"]
                for name, value in FILLED.items():
                    expression = expression.replace(name, value)
                yield Asked(path.stem, panel["title"], expression)


def metric_names(expression: str) -> set[str]:
    return set(re.findall(r"\bfog_[a-z_]+", expression))
