"""More than is comfortable: a whole fleet that comes back at once."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from fog_common.bus.broker import Broker, find_mosquitto
from fog_common.errors import Unreachable
from fogctl.client import Client
from fogctl.local_fleet import LocalFleet
from support.broker import needs
from support.crowd import Crowd

SIZE = 200


def online(client: Client) -> int:
    try:
        return sum(node["state"] == "online" for node in client.request("node.list")["nodes"])
    except Unreachable:  # it comes back as they do
        return 0


def test_two_hundred_agents_come_back_after_a_broker_restart_and_not_in_step(tmp_path: Path):
    needs("mosquitto", find_mosquitto())
    with (
        LocalFleet(tmp_path, 0, broker="mosquitto", backend="standin", start_agents=False) as fleet,
        fleet.client(timeout_s=2.0) as client,
        Crowd(fleet.broker_config, fleet.fleet, SIZE) as crowd,
    ):
        crowd.run(lambda: online(client) == SIZE, 60.0)
        assert fleet.broker is not None
        port = fleet.broker.port
        for member in crowd.members:
            member.announced.clear()
        fleet.broker.kill()
        fleet.broker.stop()
        fleet.broker = Broker.start("mosquitto", port=port, log=tmp_path / "broker.log")
        began = time.monotonic()
        crowd.run(lambda: all(member.announced for member in crowd.members) and online(client) == SIZE, 60.0)
        took_s = time.monotonic() - began
        known = {node["node"] for node in client.request("node.list")["nodes"]}
    assert known == {member.node for member in crowd.members}
    first = [member.announced[0] - began for member in crowd.members]
    assert took_s < 30
    busiest = max(Counter(int(at / 0.25) for at in first).values())
    assert busiest < SIZE / 3, f"{busiest} of {SIZE} announced within a quarter of a second"
    assert max(first) - min(first) > 1.0
