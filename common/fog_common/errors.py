"""The error tree. Errors carry their numbers and say what to do; a peer's fault and ours are different types.

FogError
├── ConfigError      a file or option of the user is wrong          (exit 2)
├── Unreachable      broker or coordinator cannot be reached        (exit 3)
├── Refused          policy or permission                           (exit 4)
├── TimedOut         waiting ended before the thing did             (exit 5)
├── JobFailed        the job itself failed                          (exit 1)
├── OpError          a tensor computation failed; the machine hears `Failed`
└── WireError        a peer sent something we must not act on: counted and dropped, never fatal
    └── TooLarge     a payload over a limit
"""

from __future__ import annotations


class FogError(Exception):
    """Everything we raise on purpose."""

    exit_code = 1


class ConfigError(FogError):
    """A file, key or option of the user is wrong: what, where, what is allowed."""

    exit_code = 2


class Unreachable(FogError):
    """The broker or the coordinator does not answer."""

    exit_code = 3


class Refused(FogError):
    """A policy or a permission says no."""

    exit_code = 4


class TimedOut(FogError):
    """Waiting ended before the thing that was waited for happened."""

    exit_code = 5


class JobFailed(FogError):
    """A job ended without its result."""

    exit_code = 1


class OpError(FogError):
    """A tensor computation could not be done; its task hears `Failed`."""


class WireError(FogError):
    """A peer sent something we must not act on. Counted and dropped, never fatal."""

    reason = "malformed"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class TooLarge(WireError):
    """A payload over a limit; refused before anything is allocated or sent."""

    reason = "too_large"

    def __init__(self, size_bytes: int, limit_bytes: int, what: str = "payload") -> None:
        super().__init__(f"{what} is {size_bytes} B, limit {limit_bytes} B; raise the limit or send smaller chunks")
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes
