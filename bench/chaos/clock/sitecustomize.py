"""Shifts a Python process's wall clock by the seconds in the file $FOG_CLOCK, at any time: first on PYTHONPATH, nothing else needed.

Only what reads the wall clock is shifted (time.time, time.time_ns); monotonic clocks go on as they are, as on a machine whose
clock is set. `datetime` in C reads the kernel's clock past this; foglearn's daemons do not use it.
"""

from __future__ import annotations

import os
import time

_real, _real_ns = time.time, time.time_ns
_path = os.environ.get("FOG_CLOCK", "")


def _shift() -> float:
    try:
        with open(_path) as file:
            return float(file.read() or 0)
    except (OSError, ValueError):
        return 0.0


if _path:
    time.time = lambda: _real() + _shift()
    time.time_ns = lambda: _real_ns() + int(_shift() * 1e9)
