"""A job's progress: a refreshed view on a terminal, one line per round elsewhere. Used by `submit --wait`, `job watch` and `demo`.

with Watch(out) as watch:
    watch.show(status)               # for each new status
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from msgspec.structs import replace

from fog_common.errors import ConfigError, JobFailed, TimedOut, Unreachable
from fog_common.wire.api.jobs import JobStatus, RoundShown, TaskShown, WaitShown
from fog_common.wire.api.plans import PlanReport, StepBytes
from fog_common.wire.api.states import CANCELLED, ENDED, FINISHED, PREPARING, QUEUED, RUNNING, WAITING
from fog_common.wire.api.verbs import Body, Question, ReadJob
from fogctl.show.output import Output, aligned, duration, figure_text, label, size, step_time

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

BEGINNINGS: Final = {WAITING: "waiting for nodes", QUEUED: "queued", PREPARING: "workers start", RUNNING: "training begins"}
WAITS_SHOWN: Final = 6
SLOW_S: Final = 3.0
"""Length of a wait from which the plain lines mention it."""
_SECONDS = re.compile(r"\b\d+(\.\d+)? (s|min|h)\b")
POLL_S: Final = 0.5
PATIENCE_S: Final = 60.0
"""Longest silence of the coordinator during a watch; it may restart while the job goes on."""


class Asks(Protocol):
    """The part of a client that follow() uses."""

    def ask(self, question: Question[Body]) -> Body: ...


class Watch:
    """Shows the statuses of one job as they come, or none with --json."""

    def __init__(self, out: Output, rounds_shown: int = 8) -> None:
        self.out = out
        self.rounds_shown = rounds_shown
        self._live: Live | None = None
        self._history: list[RoundShown] = []
        self._state = ""
        self._said = ""

    def __enter__(self) -> Self:
        if self.out.live:
            from rich.live import Live

            self._live = Live(refresh_per_second=8, transient=False)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def last_round(self) -> int:
        """The newest round seen, up to which `job.status` need not send the history again."""
        return self._history[-1].round if self._history else 0

    def show(self, status: JobStatus) -> None:
        """Show a status, whose history may be whole or hold only new rounds."""
        new = [entry for entry in status.history if entry.round > self.last_round]
        self._history += new
        if self.out.json:
            return
        if self._live is not None:
            self._live.update(self.picture(status))
            return
        changed, self._state = status.state != self._state, status.state
        if changed and self._state not in ENDED:
            self._say(BEGINNINGS.get(self._state, self._state))
        for entry in new:
            self._say(_round_line(entry, status))
        if self._state not in ENDED:
            self._say_waits(status)
        elif self._state == FINISHED:  # any other end is printed as an error
            self._say(status.line)

    def whole(self, status: JobStatus) -> JobStatus:
        """The status with the complete history."""
        return replace(status, history=tuple(self._history))

    def _say(self, line: str) -> None:
        print(line, flush=True)  # noqa: T201

    def _say_waits(self, status: JobStatus) -> None:
        """Print the slow waits when their words change; other seconds alone do not count."""
        slow = [wait for wait in status.waits if not wait.minor and wait.since_s >= SLOW_S]
        text = _waits_line(slow)
        words = _SECONDS.sub("", text)
        if text and words != self._said:
            self._say(text)
        self._said = words

    def picture(self, status: JobStatus) -> RenderableType:
        """The refreshed view: the job's progress, its last rounds, its waits."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"{status.job} {status.method}", style="bold"),
            ProgressBar(total=max(1, status.rounds), completed=min(status.round, status.rounds), width=30),
            Text(f"round {status.round}/{status.rounds}"),
            Text(duration(status.wall_s)),
            Text(size(status.bytes.total)),
        )
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("round", *map(label, status.headline), "updates", "bytes", "time"):
            table.add_column(column, justify="right")
        for entry in self._history[-self.rounds_shown :]:
            figures = (figure_text(entry.numbers.get(figure.name), figure.unit) for figure in status.headline)
            table.add_row(str(entry.round), *figures, str(entry.updates), size(entry.bytes), duration(entry.wall_s))
        parts: list[RenderableType] = [head]
        if self._history:
            parts.append(table)
        parts += [Text(_wait_line(wait), style="yellow") for wait in status.waits[:WAITS_SHOWN]]
        if (more := len(status.waits) - WAITS_SHOWN) > 0:
            parts.append(Text(f"and {more} more", style="yellow"))
        parts += [Text(problem, style="red") for problem in status.problems]
        if not status.waits:
            parts.append(Text(status.line, style="dim"))
        return Group(*parts)


def follow(
    client: Asks,
    job: str,
    out: Output,
    *,
    at_most_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> JobStatus:
    """Show a job until it has ended; returns its last status with the whole history.

    TimedOut after at_most_s. Unreachable after PATIENCE_S of silence of the coordinator.
    """
    began = heard = clock()
    with Watch(out) as watch:
        while True:
            try:
                status = client.ask(ReadJob(job, watch.last_round))
                heard = clock()
            except Unreachable as error:
                if clock() - heard > PATIENCE_S:
                    raise
                out.note(f"{error}; trying again")
                pause(POLL_S)
                continue
            watch.show(status)
            if status.state in ENDED:
                return watch.whole(status)
            if at_most_s is not None and clock() - began >= at_most_s:
                raise TimedOut(
                    f"{status.job} is still {status.state} after {at_most_s:g} s ({status.line}); it goes on, `fogctl job watch {status.job}`"
                )
            pause(POLL_S)


def whole_status(client: Asks, job: str) -> JobStatus:
    """The job's status with its whole history, which may take several requests."""
    status = client.ask(ReadJob(job))
    history = list(status.history)
    while history and (more := client.ask(ReadJob(job, history[-1].round)).history):
        history += more
    return replace(status, history=tuple(history))


def checked_end(status: JobStatus) -> JobStatus:
    """The status of a finished job. JobFailed if it ended otherwise, ConfigError if the nodes' preflight refused it."""
    if status.state == FINISHED:
        return status
    why = status.why or "; ".join(status.problems) or "no reason is known"
    if status.state == CANCELLED:
        raise JobFailed(f"{status.job} was cancelled in round {status.round} of {status.rounds}")
    if status.refused:
        raise ConfigError(f"{status.job}: {grouped(status.problems) or why}")
    where = f"in round {status.round} of {status.rounds}" if status.started_at is not None else "before its first round"
    raise JobFailed(f"{status.job} failed {where}: {why}; see `fogctl job logs {status.job}`")


def summary(status: JobStatus, details: bool = True) -> list[tuple[str, str]]:
    """Figures of a job as (name, text) pairs for a table. details: include predictions, and bytes by formula and by the paper's count."""
    sent, energy = status.bytes, status.energy_j
    known = [(figure, status.metrics.get(figure.name)) for figure in status.headline]
    rows = [(figure.title, figure_text(value, figure.unit)) for figure, value in known if value is not None]
    rows += [("rounds", f"{status.round} of {status.rounds}"), ("nodes", str(status.nodes)), ("wall time", duration(status.wall_s))]
    if details:
        rows += predicted_lines(status.plan)
    by_plane = {"up": sent.up, "down": sent.down, "d2d": sent.d2d, "cast": sent.cast}
    rows += [(f"bytes {plane}", size(count)) for plane, count in by_plane.items() if count]
    ratio = f" ({sent.total / sent.ideal:.3f} times the tensors alone)" if sent.ideal and details else ""
    rows.append(("bytes in all", size(sent.total) + ratio))
    if details:
        rows += _step_bytes(status.step_bytes)
    for use in status.budgets:
        used = "unknown" if use.used is None else f"{use.used:,.0f} of {use.limit:,.0f} ({use.ratio or 0.0:.0%})"
        rows.append((f"budget {use.budget}", used))
    rows.append(("energy", "unknown" if energy.value is None else f"{energy.value:.1f} J ({energy.source})"))
    return rows


def predicted_lines(plan: PlanReport | None) -> list[tuple[str, str]]:
    """('step', '12.3 ms predicted (cut after c1, …), 14.0 ms measured: -12 %')."""
    if plan is None:
        return []
    text = f"{step_time(plan.predicted.step_s)} predicted ({plan.predicted.title})"
    if plan.measured is not None and plan.error is not None:
        text += f", {step_time(plan.measured.step_s)} measured: prediction {plan.error:+.0%}"
    return [("step", text)]


def _step_bytes(step: StepBytes | None) -> list[tuple[str, str]]:
    """('bytes a step', '81.0 kB measured, 74.5 kB by formula, +8.7 % (tensors alone +2.2 %); the paper counts 41.2 kB')."""
    if step is None:
        return []
    formula = f"{size(step.formula)} by formula"
    if step.measured is not None:
        formula = f"{size(step.measured)} measured, {formula}"
    if step.error is not None and step.tensors is not None:
        formula += f", {100 * step.error:+.1f} % (tensors alone {100 * (step.tensors / step.formula - 1):+.1f} %)"
    return [("bytes a step", f"{formula}; the paper counts {size(step.paper)}")]


def summary_lines(status: JobStatus, details: bool = True, *more: tuple[str, str]) -> list[str]:
    """The closing table of a job. more: further rows."""
    return aligned([*summary(status, details), *more])


def details(status: JobStatus) -> Iterator[str]:
    """The lines of `job status`."""
    yield f"{status.job} ({status.method}): {status.state}: {status.line}"
    for wait in status.waits:
        yield f"  {_wait_line(wait)}"
    for problem in status.problems:
        yield f"  problem: {problem}"
    if status.watching:
        yield f"  no slot is free for {', '.join(status.watching)}: they watch, and take the next one"
    yield from (f"  {line}" for line in summary_lines(status))
    if status.tasks:
        columns = ("task", "role", "node", "tier", "site", "state", "round", "memory")
        rows = [
            (task.task, task.role, task.node, task.tier, task.site, _task_state(task, status), str(task.round), size(task.rss_bytes))
            for task in status.tasks
        ]
        yield from (f"  {line}" for line in aligned([columns, *rows]))
        yield from (f"  {task.task}: {task.note}" for task in status.tasks if task.note)


def _task_state(task: TaskShown, status: JobStatus) -> str:
    if status.state in ENDED:
        return "ended"
    return "live" if task.live else task.phase or "not there yet"


def grouped(problems: Iterable[str]) -> str:
    """Equal problems of several nodes as one: 'pi-1: no disk', 'pi-2: no disk' -> 'pi-1, pi-2: no disk'."""
    nodes: dict[str, list[str]] = {}
    for problem in problems:
        node, _, text = problem.partition(": ")
        nodes.setdefault(text, []).append(node)
    return "; ".join(f"{', '.join(names)}: {text}" if text else ", ".join(names) for text, names in nodes.items())


def _round_line(entry: RoundShown, status: JobStatus) -> str:
    known = [(figure, entry.numbers.get(figure.name)) for figure in status.headline]
    figures = [f"{label(figure)} {figure_text(value, figure.unit)}" for figure, value in known if value is not None]
    return "  ".join([f"round {entry.round}/{status.rounds}", *figures, f"{entry.updates} updates", size(entry.bytes), duration(entry.wall_s)])


def _wait_line(wait: WaitShown) -> str:
    """A wait with its length so far and the time left: '3 of 4 updates, closes in 12 s at the latest (for 4 s so far)'."""
    lasts = "" if wait.since_s < 1 else f"for {wait.since_s:.0f} s" if wait.since_s < 60 else f"for {duration(wait.since_s)}"
    if wait.until_s is None:
        return f"{wait.what} {lasts}".rstrip()
    left = f"{wait.what}{' ' if wait.what.endswith(' in') else ', '}{max(0.0, wait.until_s):.0f} s at the latest"
    return f"{left} ({lasts} so far)" if lasts else left


def _waits_line(waits: Sequence[WaitShown], most: int = 3) -> str:
    lines = [_wait_line(wait) for wait in waits]
    return "; ".join([*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])])
