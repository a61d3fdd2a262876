"""The simulator: the real cores and hosts in virtual time."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_common.runtime.saves import Record
from fog_sim.campaign import chaos
from fog_sim.costs import standin_backend
from fog_sim.disk import JobDisk
from fog_sim.faults import Fault, Schedule, random_schedule
from fog_sim.links import Fleet, LinkModel, NodeModel
from fog_sim.shape import NodePlace
from fog_sim.world import Simulation
from support.few import few

JOB = {**chaos.JOB, "train": {"rounds": 4}}


def simulated(seed: int = 1, faults: tuple[Fault, ...] = ()) -> tuple[str, str]:
    """(the whole event log, its digest)"""
    log = io.StringIO()
    world = Simulation(3, chaos.SLOW, standin_backend, seed=seed, trace=log)
    name = world.submit(JOB)
    world.inject(Schedule(list(faults)))
    assert world.run(name, 300.0)["state"] == "finished"
    return log.getvalue(), world.digest.hexdigest()


def test_the_same_seed_gives_the_same_log():
    faults = (Fault(2.0, "power_loss", "node-1", 5.0), Fault(3.0, "restart_broker", "", 2.0))
    assert simulated(seed=3, faults=faults) == simulated(seed=3, faults=faults)
    assert simulated(seed=3, faults=faults) != simulated(seed=4, faults=faults)


@pytest.mark.thorough
def test_the_log_does_not_depend_on_the_hash_seed():
    script = "from fog_sim.campaign.chaos import play; from fog_sim.faults import Fault, Schedule; print(play(5, Schedule([Fault(2.0, 'power_loss', 'node-2', 4.0)])))"
    said = {
        subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_faults_count_every_update_once_and_never_hang(first: int):
    bad = {outcome.seed: outcome.violations for outcome in chaos.campaign(first, 50) if outcome.violations}
    assert not bad


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [61111, 63807, 62105, 70783])
def test_what_long_campaigns_found_does_not_come_back(seed: int):
    """The first two: what a node that woke had sent once was refused, and its bytes were gone when it could leave again. The third: an update
    for a server that was lost came before its round was open again. The last: a slow copy of a call took the place of a newer one."""
    assert [outcome.violations for outcome in chaos.campaign(seed, 1)] == [()]


@pytest.mark.parametrize("kind", few(["kill_worker", "power_loss", "kill_agent", "freeze", "cut", "disk_full"], 2))
@pytest.mark.parametrize("at", few([0.5, 3.2, 6.9], 1))
def test_a_single_fault_of_the_servers_node_costs_time_and_nothing_else(kind: str, at: float):
    _, reference = chaos.play(0, Schedule())
    outcome, weights = chaos.play(0, Schedule([Fault(at, kind, "cloud-1", 6.0)]), reference=reference)  # type: ignore[arg-type]
    assert not outcome.violations
    assert outcome.whole
    assert weights == reference


def test_a_drained_server_leaves_the_history_as_it_was():
    undisturbed, drained = (chaos.play(0, Schedule(list(faults))) for faults in ((), (Fault(4.0, "drain", "cloud-1", 60.0),)))
    assert drained[1] == undisturbed[1]
    assert drained[0].whole


@pytest.mark.parametrize("kind", ["drain", "stop"])
def test_a_node_with_data_that_drains_finishes_its_round(kind: str):
    world = Simulation(3, replace(QUICK, node=replace(QUICK.node, op_overhead_s=6.0)), standin_backend, seed=1)
    name = world.submit({**chaos.JOB, "train": {"rounds": 6}})
    while world.status(name)["round"] < 2:
        world.kernel.run(world.kernel.now + 0.05)
    world.kernel.run(world.kernel.now + 1.0)  # the training of round 2 is under way
    world.inject(Schedule([Fault(0.0, kind, "node-2", 600.0)]))  # type: ignore[arg-type]
    status = world.run(name, 300.0)
    assert status["state"] == "finished"
    updates = [record["updates"] for record in status["history"]]
    assert updates[:2] == [3, 3], "what it was training when it was told to go is lost"
    assert updates[2:] == [2, 2, 2, 2]


def test_a_schedule_is_a_function_of_its_seed():
    nodes = ["node-1", "node-2"]
    assert random_schedule(3, nodes, horizon_s=9.0, faults=4) == random_schedule(3, nodes, horizon_s=9.0, faults=4)
    assert random_schedule(3, nodes, horizon_s=9.0, faults=4) != random_schedule(4, nodes, horizon_s=9.0, faults=4)


QUICK = Fleet(
    link=LinkModel(up_bytes_s=1e8, down_bytes_s=1e8, latency_s=0.01),
    cloud_link=LinkModel(up_bytes_s=1e8, down_bytes_s=1e8, latency_s=0.01),
    node=NodeModel(save_s=0.002, op_overhead_s=1e-4, flops=1e12),
    cloud=NodeModel(save_s=0.008, op_overhead_s=1e-4, flops=1e12),
)
"""A round takes about as long as two messages one after another."""


def test_spools_and_disks_stay_small_when_rounds_are_faster_than_the_copies_of_their_saves():
    world = Simulation(3, QUICK, standin_backend, seed=1)
    name = world.submit({**chaos.JOB, "train": {"rounds": 80}})
    kept, behind = 0, 0
    while (status := world.status(name))["state"] != "finished":
        world.kernel.run(world.kernel.now + 0.05)
        hosts = [worker.core.host for node in world.nodes.values() for worker in node.workers.values() if worker.core.host]
        kept = max([kept, *(host.kept_bytes for host in hosts)])
        behind = max([behind, *(status["round"] - host.root_saved for host in hosts if host.root_saved >= 0)])
        assert world.kernel.now < 60
    assert behind <= 8
    assert kept <= 8 * 2100, "more than a few updates in a spool"


@pytest.mark.parametrize("at", few([0.3 + 0.011 * step for step in range(8)], 2))
def test_a_drained_server_closes_no_round_twice(at: float, monkeypatch: pytest.MonkeyPatch):
    closed: list[tuple[int, bytes]] = []
    write = JobDisk.write

    def note(self: JobDisk, record: Record, replica: bool, content: Any) -> None:
        if record.task == "server" and not replica and (record.label, record.machine) not in closed:
            closed.append((record.label, record.machine))
        write(self, record, replica, content)

    monkeypatch.setattr(JobDisk, "write", note)
    world = Simulation(3, QUICK, standin_backend, seed=1)
    name = world.submit({**chaos.JOB, "train": {"rounds": 40}})
    while world.status(name)["round"] < 3:
        world.kernel.run(world.kernel.now + 0.01)
    world.inject(Schedule([Fault(at, "drain", "cloud-1", 60.0)]))
    status = world.run(name, 60.0)
    assert [task["node"] for task in status["tasks"] if task["role"] == "server"] != ["cloud-1"]
    labels = [label for label, _ in closed]
    assert labels == sorted(set(labels))


DATA_FAULTS = ["kill_worker", "kill_agent", "reset", "cut", "half_open", "slow"]


@pytest.mark.parametrize("kind", few(DATA_FAULTS, 2))
@pytest.mark.parametrize("at", [1.3, 4.4])
def test_a_single_fault_of_a_node_with_data_costs_time_and_nothing_else(kind: str, at: float):
    _, reference = chaos.play(0, Schedule())
    outcome, weights = chaos.play(0, Schedule([Fault(at, kind, "node-2", 3.0)]), reference=reference)  # type: ignore[arg-type]
    assert not outcome.violations
    assert outcome.whole, "an update was trained and then not counted, or never trained"
    assert weights == reference


def test_a_node_with_data_that_stays_away_does_not_stop_the_job():
    outcome, _ = chaos.play(0, Schedule([Fault(2.0, "power_loss", "node-2", 600.0)]))
    assert (outcome.state, outcome.violations, outcome.whole) == ("finished", (), False)


@pytest.mark.thorough
def test_the_copies_of_a_server_that_was_frozen_and_replaced_change_nothing(monkeypatch: pytest.MonkeyPatch):
    written: list[int] = []
    write = JobDisk.write

    def note(self: JobDisk, record: Record, replica: bool, content: Any) -> None:
        if record.task == "server" and replica and self is not None:
            written.append(record.label)
        write(self, record, replica, content)

    monkeypatch.setattr(JobDisk, "write", note)
    fleet = [NodePlace("cloud-2", "cloud", "cloud"), *(NodePlace(f"node-{index + 1}", "edge", "home") for index in range(3))]
    world = Simulation(fleet, chaos.SLOW, standin_backend, seed=1)
    name = world.submit({**chaos.JOB, "train": {"rounds": 60}})
    world.inject(Schedule([Fault(6.0, "freeze", "cloud-1", 36.0)]))
    status = world.run(name, 300.0)
    assert status["state"] == "finished"
    assert [task["node"] for task in status["tasks"] if task["role"] == "server"] == ["cloud-2"]
    assert status["ended_at"] > 45.0, "it woke while the job ran"
    assert written == sorted(written)
    assert [record["round"] for record in status["history"]] == list(range(1, 61))


def test_messages_that_are_sent_whole_give_the_same_weights_with_fewer_frames():
    def run(chunk_bytes: int) -> tuple[bytes, int]:
        world = Simulation(3, QUICK, standin_backend, seed=1, chunk_bytes=chunk_bytes)
        name = world.submit(chaos.JOB)
        assert world.run(name, 60.0)["state"] == "finished"
        return world.coordinator.results[name], world.broker.frames

    (chunked, many), (whole, few) = run(1024), run(1 << 31)
    assert whole == chunked
    assert few < many


def test_a_node_that_joins_after_the_job_is_there_and_one_that_leaves_hands_over():
    world = Simulation(3, QUICK, standin_backend, seed=1)
    name = world.submit({**chaos.JOB, "train": {"rounds": 60}})
    world.inject(Schedule([Fault(0.5, "join", "node-9"), Fault(1.0, "leave", "cloud-1")]))
    status = world.run(name, 60.0)
    assert status["state"] == "finished"
    assert [record["updates"] for record in status["history"]] == [3] * 60
    assert [task["node"] for task in status["tasks"] if task["role"] == "server"] != ["cloud-1"]
    assert {node["node"] for node in world.coordinator.request("node.list").body["nodes"]} >= {"node-9"}


def test_a_fault_of_a_node_that_is_not_there_is_found_before_anything_runs():
    world = Simulation(2, chaos.SLOW, standin_backend, seed=1)
    with pytest.raises(ConfigError, match=r"fault kill_worker at 10000 s: no node 'node-9'; there are cloud-1, node-1, node-2"):
        world.inject(Schedule([Fault(10_000.0, "kill_worker", "node-9")]))
    world.inject(Schedule([Fault(5.0, "join", "node-9"), Fault(9.0, "kill_worker", "node-9"), Fault(9.0, "restart_broker", seconds=1.0)]))
