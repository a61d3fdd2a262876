"""Worker processes: start, frames to and from them, end. Their reports and ends are events; the supervisor decides.

Each worker has three threads, none of which touches state of the daemon: `life` starts the process and waits for its end, `read`
passes its reports on, `write` sends it frames, so that a frozen worker never blocks the daemon. Only the newest assignment waits
for a slow worker. Two things end the workers when the daemon dies: their sockets close, and the kernel kills them (Linux).
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec import Struct

from fog_agent.config import AgentConfig
from fog_agent.process.forked import Forked
from fog_agent.worker import pipe
from fog_agent.worker.frames import Assign, State, Stop, WorkerSetup
from fog_common.program.logs import without_stamp
from fog_common.wire.messages import DesiredJob, WorkerState

LOG_BYTES: Final = 1_000_000
"""Size beyond which a worker's log is set aside (one old file is kept) when the next worker starts."""
GRACE_S: Final = 10.0
"""Seconds after which a worker is killed that closed its socket but does not exit."""
CANNOT_START: Final = 127


class Reported(Struct, frozen=True):
    """A worker's report. urgent: pass it on at once."""

    job: str
    state: WorkerState
    urgent: bool


class Ended(Struct, frozen=True):
    """The process is gone, or could not start. code: exit status, or minus the signal; hint: more, for a person."""

    job: str
    incarnation: int
    code: int
    hint: str = ""


WorkerEvent = Reported | Ended


class Process(Protocol):
    """A started worker process."""

    pid: int

    def wait(self) -> int:
        """Block until the process ends; returns its exit status, or minus the signal."""
        ...

    def kill(self) -> None: ...


Launch = Callable[[socket.socket, int], Process]
"""(the worker's end of the socket, file descriptor for its log) -> the process; OSError if it cannot start."""


class Workers:
    """All workers of one daemon. Methods are called by the daemon's owner thread and never block."""

    def __init__(self, config: AgentConfig, folder: Path, datasets: dict[str, str], on_event: Callable[[WorkerEvent], None]) -> None:
        self._config, self._folder, self._datasets, self._on_event = config, folder, datasets, on_event
        self._running: dict[str, _Worker] = {}
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def start(self, job: str, incarnation: int) -> None:
        config = self._config
        setup = WorkerSetup(
            node=config.node,
            site=config.site,
            tier=config.tier,
            fleet=config.fleet,
            broker=config.broker,
            state_dir=str(self._folder),
            job=job,
            incarnation=incarnation,
            datasets=self._datasets,
            weights=config.weights,
            allow_models=config.allow_models,
            methods=config.methods,
            chunk_bytes=config.chunk_bytes,
            backend=config.backend,
            duty=config.duty,
            metrics=config.metrics,
            log_level=config.log_level,
        )
        worker = _Worker(setup, self._launch(), self._folder / "logs" / f"{job}.log", self._on_event)
        self._running[job] = worker
        worker.start()

    def assign(self, job: str, desired: DesiredJob) -> None:
        if worker := self._running.get(job):
            worker.assign(desired)

    def stop(self, job: str) -> None:
        if worker := self._running.get(job):
            worker.stop()

    def kill(self, job: str) -> None:
        if worker := self._running.get(job):
            worker.kill()

    def ended(self, job: str) -> None:
        """Forget a worker whose `Ended` was handled."""
        self._running.pop(job, None)

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory by job, from /proc, of the workers that have a process."""
        sizes = {}
        for job, worker in self._running.items():
            if worker.pid and (size := resident_bytes(worker.pid)):
                sizes[job] = size
        return sizes

    def kill_all(self) -> None:
        for worker in self._running.values():
            worker.kill()

    def _launch(self) -> Launch:
        if self._config.spawner:
            return lambda sock, log_fd: Forked(self._config.spawner, sock, log_fd)
        command = list(self._config.worker_command) or [sys.executable, "-m", "fog_agent.worker"]
        return lambda sock, log_fd: _subprocess(command, sock, log_fd)


class _Worker:
    def __init__(self, setup: WorkerSetup, launch: Launch, log_path: Path, on_event: Callable[[WorkerEvent], None]) -> None:
        self._setup, self._launch, self._log_path, self._on_event = setup, launch, log_path, on_event
        self._assignment: deque[DesiredJob] = deque(maxlen=1)
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """One True per change; False ends the thread."""
        self._stop = False
        self._kill = False
        self._ours, self._theirs = socket.socketpair()
        self._process: Process | None = None
        self._gone = threading.Event()
        self._nonsense = ""
        self.pid = 0

    def start(self) -> None:
        for name, run in (("life", self._live), ("write", self._write)):
            threading.Thread(target=run, name=f"{name} {self._setup.job}", daemon=True).start()

    def assign(self, desired: DesiredJob) -> None:
        self._assignment.append(desired)
        self._orders.put(True)

    def stop(self) -> None:
        self._stop = True
        self._orders.put(True)

    def kill(self) -> None:
        self._kill = True
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()

    def _live(self) -> None:
        """Thread: start the process and wait for its end. The kernel kills the process when this thread, its parent, dies."""
        job, incarnation = self._setup.job, self._setup.incarnation
        try:
            log_file = _opened_log(self._log_path)
            with log_file, self._theirs:
                begin, kills = log_file.tell(), oom_kills()
                process = self._process = self._launch(self._theirs, log_file.fileno())
        except Exception as error:  # any failure must reach the core as an end
            self._orders.put(False)
            self._ours.close()
            self._on_event(Ended(job, incarnation, CANNOT_START, f"cannot start: {error}"))
            return
        self.pid = process.pid
        if self._kill:  # kill() was called during the start
            process.kill()
        reader = threading.Thread(target=self._read, args=(process,), name=f"read {job}", daemon=True)
        reader.start()
        code = process.wait()
        self.pid = 0
        self._gone.set()
        self._orders.put(False)
        with contextlib.suppress(OSError):  # ends both other threads, even if a grandchild holds the other end
            self._ours.shutdown(socket.SHUT_RDWR)
        reader.join()
        self._ours.close()
        self._on_event(Ended(job, incarnation, code, self._nonsense or _hint(code, self._log_path, begin, kills)))

    def _read(self, process: Process) -> None:
        """Thread: pass on the worker's reports until its socket closes, then kill a process that does not end."""
        while True:
            try:
                frame = pipe.receive(self._ours)
            except Exception as error:
                self._nonsense = f"stopped, it sent nonsense: {error}"
                process.kill()
                return
            if frame is None:
                break
            if isinstance(frame, State):
                self._on_event(Reported(self._setup.job, frame.state, frame.urgent))
        if not self._gone.wait(GRACE_S):
            process.kill()

    def _write(self) -> None:
        """Thread: send frames; blocks on a worker that does not read."""
        try:
            pipe.send(self._ours, self._setup)
            while self._orders.get():
                while self._assignment and not self._stop:
                    pipe.send(self._ours, Assign(self._assignment.popleft()))
                if self._stop:
                    pipe.send(self._ours, Stop())
                    return
        except OSError:
            return  # the worker is gone, as `life` reports


# -- processes -----------------------------------------------------------------------------


def _subprocess(command: list[str], sock: socket.socket, log_fd: int) -> Process:
    """Start a worker in a session of its own, so that Ctrl-C in a terminal reaches only the daemon, which ends its workers in order."""
    fd = sock.fileno()
    tied = [sys.executable, "-m", "fog_agent.process.tether", str(os.getpid()), *command, "--fd", str(fd)]
    return subprocess.Popen(tied, stdin=subprocess.DEVNULL, stdout=log_fd, stderr=log_fd, pass_fds=(fd,), start_new_session=True)


def _opened_log(path: Path) -> Any:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES:
            os.replace(path, path.with_suffix(".log.old"))
    file = open(path, "ab")  # noqa: SIM115 - the caller closes it
    file.seek(0, os.SEEK_END)
    return file


def _hint(code: int, path: Path, begin: int, kills: int | None) -> str:
    """A hint for a person beside the exit code: out of memory, or the last line of the worker's log; '' for none."""
    if code == -signal.SIGKILL:
        now = oom_kills()
        if now is None or kills is None:
            return "perhaps out of memory"
        return "out of memory (the kernel killed a process)" if now > kills else ""
    if code <= 0:
        return ""
    try:
        with open(path, "rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((without_stamp(line.strip())[:300] for line in reversed(lines) if line.strip()), "")


def oom_kills() -> int | None:
    """Number of processes that this kernel has killed for lack of memory; None if it is unknown."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), None)
    except OSError:
        return None


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 if it is gone or this system has no /proc."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
