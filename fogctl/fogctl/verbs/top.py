"""`fogctl top` shows the fleet on one screen: nodes, jobs, bytes per second by plane. A terminal is refreshed, other output is printed once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec import Struct

from fog_common.wire.api.fleet import Top, TopJob, TopNode
from fog_common.wire.api.shown import shown
from fog_common.wire.api.states import FAILED, OFFLINE, ONLINE, RUNNING, UNKNOWN
from fog_common.wire.api.verbs import ReadTop
from fogctl.session import Session, command
from fogctl.show.output import aligned, figure_text, label, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fogctl.client import Client

PLANES: Final = ("up", "down", "d2d", "cast")
Rates = dict[str, float | None]
"""plane -> payload bytes/s; None: unknown."""
BARS: Final = "▁▂▃▄▅▆▇█"
SPARK: Final = 24
"""Number of rounds of a headline number in a line of bars."""
NODE_COLUMNS: Final = ("node", "state", "site", "tier", "CPU", "memory", "temp", "battery", "power", "round trip", "link", "jobs")
NUMBERS: Final = frozenset({"CPU", "memory", "temp", "battery", "power", "round trip", "link"})
JOB_COLUMNS: Final = ("job", "state", "round", "result", "", "bytes/s", "energy", "budget", "waiting for")


def register(app: typer.Typer) -> None:
    command(app, "top")(top)


def top(
    session: Session,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end, as without a terminal.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=3600.0, metavar="SECONDS", help="Seconds between two refreshes.")] = 2.0,
) -> None:
    """Nodes, jobs and traffic, live. Ctrl-C ends it."""
    with session.client() as client:
        first = client.ask(ReadTop())
        if once or not session.out.live:
            _wait(client, min(interval, 1.0))
            screen = with_rates(client.ask(ReadTop()), first)
            session.out.result(as_json(screen), lines(screen))
            return
        _live(client, first, interval)


def _live(client: Client, body: Top, interval: float) -> None:
    from rich.live import Live

    from fog_common.errors import Unreachable

    screen, trouble = with_rates(body, None), ""
    try:
        with Live(picture(screen, trouble), screen=True, auto_refresh=False) as live:
            while True:
                live.update(picture(screen, trouble), refresh=True)
                _wait(client, interval)
                try:
                    fresh, trouble = client.ask(ReadTop()), ""
                except Unreachable as error:  # the coordinator may restart: the last figures stay on the screen
                    trouble = f"{error}; trying again"
                    continue
                screen, body = with_rates(fresh, body), fresh
    except KeyboardInterrupt:
        return


def _wait(client: Client, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        client.pump(until)


# -- figures -------------------------------------------------------------------------------


class Screen(Struct, frozen=True):
    """The fleet and its rates by plane since the last request. rates: of all jobs; of_job: job -> its rates."""

    body: Top
    rates: Rates
    of_job: dict[str, Rates]


def with_rates(body: Top, before: Top | None) -> Screen:
    """The screen of a reply. Rates are unknown without an earlier reply, and for a new job."""
    old = {job.job: job for job in before.jobs} if before is not None else {}
    seconds = body.now - before.now if before is not None else 0.0
    total: Rates = dict.fromkeys(PLANES, None if before is None else 0.0)
    of_job: dict[str, Rates] = {}
    for job in body.jobs:
        past = old.get(job.job)
        rates: Rates = dict.fromkeys(PLANES)
        if past is not None and seconds > 0:
            rates = {plane: max(0, getattr(job.bytes, plane) - getattr(past.bytes, plane)) / seconds for plane in PLANES}
            total = {plane: (total[plane] or 0.0) + (rates[plane] or 0.0) for plane in PLANES}
        of_job[job.job] = rates
    return Screen(body, total, of_job)


def as_json(screen: Screen) -> dict[str, Any]:
    """The reply with `rates` of all jobs and of each job."""
    body = shown(screen.body)
    jobs = [{**job, "rates": screen.of_job[job["job"]]} for job in body["jobs"]]
    return {**body, "jobs": jobs, "rates": screen.rates}


def sparkline(values: Sequence[float | None], width: int = SPARK) -> str:
    """The last values as a line of bars between their minimum and maximum, with a gap for an unknown value."""
    shown = values[-width:]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    return "".join(" " if value is None else BARS[round((value - low) / span * (len(BARS) - 1)) if span else len(BARS) // 2] for value in shown)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{size(value)}/s"


def head(screen: Screen) -> str:
    nodes, jobs = screen.body.nodes, screen.body.jobs
    watts = [node.power_watts for node in nodes if node.power_watts is not None]
    parts = [
        f"{sum(node.state == ONLINE for node in nodes)} of {len(nodes)} nodes online",
        f"{sum(job.state == RUNNING for job in jobs)} jobs running",
        f"{sum(watts):.1f} W" if watts else "power unknown",
        *(f"{plane} {_rate(screen.rates[plane])}" for plane in PLANES),
    ]
    return "   ".join(parts)


def node_row(node: TopNode) -> tuple[str, ...]:
    def text(value: float | None, form: str, factor: float = 1.0) -> str:
        return "-" if value is None else form.format(value * factor)

    return (
        node.node,
        "draining" if node.draining and node.state == ONLINE else node.state,
        node.site,
        node.tier,
        text(node.cpu_ratio, "{:.0f} %", 100),
        size(node.memory_used_bytes),
        text(node.temperature_celsius, "{:.0f} °C"),
        text(node.battery_ratio, "{:.0f} %", 100),
        text(node.power_watts, "{:.1f} W"),
        text(node.rtt_seconds, "{:.1f} ms", 1000),
        _rate(node.bandwidth_bytes_per_second),
        ", ".join(node.jobs) or "-",
    )


def job_row(job: TopJob, rates: Rates) -> tuple[str, ...]:
    figure = job.headline[0] if job.headline else None
    values = job.recent.get(figure.name, ()) if figure is not None else ()
    newest = next((value for value in reversed(values) if value is not None), None)
    known = [rate for rate in rates.values() if rate is not None]
    spent = max(job.budgets, key=lambda use: use.ratio or 0.0, default=None)
    energy = job.energy_j
    return (
        job.job,
        job.state.replace("_", " "),
        f"{job.round}/{job.rounds}",
        "-" if figure is None or newest is None else f"{label(figure)} {figure_text(newest, figure.unit)}",
        sparkline(values),
        _rate(sum(known) if known else None),
        "-" if energy.value is None else f"{energy.value:.0f} J {energy.source}",
        "-" if spent is None or spent.ratio is None else f"{spent.ratio:.0%} of {spent.budget}",
        job.line,
    )


# -- output --------------------------------------------------------------------------------


def lines(screen: Screen) -> list[str]:
    """The screen as plain text."""
    body = screen.body
    texts = [head(screen)]
    if body.nodes:
        texts += ["", *aligned([NODE_COLUMNS, *map(node_row, body.nodes)])]
    if body.jobs:
        texts += ["", *aligned([JOB_COLUMNS, *(job_row(job, screen.of_job[job.job]) for job in body.jobs)])]
    if body.jobs_hidden:
        texts.append(f"and {body.jobs_hidden} more jobs")
    return texts


def picture(screen: Screen, trouble: str = "") -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    nodes = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    for column in NODE_COLUMNS:
        nodes.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    for node in screen.body.nodes:
        nodes.add_row(*map(Text, node_row(node)), style="red" if node.state == OFFLINE else "dim" if node.state == UNKNOWN else "")
    jobs = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for column in JOB_COLUMNS:
        jobs.add_column(column, no_wrap=column != "waiting for", ratio=1 if column == "waiting for" else None)
    for job in screen.body.jobs:
        cells = [Text(cell) for cell in job_row(job, screen.of_job[job.job])]
        cells[4].stylize("green")
        jobs.add_row(*cells, style="red" if job.state == FAILED else "")
    parts: list[RenderableType] = [Text(head(screen), style="bold"), Text(trouble, style="red"), nodes, Text(""), jobs]
    if screen.body.jobs_hidden:
        parts.append(Text(f"and {screen.body.jobs_hidden} more jobs", style="dim"))
    return Group(*parts)
