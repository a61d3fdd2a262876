"""`fogctl top`: the fleet on one screen: nodes, jobs, bytes per second by plane. Moves on a terminal, once elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fogctl.session import Session, command
from fogctl.show.output import aligned, number, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fogctl.client import Client

PLANES: Final = ("up", "down", "d2d", "cast")
BARS: Final = "▁▂▃▄▅▆▇█"
SPARK: Final = 24
"""Rounds of the accuracy that fit into a line."""
NODE_COLUMNS: Final = ("node", "state", "site", "tier", "CPU", "memory", "temp", "battery", "power", "round trip", "link", "jobs")
NUMBERS: Final = frozenset({"CPU", "memory", "temp", "battery", "power", "round trip", "link"})
JOB_COLUMNS: Final = ("job", "state", "round", "accuracy", "", "bytes/s", "energy", "budget", "waiting for")


def register(app: typer.Typer) -> None:
    command(app, "top")(top)


def top(
    session: Session,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end; so it does where no terminal is.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=3600.0, metavar="SECONDS", help="Between two looks.")] = 2.0,
) -> None:
    """Nodes, jobs and traffic, live. Ctrl-C ends it."""
    with session.client() as client:
        first = client.request("top")
        if once or not session.out.live:
            _wait(client, min(interval, 1.0))
            body = with_rates(client.request("top"), first)
            session.out.result(body, lines(body))
            return
        _live(client, first, interval)


def _live(client: Client, body: dict[str, Any], interval: float) -> None:
    from rich.live import Live

    from fog_common.errors import Unreachable

    shown, trouble = with_rates(body, None), ""
    try:
        with Live(picture(shown, trouble), screen=True, auto_refresh=False) as live:
            while True:
                live.update(picture(shown, trouble), refresh=True)
                _wait(client, interval)
                try:
                    fresh, trouble = client.request("top"), ""
                except Unreachable as error:  # it may restart: the last figures stay, and say how old they are
                    trouble = f"{error}; trying again"
                    continue
                shown, body = with_rates(fresh, body), fresh
    except KeyboardInterrupt:
        return


def _wait(client: Client, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        client.pump(until)


# -- figures -------------------------------------------------------------------------------


def with_rates(body: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """The body with `rates`: bytes/s by plane of each job, and of all. Unknown (null) without a look before, or for a job that is new."""
    old = {job["job"]: job for job in before["jobs"]} if before is not None else {}
    seconds = body["now"] - before["now"] if before is not None else 0.0
    jobs = []
    total: dict[str, float | None] = dict.fromkeys(PLANES, None if before is None else 0.0)
    for job in body["jobs"]:
        past = old.get(job["job"])
        rates: dict[str, float | None] = dict.fromkeys(PLANES)
        if past is not None and seconds > 0:
            rates = {plane: max(0, job["bytes"][plane] - past["bytes"][plane]) / seconds for plane in PLANES}
            total = {plane: (total[plane] or 0.0) + (rates[plane] or 0.0) for plane in PLANES}
        jobs.append({**job, "rates": rates})
    return {**body, "jobs": jobs, "rates": total}


def sparkline(values: list[float | None], width: int = SPARK) -> str:
    """The last values as a line of bars, from the least to the most of them; a gap where one is unknown."""
    shown = values[-width:]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    return "".join(" " if value is None else BARS[round((value - low) / span * (len(BARS) - 1)) if span else len(BARS) // 2] for value in shown)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{size(value)}/s"


def head(body: dict[str, Any]) -> str:
    nodes = body["nodes"]
    watts = [node["power_watts"] for node in nodes if node["power_watts"] is not None]
    parts = [
        f"{sum(node['state'] == 'online' for node in nodes)} of {len(nodes)} nodes online",
        f"{sum(job['state'] == 'running' for job in body['jobs'])} jobs running",
        f"{sum(watts):.1f} W" if watts else "power unknown",
        *(f"{plane} {_rate(body['rates'][plane])}" for plane in PLANES),
    ]
    return "   ".join(parts)


def node_row(node: dict[str, Any]) -> tuple[str, ...]:
    def shown(name: str, form: str, factor: float = 1.0) -> str:
        value = node[name]
        return "-" if value is None else form.format(value * factor)

    return (
        node["node"],
        "draining" if node["draining"] and node["state"] == "online" else node["state"],
        node["site"],
        node["tier"],
        shown("cpu_ratio", "{:.0f} %", 100),
        size(node["memory_used_bytes"]),
        shown("temperature_celsius", "{:.0f} °C"),
        shown("battery_ratio", "{:.0f} %", 100),
        shown("power_watts", "{:.1f} W"),
        shown("rtt_seconds", "{:.1f} ms", 1000),
        _rate(node["bandwidth_bytes_per_second"]),
        ", ".join(node["jobs"]) or "-",
    )


def job_row(job: dict[str, Any]) -> tuple[str, ...]:
    known = [value for value in job["accuracy"] if value is not None]
    rates = [rate for rate in job["rates"].values() if rate is not None]
    spent = max(job["budgets"], key=lambda use: use["ratio"] or 0.0, default=None)
    energy = job["energy_j"]
    return (
        job["job"],
        job["state"].replace("_", " "),
        f"{job['round']}/{job['rounds']}",
        number(known[-1] if known else None),
        sparkline(job["accuracy"]),
        _rate(sum(rates) if rates else None),
        "-" if energy["value"] is None else f"{energy['value']:.0f} J {energy['source']}",
        "-" if spent is None or spent["ratio"] is None else f"{spent['ratio']:.0%} of {spent['budget']}",
        job["line"],
    )


# -- shown ---------------------------------------------------------------------------------


def lines(body: dict[str, Any]) -> list[str]:
    """Plain text."""
    found = [head(body)]
    if body["nodes"]:
        found += ["", *aligned([NODE_COLUMNS, *map(node_row, body["nodes"])])]
    if body["jobs"]:
        found += ["", *aligned([JOB_COLUMNS, *map(job_row, body["jobs"])])]
    if body["jobs_hidden"]:
        found.append(f"and {body['jobs_hidden']} more jobs")
    return found


def picture(body: dict[str, Any], trouble: str = "") -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    nodes = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    for column in NODE_COLUMNS:
        nodes.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    for node in body["nodes"]:
        nodes.add_row(*map(Text, node_row(node)), style="red" if node["state"] == "offline" else "dim" if node["state"] == "unknown" else "")
    jobs = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for column in JOB_COLUMNS:
        jobs.add_column(column, no_wrap=column != "waiting for", ratio=1 if column == "waiting for" else None)
    for job in body["jobs"]:
        cells = [Text(cell) for cell in job_row(job)]
        cells[4].stylize("green")
        jobs.add_row(*cells, style="red" if job["state"] == "failed" else "")
    parts: list[RenderableType] = [Text(head(body), style="bold"), Text(trouble, style="red"), nodes, Text(""), jobs]
    if body["jobs_hidden"]:
        parts.append(Text(f"and {body['jobs_hidden']} more jobs", style="dim"))
    return Group(*parts)
