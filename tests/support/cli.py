"""Commands of fogctl, in this process or one of their own, and their envelopes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from fogctl import app as fogctl

JOB = "name: digits\nmethod: {name: fedavg}\nmodel: {name: mlp}\n"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process."""
    code = fogctl.run(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def error_of(text: str) -> dict[str, Any]:
    envelope = json.loads(text)
    assert envelope["schema_version"] == 1
    assert envelope["status"] == "error"
    return dict(envelope["error"])


def data_of(text: str) -> dict[str, Any]:
    envelope = json.loads(text)
    assert set(envelope) == {"schema_version", "status", "data"}
    assert (envelope["schema_version"], envelope["status"]) == (1, "ok")
    return dict(envelope["data"])


def shown_by_fogctl(port: int, *words: str) -> str:
    """What a command in a process of its own prints. port: of the broker."""
    command = [sys.executable, "-c", "from fogctl.app import main; raise SystemExit(main())", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "FOGLEARN_BROKER": f"127.0.0.1:{port}"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
