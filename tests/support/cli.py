"""Commands of fogctl in this process, and their envelopes."""

from __future__ import annotations

import json
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
