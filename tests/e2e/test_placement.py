"""A real fleet with one node slowed four times: the plan by measurement against the naive one, in measured step time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from fogctl.client import Client
from fogctl.fleet.broker import find_mosquitto
from fogctl.fleet.local_fleet import CLOUD_NODE, LocalFleet
from support.broker import needs

MODEL: dict[str, Any] = {"name": "cnn", "channels": [16, 64]}
"""So much work behind the first block that computing counts, not the machine's mood."""


class SlowCloud(LocalFleet):
    """Its cloud node may compute a quarter of the time."""

    def start_agent(self, node: str) -> None:
        self._options = {"duty": 0.25} if node == CLOUD_NODE else {}
        super().start_agent(node)


def trained(client: Client, name: str, method: dict[str, Any], placement: dict[str, Any] | None) -> dict[str, Any]:
    spec = {"name": name, "model": MODEL, "data": {"name": "digits"}, "train": {"rounds": 4, "batch_size": 64, "lr": 0.05}}
    client.request(
        "job.submit", spec={**spec, "method": {"name": "fcddt", "round_steps": 10, **method}, "placement": placement, "evaluation": {"where": "none"}}
    )
    end = time.monotonic() + 90
    while (status := client.request("job.status", job=name))["state"] not in {"finished", "failed"}:
        assert time.monotonic() < end, (status["line"], status["problems"])
    assert status["state"] == "finished", status["why"]
    return dict(status["plan"])


@pytest.mark.slow  # it compares times: with the other long ones, not where a busy machine must not matter
def test_the_chosen_plan_beats_the_naive_one_on_a_fleet_with_a_slow_cloud(tmp_path: Path):
    needs("mosquitto", find_mosquitto())
    with SlowCloud(tmp_path, 3, broker="mosquitto") as fleet, fleet.client() as client:
        fleet.wait_for_nodes(client, 4)
        naive = trained(client, "naive", {"cut": 1}, None)
        speeds = {node["node"]: client.request("node.show", node=node["node"])["profile"] for node in client.request("node.list")["nodes"]}
        assert all(profile["flops"] and profile["op_s"] and profile["bandwidth_bytes_s"] for profile in speeds.values()), "everything is measured now"
        chosen = trained(client, "chosen", {"cut": "auto"}, {"objective": "latency"})
        again = trained(client, "naive-again", {"cut": 1}, None), trained(client, "chosen-again", {"cut": "auto"}, {"objective": "latency"})
    assert naive["predicted"]["places"] == {"trunk": CLOUD_NODE}
    assert chosen["predicted"]["places"]["trunk"] != CLOUD_NODE
    assert chosen["predicted"]["guessed"] == []
    fastest = [min(plan["measured"]["step_s"] for plan in plans) for plans in ((naive, again[0]), (chosen, again[1]))]  # of two, in turn
    assert fastest[1] < fastest[0]
