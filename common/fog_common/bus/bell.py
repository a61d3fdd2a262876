"""A bell wakes a thread that polls its file descriptor. Any thread may ring; one thread answers."""

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
        """Wake the polling thread. The caller writes its work before it rings; one byte is enough until the answer."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):  # closed meanwhile
                self._hammer.send(b"r")

    def answer(self) -> None:
        """Empty the socket, then allow the next ring. The thread looks for work only after this, so that no ring in between is lost."""
        with contextlib.suppress(BlockingIOError):
            while self._hear.recv(64):
                pass
        self._rung = False

    def close(self) -> None:
        self._hear.close()
        self._hammer.close()
