"""Output of fogctl: one JSON envelope, a table for a person, plain lines for a pipe; errors in one line.

With --json only the envelope of fog_common.program.envelope goes to stdout. Otherwise results go to stdout, notes and errors to stderr.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from fog_common.program import envelope
from fog_common.wire.api.jobs import Figure
from fog_common.wire.api.shown import shown


@dataclass(slots=True)
class Output:
    """Output of one command."""

    json: bool = False
    debug: bool = False

    @property
    def live(self) -> bool:
        """Whether stdout is a terminal, on which progress may be refreshed."""
        return not self.json and sys.stdout.isatty()

    def result(self, data: Any, lines: Iterable[str] = ()) -> None:
        """Print the command's result, once: `data` (a reply's body, or builtins) as JSON, or `lines` for a person."""
        if self.json:
            _write(envelope.ok(shown(data) if isinstance(data, Struct) else data))
            return
        for line in lines:
            _write(line)

    def table(self, data: Any, columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
        """Print the result as a table: rich on a terminal, aligned columns elsewhere. empty: text without rows."""
        if self.json or not rows:
            self.result(data, [empty])
        elif self.live:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text

            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in columns:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*(Text(cell) for cell in row))
            Console().print(table)
        else:
            self.result(data, aligned([columns, *rows]))

    def note(self, text: str) -> None:
        """Print a note on progress, which is not part of the result and is left out with --json."""
        if not self.json:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def error(self, error: BaseException, exit_code: int) -> None:
        """Print an error in one line, with a traceback only with --debug."""
        if self.debug:
            traceback.print_exception(error, file=sys.stderr)
        if self.json:
            _write(envelope.failed(error, exit_code))
        else:
            print(f"error: {envelope.one_line(error)}", file=sys.stderr, flush=True)  # noqa: T201


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to their widest cell, two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def size(count: float | None) -> str:
    """1536 -> '1.5 KiB'; '-' if unknown."""
    if count is None:
        return "-"
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """75 -> '1 min 15 s'; '-' if unknown."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def literal(value: Any) -> str:
    """A value in the notation of a job file."""
    return value if isinstance(value, str) and value else json.dumps(value, default=str, ensure_ascii=False)


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def figure_text(value: float | None, unit: str) -> str:
    """A headline number: '0.9125', '1.5 KiB' (B), '1 min 15 s' (s), '12.0 J'; '-' if unknown."""
    if value is None or not unit:
        return number(value)
    return size(value) if unit == "B" else duration(value) if unit == "s" else f"{value:.4g} {unit}"


def label(figure: Figure) -> str:
    """Short label of a number: its name if its title begins with it ('accuracy'), otherwise the title ('training loss')."""
    return figure.name if figure.title.startswith(figure.name) else figure.title


def step_time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _write(line: str) -> None:
    print(line, flush=True)  # noqa: T201
