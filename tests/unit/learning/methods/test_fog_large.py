"""fog at 500 simulated nodes and 4 layers, with real torch, takes minutes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from fogctl.app import run as fogctl

SHAPE = "groups: [{tier: thing, sites: 45, per_site: 10}, {tier: edge, sites: 45}, {tier: fog, sites: [hub-1, hub-2, hub-3, hub-4, hub-5]}]\n"
JOB = """
name: large
method: {name: fog, mode: d2d, local_steps: 2, consensus: {graph: ring, turns: 2}}
model: {name: mlp, hidden: [16]}
data: {name: digits}
train: {rounds: 3, batch_size: 16, lr: 0.1}
nodes: {select: {tier: [thing]}}
topology: {layers: [{on: edge, size: 10}, {on: fog, size: 9}]}
evaluation: {every: 3}
seed: 1
"""


@pytest.mark.slow
def test_500_nodes_in_4_layers_take_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "fleet.yaml").write_text(SHAPE)
    (tmp_path / "job.yaml").write_text(JOB)
    began = time.process_time()
    code = fogctl(["sim", str(tmp_path / "job.yaml"), "--topology", str(tmp_path / "fleet.yaml"), "--links", "fog", "--json"])
    took_s = time.process_time() - began
    data = json.loads(capsys.readouterr().out)["data"]
    assert code == 0
    assert data["rounds"] == 3
    assert data["nodes"] == 500
    assert data["bytes"]["d2d"] > data["bytes"]["up"] > 0
    assert took_s < 300
