"""The log of a process on standard error: one line per fact, with a time stamp unless the journal stamps lines by itself."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Final, TextIO

STAMP: Final = "%(asctime)s "
"""2026-03-01 12:00:00,123, local time."""
_STAMPED: Final = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")


def log_to_stderr(level: str, name: str, stream: TextIO | None = None) -> None:
    """Log from `level` on to `stream` (standard error). name: the process, as it stands in every line: 'agent pi-1'."""
    stream = sys.stderr if stream is None else stream
    stamp = "" if stamped_by_journal(stream) else STAMP
    logging.basicConfig(level=level, stream=stream, format=f"{stamp}%(levelname)s {name.replace('%', '%%')}: %(message)s", force=True)


def stamped_by_journal(stream: TextIO) -> bool:
    """True if the stream is the one that systemd joined to its journal: $JOURNAL_STREAM names its device and inode. A child process
    inherits the variable, but may write to a file of its own."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def without_stamp(line: str) -> str:
    """A line of such a log, its time stamp removed."""
    return _STAMPED.sub("", line)
