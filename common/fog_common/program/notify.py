"""Tell systemd how the service is (sd_notify): one datagram to $NOTIFY_SOCKET. Nothing happens where there is none."""

from __future__ import annotations

import os
import socket


def notify(*states: str) -> bool:
    """Send states such as "READY=1", "STATUS=…", "WATCHDOG=1", "STOPPING=1". True if they were sent; never raises OSError."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(states).encode(), address)
    except OSError:  # a full or missing socket must not end the service
        return False
    return True


def watchdog_s() -> float | None:
    """Seconds between WATCHDOG=1 messages (a third of systemd's limit); None without a watchdog."""
    limit_us, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not limit_us.isdigit() or int(limit_us) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(limit_us) / 3e6


class Pulse:
    """WATCHDOG=1 as often as systemd wants it; nothing where nobody watches."""

    def __init__(self) -> None:
        self._every_s = watchdog_s()
        self._at = 0.0

    @property
    def next_at(self) -> float | None:
        """When beat() is due, in the owner's seconds; None: never."""
        return None if self._every_s is None else self._at

    def beat(self, now: float) -> None:
        """Call at next_at, or at any other time."""
        if self._every_s is not None and now >= self._at:
            self._at = now + self._every_s
            notify("WATCHDOG=1")
