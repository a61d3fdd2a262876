"""Lines of the log: stamped in a terminal and in a file, bare where the journal stamps them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fog_common.program.logs import log_to_stderr, without_stamp


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    for handler in before:  # basicConfig(force=True) closes what it finds
        root.removeHandler(handler)
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)


def written(path: Path, journal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    with open(path, "w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}" if journal else "8:123456")
        log_to_stderr("INFO", "agent pi-1%", stream)
        logging.getLogger("fog_agent").warning("the broker is away for %d s", 3)
        logging.getLogger("fog_agent").debug("nobody reads this")
    return path.read_text()


def test_lines_are_stamped_unless_this_very_stream_is_the_journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bare = "WARNING agent pi-1%: the broker is away for 3 s\n"
    assert written(tmp_path / "journal", True, monkeypatch) == bare
    line = written(tmp_path / "file", False, monkeypatch)  # as a worker's log below a service
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} " + re.escape(bare), line)
    assert without_stamp(line) == bare
    assert without_stamp(bare) == bare
