"""A broker as a child process, for the demo and for tests: mosquitto, or the embedded one. The child never outlives its parent.

    with Broker.start(log=folder / "broker.log") as broker:
        BrokerConfig(host=broker.host, port=broker.port)

A broker is ready when the child itself listens on the port and has answered a CONNECT with a CONNACK.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

import psutil

from fog_common.errors import Unreachable

Kind = Literal["mosquitto", "embedded"]
HOST: Final = "127.0.0.1"
READY_S: Final = 20.0
PORT_TRIES: Final = 5
# MQTT 3.1.1, clean session, keepalive 10 s, client id "ready"; the CONNACK begins with 0x20
_CONNECT: Final = bytes.fromhex("10 11 0004 4d515454 04 02 000a 0005") + b"ready"
_PR_SET_PDEATHSIG: Final = 1


def find_mosquitto() -> str | None:
    """Path of the mosquitto program, or None. Debian installs it outside a user's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def find_broker() -> Kind:
    """The best broker that can be started here. Unreachable, with a hint what to install, without one."""
    if find_mosquitto():
        return "mosquitto"
    if find_spec("amqtt"):
        return "embedded"
    raise Unreachable("no broker can be started here: install mosquitto, or the extra `demo` (pip install 'foglearn[demo]')")


@dataclass(slots=True)
class Broker:
    """A running broker. `stop()` may be called often."""

    host: str
    port: int
    kind: Kind | str
    name: str
    """Program and port, for a person."""
    log: Path | None
    _process: subprocess.Popen[bytes]
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None)

    @classmethod
    def start(
        cls, kind: Kind | None = None, port: int = 0, config: str = "", log: Path | None = None, listener: bool = True, tls: bool = False
    ) -> Broker:
        """Start a broker and wait until it is ready. Unreachable, with the end of its log, if it does not answer.

        kind: None = find_broker(). port: 0 = a free one. config: further lines of mosquitto's configuration; one with
        `allow_anonymous` replaces the default `allow_anonymous true`. log: file to append to; None = no log. listener: False = the
        configuration holds its own listener, on `port`. tls: that listener uses TLS, and is ready as soon as it listens.
        """
        kind = kind or find_broker()
        folder = tempfile.TemporaryDirectory(prefix="fog-broker-")
        for attempt in range(PORT_TRIES):
            chosen = port or _free_port()
            command = _command(kind, chosen, config, Path(folder.name), listener)
            process = _spawn(command, log)
            if why := _wait_ready(process, chosen, tls):
                _end(process)
                if port or attempt == PORT_TRIES - 1 or "ended" not in why:
                    folder.cleanup()
                    raise Unreachable(f"{kind} on port {chosen} {why}{_tail(log)}")
                continue  # another process took the port meanwhile
            return cls(HOST, chosen, kind, f"{kind} on {HOST}:{chosen}", log, process, folder)
        raise AssertionError("unreachable")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the broker in order, by force after two seconds."""
        _end(self._process)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def kill(self) -> None:
        """End the broker as a power cut does."""
        if self.running:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def start_process(command: list[str], port: int, log: Path | None = None, name: str = "broker") -> Broker:
    """Start any other MQTT broker as a child, which is ready with a CONNACK and ends with its parent. Unreachable as of Broker.start."""
    process = _spawn(command, log)
    if why := _wait_ready(process, port):
        _end(process)
        raise Unreachable(f"{name} on port {port} {why}{_tail(log)}")
    return Broker(HOST, port, name, f"{name} on {HOST}:{port}", log, process)


def _command(kind: Kind, port: int, config: str, folder: Path, listener: bool) -> list[str]:
    if kind == "embedded":
        return [sys.executable, "-m", "fogctl.fleet.embedded", str(port)]
    program = find_mosquitto()
    if program is None:
        raise Unreachable("mosquitto is not installed (Debian: apt-get install mosquitto); kind='embedded' needs nothing")
    lines = ["persistence false", "set_tcp_nodelay true", "log_dest stderr", "log_timestamp_format %Y-%m-%dT%H:%M:%S"]
    if listener:
        lines.append(f"listener {port} {HOST}")
    if os.getuid() == 0:
        lines.append("user root")
    if "allow_anonymous" not in config:
        lines.append("allow_anonymous true")
    path = folder / "mosquitto.conf"
    path.write_text("\n".join([*lines, config, ""]), encoding="utf-8")
    return [program, "-c", str(path)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _spawn(command: list[str], log: Path | None) -> subprocess.Popen[bytes]:
    """Start a child that the kernel kills when this process dies in any way.

    The kernel watches the *thread* that forked, so the child has a thread of its own that lives as long.
    """
    started = threading.Event()
    result: list[subprocess.Popen[bytes] | OSError] = []
    before = _die_with(os.getpid())

    def hold() -> None:
        try:
            with contextlib.ExitStack() as stack:
                out = stack.enter_context(open(log, "ab")) if log else subprocess.DEVNULL
                # between fork and exec run only a C function and getppid, which take no lock of another thread
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    preexec_fn=before,  # noqa: PLW1509
                )
        except OSError as error:
            result.append(error)
            started.set()
            return
        result.append(process)
        started.set()
        process.wait()

    threading.Thread(target=hold, name=f"holds {Path(command[0]).name}", daemon=True).start()
    started.wait()
    if isinstance(result[0], OSError):
        raise Unreachable(f"cannot start {command[0]}: {result[0]}")
    return result[0]


def _die_with(parent: int) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork

    def before() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return before


def _wait_ready(process: subprocess.Popen[bytes], port: int, tls: bool = False) -> str:
    """Wait until the broker is ready; returns '', or the problem."""
    give_up = time.monotonic() + READY_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            return f"ended with code {process.returncode} before it was ready"
        if _listens(process.pid, port) and (tls or _answers(port)):
            return ""
        time.sleep(0.002)  # another process cannot be waited for, only polled
    return f"did not answer within {READY_S:.0f} s"


def _listens(pid: int, port: int) -> bool:
    """Whether the child itself, and not another process, listens on the port."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=2.0) as sock:
            sock.sendall(_CONNECT)
            answer = sock.recv(4)
            sock.sendall(b"\xe0\x00")  # DISCONNECT
    except OSError:
        return False
    return answer[:1] == b"\x20"  # a refusal (5: not authorised) is an answer, too


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)  # a frozen process cannot end
    process.terminate()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path | None) -> str:
    if log is None or not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    return "; its log ends with: " + " | ".join(lines) if lines else ""
