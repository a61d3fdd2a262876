"""The daemon's side of a spawner: a worker that another process forks, with the interface of a child process.

Each worker has one connection. The daemon sends a request with two file descriptors (the worker's socket, its log); the spawner
answers with the pid and, later, with the exit code. Closing the connection kills the worker.
"""

from __future__ import annotations

import signal
import socket
import struct
import time
from typing import Final

ANSWER: Final = struct.Struct("<cq")
"""Kind and number: b'P' pid, b'X' exit code (minus the signal)."""
REQUEST: Final = b"fork"
START_TIMEOUT_S: Final = 60.0
"""Longest wait for an answer: a spawner on a small board imports torch first."""
APPEAR_S: Final = 2.0
"""Longest wait for the spawner's socket, because the spawner may start at the same moment as the agent."""


class Forked:
    """See fog_agent.process.workers.Process. OSError if the spawner is not there or does not answer."""

    def __init__(self, path: str, sock: socket.socket, log_fd: int) -> None:
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._code: int | None = None
        self._line.settimeout(START_TIMEOUT_S)
        try:
            _connect(self._line, path)
            socket.send_fds(self._line, [REQUEST], [sock.fileno(), log_fd])
            kind, self.pid = self._answer()
        except OSError as error:
            self._line.close()
            raise OSError(f"spawner at {path}: {error.strerror or error}") from None
        if kind != b"P":
            self._line.close()
            raise OSError(f"spawner at {path} could not fork")
        self._line.settimeout(None)

    def wait(self) -> int:
        """Exit status, or minus the signal; -SIGKILL if the spawner is gone, because its workers end with it."""
        try:
            return self._answer()[1]
        except OSError:
            return -signal.SIGKILL
        finally:
            self._line.close()

    def kill(self) -> None:
        """Kill the worker by closing our side; its pid may belong to another process by now."""
        self._line.shutdown(socket.SHUT_WR)

    def _answer(self) -> tuple[bytes, int]:
        answer = b""
        while len(answer) < ANSWER.size:
            part = self._line.recv(ANSWER.size - len(answer))
            if not part:
                raise ConnectionError("closed the connection")
            answer += part
        kind, number = ANSWER.unpack(answer)
        return kind, number


def _connect(line: socket.socket, path: str) -> None:
    end = time.monotonic() + APPEAR_S
    while True:
        try:
            line.connect(path)
            return
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)
