"""Ties a worker's life to its daemon's: the kernel kills it when the thread that started it is gone (Linux).

    python -m fog_agent.process.tether PARENT_PID COMMAND…

A program of its own and not a `preexec_fn`, because nothing may run between fork and exec in a process that has threads. Elsewhere
than on Linux it does nothing; there the end of the worker's socket must do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int) -> None:
    """For this process, from now on, and over exec. Exits at once if `parent` is not its parent (any more)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)


def go_first() -> None:
    """When memory runs out, the kernel is to take the worker, not its daemon: that reports it and starts another."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    go_first()
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"cannot run {sys.argv[2]}: {error.strerror}")
