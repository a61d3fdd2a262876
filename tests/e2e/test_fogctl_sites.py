"""fogctl starts fleets with sites itself: the demo, and the live part of an experiment. Real brokers, agents, torch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from fog_sim.experiments import fog_vs_fl
from fogctl import app as fogctl
from fogctl.fleet.broker import find_mosquitto
from support.broker import needs

PLANES = {"d2d", "to", "cast", "node", "ctl"}


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The data of a command with --json that must work."""
    needs("mosquitto", find_mosquitto())
    code = fogctl.run([*arguments, "--json"])
    envelope = json.loads(capsys.readouterr().out)
    assert code == 0, envelope
    data: dict[str, Any] = envelope["data"]
    return data


def test_the_demo_with_sites_counts_bytes_by_plane_and_broker(capsys: pytest.CaptureFixture[str]) -> None:
    data = command(capsys, "demo", "--agents", "4", "--sites", "2")
    assert data["accuracy"] > 0.8
    passed = data["broker_bytes"]
    assert set(passed) == {"cloud", "site-1", "site-2"}
    assert all(set(planes) == PLANES for planes in passed.values())
    model = 4 * (64 * 65 + 65 * 10)
    assert all(passed[site]["d2d"] > data["rounds"] * model for site in ("site-1", "site-2"))  # they average among themselves each round
    assert passed["cloud"]["to"] > data["rounds"] * 2 * model  # one result of each site goes up
    assert data["stray_bytes"] == 0  # no site's own traffic at the cloud's broker, or at another site's


def test_an_experiment_has_a_small_live_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(fog_vs_fl.LIVE, size=2, rounds=3, local_steps=2, target=0.1)
    monkeypatch.setattr(fog_vs_fl, "cases", lambda settings: [tiny])
    monkeypatch.setattr(fog_vs_fl, "LIVE", replace(fog_vs_fl.LIVE, rounds=6))
    data = command(capsys, "paper", "run", "fog-vs-fl", "--quick", "--live")
    live = {row["column"]: row for row in data["rows"] if row["row"].startswith("live")}
    assert live["uplink_saved"]["ours"] > 0.3  # two results up and two weights down in the place of six updates and a cast
    assert live["uplink_saved"]["live"]
    assert live["fog d2d"]["ours"] > live["fedavg d2d"]["ours"]
    assert abs(live["accuracy_gap"]["ours"]) < 0.02  # one turn on a full graph is the exact mean
    assert [finding for finding in data["findings"] if finding.startswith("holds: live: no byte")]
    assert fogctl.run(["paper", "run", "fcddt-table4", "--live", "--json"]) == 2
