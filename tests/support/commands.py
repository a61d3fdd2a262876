"""Programs as a user starts them: fogctl and the daemons as processes of their own, and a mark by which all of their offspring is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

MARK = "FOGLEARN_TEST_MARK"
PATIENCE_S = 90.0
"""How long a command may take before the test fails."""


class Commands:
    """`with Commands(home) as commands:` runs programs with `home` as home and working folder; what is left at the end is killed.

    Every process that comes of them inherits a mark in its environment, so that none hides in another session or under another parent.
    """

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.mark = uuid.uuid4().hex
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FOGLEARN_", "XDG_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), clean["PATH"]])
        tmp = home / "tmp"
        tmp.mkdir(exist_ok=True)
        self.environment = {**clean, "PATH": path, "HOME": str(home), "TMPDIR": str(tmp), "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.environment[MARK] = self.mark

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.alive():
            process.kill()

    def start(self, line: str, home: Path | None = None, **options: Any) -> subprocess.Popen[str]:
        """A line as it is typed, in a process group of its own (its pid), as a shell gives one to the job in the foreground.

        home: of another machine, so to speak.
        """
        home = home or self.home
        environment = {**self.environment, "HOME": str(home)}
        return subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=home, env=environment, stdin=subprocess.DEVNULL, text=True, start_new_session=True, **options
        )

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """A whole line, `&&` included, to its end."""
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def json(self, line: str) -> tuple[int, dict[str, Any]]:
        """(exit code, `data` or `error`) of a command with --json, which says nothing else."""
        ended = self.run(f"{line} --json")
        envelope = json.loads(ended.stdout)
        assert set(envelope) == {"schema_version", "status", "data" if ended.returncode == 0 else "error"}, ended.stdout
        assert ended.stderr == ""
        return ended.returncode, envelope["data" if ended.returncode == 0 else "error"]

    def alive(self) -> list[psutil.Process]:
        """All processes that carry the mark and have not ended."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:  # not ours, or gone meanwhile
                continue
        return found

    def left_after(self, patience_s: float = 10.0) -> list[str]:
        """Command lines of those that do not end within patience_s."""
        end = time.monotonic() + patience_s
        while (alive := self.alive()) and time.monotonic() < end:
            psutil.wait_procs(alive, timeout=0.2)
        return [" ".join(process.cmdline()) for process in alive if process.is_running()]
