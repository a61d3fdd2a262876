"""A real Prometheus for a test, and promtool. Debian's package has both."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml

from support.broker import needs
from support.panels import DEPLOY

PATIENCE_S = 40.0


def promtool(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    program = needs("prometheus", shutil.which("promtool"))
    return subprocess.run([program, *arguments], input=stdin, capture_output=True, check=False, timeout=60)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Prometheus:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series of an instant query now. AssertionError with Prometheus' own words if it is none."""
        parameters = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=10) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    def until(self, expression: str, good: Callable[[list[dict[str, Any]]], bool] = bool, patience_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """Asked again until the answer is good; by default until there is one."""
        end = time.monotonic() + patience_s
        while True:
            try:
                found = self.query(expression)
            except OSError:  # it is starting
                found = []
            if found and good(found):
                return found
            assert time.monotonic() < end, f"not within {patience_s:g} s: {expression} gave {found[:3]}"
            time.sleep(0.1)  # between two questions; nothing is assumed about what happened meanwhile


@contextmanager
def running(folder: Path, config: str) -> Iterator[Prometheus]:
    """Prometheus with this configuration, on a free port, its data in `folder`."""
    program = needs("prometheus", shutil.which("prometheus"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(config)
    port = free_port()
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = Prometheus(port)
        end = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None, (folder / "prometheus.log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{server.url}/-/ready", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < end, (folder / "prometheus.log").read_text()[-2000:]
                time.sleep(0.05)  # until it answers; the answer is what counts
        yield server
    finally:
        process.terminate()
        process.wait(10)


def shipped(folder: Path, port: int) -> AbstractContextManager[Prometheus]:
    """The shipped configuration and rules, but for times and the target, a coordinator's pages on this machine."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    return running(folder / "prometheus", yaml.safe_dump(config))
