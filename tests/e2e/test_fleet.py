"""What a user trusts: real processes are killed, frozen and restarted; the job goes on and counts every update once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from e2e.conftest import PATIENCE_S, Fleet
from fog_common.errors import FogError
from fogctl.client import Client
from fogctl.fleet.broker import find_mosquitto
from fogctl.fleet.local_fleet import CLOUD_NODE
from support.broker import needs

LONG = {"train": {"rounds": 150}}
ENDLESS = {"train": {"rounds": 1_000_000}}
"""For what takes its time: the job is there whenever it comes, and is cancelled then."""
PATIENT = {"stragglers": {"deadline_s": 600.0}}
"""A round waits for all of its updates, so that the result does not depend on how fast this machine is."""


def digest_of(fleet: Fleet, client: Client, **job: object) -> str:
    return str(fleet.finished(client, fleet.submit(client, **job))["digest"])


def rounds(status: dict[str, object]) -> list[int]:
    history = status["history"]
    assert isinstance(history, list)
    return [record["round"] for record in history]


def disturbed(client: Client, job: str) -> None:
    """What was done to the job came before its end, or the test shows nothing."""
    status = client.request("job.status", job=job)
    assert status["state"] == "running", status["line"]


def test_a_job_runs_and_says_what_it_cost(fleet: Fleet, client: Client):
    status = fleet.finished(client, fleet.submit(client))
    assert rounds(status) == list(range(1, 21))
    assert all(record["updates"] == 3 for record in status["history"])
    assert status["bytes"]["up"] > 0
    assert status["bytes"]["ideal"] > 0
    assert status["metrics"]["accuracy"] > 0


def test_a_worker_killed_in_a_round_costs_time_and_nothing_else(fleet: Fleet, client: Client):
    undisturbed = digest_of(fleet, client, **LONG)
    job = fleet.submit(client, **PATIENT, **LONG)
    fleet.in_round(client, job, 5)
    killed = fleet.workers_of(CLOUD_NODE)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    disturbed(client, job)
    status = fleet.finished(client, job)
    assert rounds(status) == list(range(1, 151))
    assert status["digest"] == undisturbed


def test_the_coordinator_and_the_broker_die_and_come_back(fleet: Fleet, client: Client):
    undisturbed = digest_of(fleet, client, **LONG)
    job = fleet.submit(client, **PATIENT, **LONG)
    fleet.in_round(client, job, 3)
    fleet.kill("coordinator")
    fleet.restart_broker()
    fleet.start_coordinator()
    status = fleet.finished(client, job, 2 * PATIENCE_S)
    assert status["digest"] == undisturbed
    assert rounds(status) == list(range(1, 151))
    assert all(record["updates"] == 3 for record in status["history"])


def test_an_agent_killed_leaves_no_worker_and_comes_back(fleet: Fleet, client: Client):
    job = fleet.submit(client, **ENDLESS)
    fleet.in_round(client, job, 3)
    workers = [psutil.Process(pid) for pid in fleet.workers_of("agent-2")]
    assert workers
    fleet.kill("agent-2")
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert len(gone) == len(workers)
    fleet.start_agent("agent-2")
    fleet.until(client, job, lambda status: any(task["node"] == "agent-2" and task["live"] for task in status["tasks"]), "agent-2 back")
    again = fleet.whole_round(client, job, 3)
    status = fleet.cancel(client, job)
    assert rounds(status) == list(range(1, len(status["history"]) + 1))
    assert again in status["history"]


def test_a_frozen_agent_is_gone_and_takes_part_again(fleet: Fleet, client: Client):
    job = fleet.submit(client, **ENDLESS)
    fleet.in_round(client, job, 3)
    frozen = [psutil.Process(fleet.processes["agent-3"].pid), *map(psutil.Process, fleet.workers_of("agent-3"))]
    assert len(frozen) > 1
    for process in frozen:
        process.suspend()
    fleet.until(client, job, lambda status: any("agent-3" in wait["who"] for wait in status["waits"]), "a wait for agent-3")
    for process in frozen:
        process.resume()
    fleet.whole_round(client, job, 3)
    status = fleet.cancel(client, job)
    assert rounds(status) == list(range(1, len(status["history"]) + 1))


def test_the_servers_node_is_drained_and_no_round_is_lost(fleet: Fleet, client: Client):
    undisturbed = digest_of(fleet, client, **LONG)
    job = fleet.submit(client, **PATIENT, **LONG)
    fleet.in_round(client, job, 5)
    client.request("node.drain", node=CLOUD_NODE)
    disturbed(client, job)
    fleet.until(client, job, lambda status: any(task["role"] == "server" and task["node"] != CLOUD_NODE for task in status["tasks"]), "a new place")
    status = fleet.finished(client, job)
    assert status["digest"] == undisturbed
    assert all(record["updates"] == 3 for record in status["history"])


def test_sigterm_on_the_servers_agent_moves_its_tasks_in_order(fleet: Fleet, client: Client):
    undisturbed = digest_of(fleet, client, **LONG)
    job = fleet.submit(client, **LONG)
    fleet.in_round(client, job, 5)
    fleet.kill(CLOUD_NODE, signal.SIGTERM, wait_s=30.0)
    assert "released" in fleet.log(CLOUD_NODE)
    status = fleet.finished(client, job)
    assert status["digest"] == undisturbed
    assert rounds(status) == list(range(1, 151))
    assert all(record["updates"] == 3 for record in status["history"])
    texts = [event["text"] for event in client.request("job.logs", job=job)["events"]]
    assert any(text.startswith(f"server moves from {CLOUD_NODE} to") and "drains" in text for text in texts)


def test_a_late_agent_waits_for_its_place(fleet: Fleet, client: Client):
    job = fleet.submit(client, nodes={"select": {"names": ["agent-1", "agent-9"]}})
    fleet.until(client, job, lambda status: any("agent-9" in wait["who"] for wait in status["waits"]), "a wait for agent-9")
    fleet.start_agent("agent-9")
    assert all(record["updates"] == 2 for record in fleet.finished(client, job)["history"])


def test_a_node_that_was_not_rostered_takes_part_after_a_rostered_one_is_gone_for_good(tmp_path: Path):
    needs("mosquitto", find_mosquitto())
    options = {"orphan_after_s": 3.0}
    with Fleet(tmp_path, 3, broker="mosquitto", backend="standin", coordinator_options=options) as fleet, fleet.client() as client:
        fleet.wait_for_nodes(client, 4)
        job = fleet.submit(client, train={"rounds": 100_000})
        fleet.in_round(client, job, 3)
        fleet.start_agent("agent-9")
        fleet.until(client, job, lambda status: status["watching"] == ["agent-9"], "watcher")
        fleet.kill("agent-2")
        status = fleet.until(client, job, lambda status: any(task["node"] == "agent-9" and task["live"] for task in status["tasks"]), "agent-9 live")
        before = status["round"]
        three = fleet.until(client, job, lambda status: any(entry["updates"] == 3 for entry in status["history"]), "three updates", after=before)
        first = next(entry["round"] for entry in three["history"] if entry["updates"] == 3)
        later = fleet.until(client, job, lambda status: len(status["history"]) >= 3, "three more rounds", after=first)
        assert [entry["updates"] for entry in later["history"][:3]] == [3, 3, 3]
        client.request("job.cancel", job=job)


@pytest.mark.parametrize("spec", [{"train": {"rounds": -1}}, {"method": {"name": "magic"}}, {"name": "No Good"}, {"seed": "x"}, {"nonsense": 1}])
def test_bad_jobs_are_refused_and_leave_nothing(fleet: Fleet, client: Client, spec: dict[str, object]):
    with pytest.raises(FogError) as refused:
        fleet.submit(client, **spec)
    assert refused.value.exit_code == 2
    assert client.request("job.list")["jobs"] == []
