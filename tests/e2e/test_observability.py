"""A fleet of real processes as operators see it: its metrics while it trains, its budgets, the screen of fogctl top."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.conftest import Fleet
from fog_common.telemetry.metrics import METRICS
from fogctl.app import run
from fogctl.client import Client
from fogctl.fleet.broker import find_mosquitto
from fogctl.result import fetch
from support.broker import needs
from support.prometheus import promtool

NOT_HERE = {
    "fog_node_temperature_celsius": "needs a sensor",
    "fog_node_battery_ratio": "needs a battery",
    "fog_job_consensus_error": "fedavg has no averaging among neighbours",
    "fog_coordinator_rejected_messages_total": "nobody says nonsense",
}


def scraped(fleet: Fleet) -> tuple[str, dict[str, dict[tuple[str, ...], float]]]:
    with urllib.request.urlopen(fleet.metrics_url, timeout=20) as answer:
        text = answer.read().decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return text, found


def test_a_running_fleet_shows_every_metric_of_the_list(tmp_path: Path):
    needs("mosquitto", find_mosquitto())
    energy = {"reader": "model", "gco2_per_kwh": 380}
    with Fleet(tmp_path, 3, broker="mosquitto", backend="standin", agent_options={"energy": energy}) as fleet, fleet.client() as client:
        fleet.wait_for_nodes(client, 4)
        job = fleet.submit(client, train={"rounds": 100_000}, budgets={"time_s": 3600, "joules": 1e9})
        fleet.in_round(client, job, 20)
        wanted = {metric.name for metric in METRICS} - NOT_HERE.keys()
        missing: set[str] = wanted
        seen: dict[str, dict[tuple[str, ...], float]] = {}
        for _ in range(200):  # reports come every two seconds; each look waits for an answer of the coordinator
            text, seen = scraped(fleet)
            shown = {name.removesuffix("_bucket") for name in seen}
            missing = wanted - shown
            if not missing:
                break
            client.request("job.status", job=job)
            client.pump(_soon())
        assert not missing
        checked = promtool("check", "metrics", stdin=text.encode())
        assert (checked.returncode, checked.stderr) == (0, b"")
        assert seen["fog_nodes"]["online",] == 4 and seen["fog_broker_up"][()] == 1
        assert all(value > 0 for value in seen["fog_node_energy_joules_total"].values())
        assert {labels[2] for labels in seen["fog_node_energy_joules_total"]} == {"modelled"}
        client.request("job.cancel", job=job)


def _soon() -> float:
    import time

    return time.monotonic() + 0.2


def test_a_budget_ends_the_job_with_the_model_so_far(fleet: Fleet, client: Client, tmp_path: Path):
    job = fleet.submit(client, train={"rounds": 100_000}, budgets={"bytes": 300_000})
    status = fleet.finished(client, job)
    assert 0 < status["round"] < 100_000
    assert status["why"].startswith("stopped, it used ") and "of 300,000 B of its bytes budget" in status["why"]
    assert [use["ratio"] >= 1.0 for use in status["budgets"]] == [True]
    with fleet.client() as other:
        written = fetch(other, job, tmp_path / "result")
    assert written["weights_bytes"] > 0 and written["digest"] == status["digest"] != ""
    again = fleet.finished(client, fleet.submit(client, name="again"))  # the nodes are free
    assert again["round"] == 20


def test_a_budget_that_is_used_up_at_once_ends_the_job_and_says_so(fleet: Fleet, client: Client):
    job = fleet.submit(client, train={"rounds": 100_000}, budgets={"bytes": 1})
    status = fleet.until(client, job, lambda status: status["state"] in ("finished", "failed"), "end")
    assert "of 1 B of its bytes budget" in status["why"]


def test_a_fleet_whose_metrics_are_off_measures_nothing_and_trains(tmp_path: Path):
    with Fleet(tmp_path, 1, backend="standin", metrics=False, agent_options={"metrics": False}) as fleet, fleet.client() as client:
        fleet.wait_for_nodes(client, 2)
        job = fleet.submit(client, train={"rounds": 100_000})
        fleet.in_round(client, job, 5)
        said = client.request("node.show", node="agent-1")
        (worker,) = said["workers"]
        assert (said["counters"], said["energy_j"]) == ({}, {}) and said["gauges"].keys() <= {"rtt_seconds"}
        assert worker["counters"] == {} and worker["gauges"].keys() <= {"flops_per_second", "op_overhead_seconds"}
        assert client.request("job.status", job=job)["bytes"]["total"] > 0


def test_top_shows_the_fleet(fleet: Fleet, client: Client, capsys: pytest.CaptureFixture[str]):
    job = fleet.submit(client, train={"rounds": 100_000})
    fleet.in_round(client, job, 5)
    at = f"127.0.0.1:{fleet.broker_config.port}"
    assert run(["top", "--once", "--broker", at, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)["data"]
    assert [node["node"] for node in body["nodes"]] == ["agent-1", "agent-2", "agent-3", "cloud-1"]
    assert all(node["power_watts"] > 0 and node["jobs"] == ["toy"] for node in body["nodes"])
    assert [each["job"] for each in body["jobs"]] == ["toy"] and body["rates"]["up"] is not None
    assert run(["top", "--broker", at]) == 0  # no terminal: once
    shown = capsys.readouterr().out
    assert "4 of 4 nodes online   1 jobs running" in shown and "toy" in shown
    client.request("job.cancel", job=job)


@pytest.mark.slow
def test_our_bytes_are_those_of_the_broker():
    from bench.observability import byte_counters

    needs("mosquitto", find_mosquitto())
    assert byte_counters()["value"] <= 0.02
