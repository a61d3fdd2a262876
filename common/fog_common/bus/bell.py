"""A bell: wakes a thread that polls. Any thread may ring; one answers."""

from __future__ import annotations

import contextlib
import socket


class Bell:
    def __init__(self) -> None:
        self._hear, self._hammer = socket.socketpair()
        self._hear.setblocking(False)
        self._hammer.setblocking(False)
        self._rung = False

    def fileno(self) -> int:
        return self._hear.fileno()

    def ring(self) -> None:
        """One byte is enough until it is answered. What the other is to see was put down before."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):  # closed meanwhile
                self._hammer.send(b"r")

    def answer(self) -> None:
        """Empty it, and only then let it be rung again: a ring in between has left its work before, and we look after."""
        with contextlib.suppress(BlockingIOError):
            while self._hear.recv(64):
                pass
        self._rung = False

    def close(self) -> None:
        self._hear.close()
        self._hammer.close()
