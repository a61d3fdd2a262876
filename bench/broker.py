"""A mosquitto of our own for a measurement: free port, default limits, nothing persistent, ended with the block."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def mosquitto_path() -> str:
    """Debian keeps it in /usr/sbin, which is not on every PATH."""
    path = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise SystemExit("bench needs mosquitto (apt install mosquitto): all figures are taken over a real broker")
    return path


@contextmanager
def mosquitto(start_s: float = 10.0) -> Iterator[int]:
    """The port of a running broker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "mosquitto.conf"
        conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nlog_type error\n")
        broker = subprocess.Popen([mosquitto_path(), "-c", str(conf)])
        try:
            _await_port(port, broker, time.monotonic() + start_s)
            yield port
        finally:
            broker.terminate()
            broker.wait(10)


def _await_port(port: int, broker: subprocess.Popen[bytes], deadline: float) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if broker.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"mosquitto did not start on port {port}") from None
            time.sleep(0.02)
