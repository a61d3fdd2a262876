"""Sites with a broker of their own, bridged to the cloud's: real brokers, agents, workers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.conftest import Fleet
from fogctl.client import Client
from fogctl.fleet import mosquitto
from fogctl.fleet.broker import find_mosquitto
from fogctl.fleet.proxy import Proxy, ProxyLink
from support.broker import needs

DEPLOY = Path(__file__).parents[2] / "deploy" / "mosquitto"
SITE_1 = {"select": {"site": ["site-1"]}}


class Sites:
    """Two sites of two agents each; the bridge of a site goes through a proxy that can be cut."""

    def __init__(self, folder: Path, proxy: Proxy, backend: str) -> None:
        self.proxy = proxy
        self.fleet = Fleet(folder, 4, backend=backend, sites=2, bridge_port=self._bridge, agent_options={"heartbeat_s": 1.0}, log_level="INFO")

    def _bridge(self, site: str, port: int) -> int:
        return self.proxy.link(site, "127.0.0.1", port).port

    def link(self, site: str) -> ProxyLink:
        return self.proxy.links[site]

    def until(self, good: Callable[[], bool], what: str, patience_s: float = 60.0) -> None:
        end = time.monotonic() + patience_s
        while not good():
            assert time.monotonic() < end, f"no {what} within {patience_s:g} s"
            time.sleep(0.02)


@pytest.fixture
def sites(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sites]:
    needs("mosquitto", find_mosquitto())
    with Proxy() as proxy:
        running = Sites(tmp_path, proxy, getattr(request, "param", "standin"))
        with running.fleet:
            yield running


@pytest.fixture
def client(sites: Sites) -> Iterator[Client]:
    with sites.fleet.client() as connected:
        sites.fleet.wait_for_nodes(connected, 5)
        yield connected


def test_the_demos_bridge_is_that_of_the_template():
    def topics(text: str) -> list[str]:
        return sorted(re.findall(r"^topic .*$", text, re.MULTILINE))

    assert topics(mosquitto.bridge("hall-2", "x:1883")) == topics((DEPLOY / "site.conf").read_text().replace("SITE", "hall-2"))


def test_a_job_over_two_sites_keeps_their_own_traffic_inside(sites: Sites, client: Client):
    job = sites.fleet.submit(client, method={"name": "fog", "mode": "vertical"})
    status = sites.fleet.finished(client, job)
    heads = {task["node"] for task in status["tasks"] if task["role"] == "aggregator"}
    assert {sites.fleet.site_of(node) for node in heads} == {"site-1", "site-2"}
    assert all(record["slots"] == 4 for record in status["history"])
    taps = sites.fleet.taps
    assert {name: tap.strays for name, tap in taps.items()} == {"cloud": 0, "site-1": 0, "site-2": 0}
    assert all(taps[site].bytes["d2d"] > 0 for site in ("site-1", "site-2"))
    assert taps["cloud"].bytes["to"] > 0


@pytest.mark.parametrize("sites", ["torch"], indirect=True)
def test_a_site_gossips_on_while_its_bridge_is_down_and_catches_up(sites: Sites, client: Client):
    rounds = 150
    job = sites.fleet.submit(client, method={"name": "gossip"}, train={"rounds": rounds}, nodes=SITE_1, evaluation={"every": 50})
    sites.fleet.in_round(client, job, 5)
    tap = sites.fleet.taps["site-1"]
    sites.link("site-1").cut()
    before = client.request("job.status", job=job)["round"]
    frames = tap.frames["d2d"]
    sites.until(lambda: tap.frames["d2d"] > frames + 80, "gossip without the bridge")
    seen = client.request("job.status", job=job)["round"]
    assert seen <= before + 5, "the bridge was not down"
    sites.link("site-1").heal()
    status = sites.fleet.finished(client, job)
    assert [record["round"] for record in status["history"]] == list(range(1, rounds + 1))
    assert all(record["updates"] == 2 for record in status["history"])
    assert sum(tap.strays for tap in sites.fleet.taps.values()) == 0


def test_a_fog_job_waits_for_the_site_that_is_cut_off_and_goes_on_with_it(sites: Sites, client: Client):
    job = sites.fleet.submit(client, method={"name": "fog", "mode": "vertical"}, train={"rounds": 60})
    sites.fleet.in_round(client, job, 5)
    sites.link("site-2").cut()
    stuck = client.request("job.status", job=job)["round"]
    sites.fleet.until(client, job, lambda status: bool(status["waits"]) and status["round"] <= stuck + 2, "a wait")
    sites.link("site-2").heal()
    status = sites.fleet.finished(client, job)
    assert [record["round"] for record in status["history"]] == list(range(1, 61))
    assert all(record["slots"] == 4 for record in status["history"])


@pytest.mark.parametrize(("sites", "mode"), [("standin", "vertical"), ("torch", "d2d")], indirect=["sites"])
def test_the_head_of_a_site_is_killed_and_its_neighbour_heads_the_site(sites: Sites, client: Client, mode: str):
    fleet = sites.fleet
    job = fleet.submit(client, method={"name": "fog", "mode": mode}, train={"rounds": 60})
    status = fleet.in_round(client, job, 5)
    task, node = next((task["task"], task["node"]) for task in status["tasks"] if task["role"] == "aggregator" and task["site"] == "site-1")
    fleet.kill(node)
    other = ({"agent-1", "agent-3"} - {node}).pop()
    fleet.until(
        client, job, lambda status: any(each["task"] == task and each["node"] == other and each["live"] for each in status["tasks"]), "a new head"
    )
    fleet.start_agent(node)
    status = fleet.finished(client, job)
    assert [record["round"] for record in status["history"]] == list(range(1, 61))
    assert all(3 <= record["slots"] <= 4 for record in status["history"])  # the killed node's own data, and no more, may miss rounds
    assert status["history"][-1]["slots"] == 4
    whole = status["history"][-1]["examples"]
    assert all(record["examples"] == whole for record in status["history"] if record["slots"] == 4)  # nothing counts twice


def test_a_node_that_drains_hands_its_slot_to_its_neighbour_with_consent(sites: Sites, client: Client):
    fleet = sites.fleet
    job = fleet.submit(client, method={"name": "fog", "mode": "vertical"}, train={"rounds": 60}, privacy={"share_samples": True})
    fleet.in_round(client, job, 5)
    client.request("node.drain", node="agent-1")
    status = fleet.finished(client, job)
    places = {task["task"]: task["node"] for task in status["tasks"]}
    assert places["trainer-0"] == places["trainer-2"] == "agent-3"
    assert all(record["slots"] == 4 for record in status["history"])
