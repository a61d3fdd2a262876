"""The dashboards of a real fleet: a real Prometheus, with the shipped configuration and rules, scrapes a demo that learns."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import Fleet
from fog_common.bus.base import Connected
from fog_common.bus.mqtt import MqttBus
from fog_common.config import read
from fog_common.telemetry.metrics import METRICS
from fog_common.wire import topics
from fogctl.fleet.broker import find_mosquitto
from fogctl.verbs.demo import DIGITS
from support.broker import Inbox, needs
from support.panels import DEPLOY, Asked, metric_names, queries
from support.prometheus import Prometheus, shipped

pytest.importorskip("torch")

SENSORS = {"fog_node_temperature_celsius", "fog_node_battery_ratio"}
"""Which a machine may lack."""
GOSSIP = {"method": {"name": "gossip", "local_steps": 2, "consensus": {"graph": "ring", "turns": 1}}, "evaluation": {"every": 2}}
BUDGETS = {"time_s": 3600, "bytes": 10**12, "joules": 1e9, "node_cpu_s": 1e6, "node_bytes": 10**12, "node_joules": 1e9}


def job(name: str, **changes: Any) -> dict[str, Any]:
    spec = {**read(DIGITS).root, "name": name, "budgets": BUDGETS, **changes}
    return {**spec, "train": {**spec["train"], "rounds": 100_000}}


def say_nonsense(fleet: Fleet) -> None:
    inbox = Inbox()
    stranger = MqttBus(fleet.broker_config, "stranger", inbox)
    stranger.start()
    inbox.next(Connected)
    for _ in range(3):
        stranger.publish(topics.to_coordinator("main", "stranger"), b"nonsense", qos=1)
    stranger.close()


def without_data(server: Prometheus, wanted: list[Asked], patience_s: float) -> list[Asked]:
    """What still has none when the time is up."""
    until = time.monotonic() + patience_s
    while True:
        wanted = [asked for asked in wanted if not server.query(asked.expression)]
        if not wanted or time.monotonic() >= until:
            return wanted
        time.sleep(0.5)  # the next scrape; what is there then is asked, not assumed


def test_every_panel_has_data_of_a_fleet_that_learns(tmp_path: Path):
    needs("mosquitto", find_mosquitto())
    options = {"energy": {"reader": "model", "gco2_per_kwh": 380}}
    with (
        Fleet(tmp_path, 3, broker="mosquitto", backend="torch", agent_options=options) as fleet,
        fleet.client() as client,
        shipped(tmp_path, fleet.metrics_port) as server,
    ):
        fleet.wait_for_nodes(client, 4)
        say_nonsense(fleet)
        asked = [one for one in queries() if not metric_names(one.expression) & SENSORS]
        first = client.request("job.submit", spec=job("digits"))["job"]
        fleet.in_round(client, first, 3)
        left = without_data(server, asked, 25.0)
        seen = {series["metric"]["__name__"] for series in server.query('{__name__=~"fog_.*"}')}
        client.request("job.cancel", job=first)
        second = client.request("job.submit", spec=job("ring", **GOSSIP))["job"]
        fleet.in_round(client, second, 3)
        assert not without_data(server, left, 25.0)
        server.until("fog_job_consensus_error")
        seen |= {series["metric"]["__name__"] for series in server.query('{__name__=~"fog_.*"}')}
        names = {name.removesuffix("_bucket") for name in seen}
        assert not {metric.name for metric in METRICS} - names - SENSORS
        for group in yaml.safe_load((DEPLOY / "prometheus" / "recording.yml").read_text())["groups"]:
            for rule in group["rules"]:
                server.until(rule["record"])
        planes = {series["metric"]["plane"] for series in server.query('fog_job_bytes_total{job="ring"} > 0')}
        assert "d2d" in planes
        firing = {series["metric"]["alertname"] for series in server.query('ALERTS{alertstate="firing"}')}
        assert not firing & {"FogCoordinatorGone", "FogBrokerUnreachable", "FogNodeGone", "FogBatteryLow", "FogJobStalled"}
        client.request("job.cancel", job=second)


def test_only_sensors_are_left_out():
    out = [one for one in queries() if metric_names(one.expression) & SENSORS]
    assert {name for one in out for name in metric_names(one.expression)} == SENSORS
