"""Ties a worker's life to its daemon's: the kernel kills the worker when the thread that started it is gone (Linux).

    python -m fog_agent.process.tether PARENT_PID COMMAND…

The tether is a program of its own instead of a `preexec_fn`, because no code may run between fork and exec in a process with threads.
On other systems it only runs the command, and the end of the worker's socket ends the worker.
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
    """Tie this process to its parent, also over exec. Exits at once if `parent` is not its parent (any more)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the call
        os._exit(1)


def go_first() -> None:
    """Let the kernel kill this worker, and not its daemon, when memory runs out; the daemon reports it and starts another."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    go_first()
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"cannot run {sys.argv[2]}: {error.strerror}")
