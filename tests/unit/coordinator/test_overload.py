"""More than fits: a fleet that announces itself at once, a job that is too large, jobs that want the same nodes, a slow receiver."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.wire import messages, topics
from fog_common.wire.messages import Announce
from fog_sim.campaign import chaos
from fog_sim.costs import standin_backend
from fog_sim.faults import Fault, Schedule
from fog_sim.links import Link
from fog_sim.world import Simulation

pytestmark = pytest.mark.thorough


def simulation(nodes: int) -> Simulation:
    return Simulation(nodes, chaos.SLOW, standin_backend, seed=1)


def test_two_hundred_agents_do_not_announce_themselves_in_step():
    world = simulation(200)
    heard: dict[str, float] = {}
    pass_on = world.broker.on_message

    def note(topic: str, payload: bytes) -> None:
        route = topics.parse(topic)
        if route.kind == topics.CONTROL and isinstance(messages.decode(payload), Announce):
            heard.setdefault(route.sender, world.kernel.now)
        pass_on(topic, payload)

    world.broker.on_message = note
    world.kernel.run(10.0)
    assert len(heard) == 201
    heard.clear()
    world.inject(Schedule([Fault(0.0, "restart_broker", "", 3.0)]))
    world.kernel.run(40.0)
    assert all(node["state"] == "online" for node in world.coordinator.request("node.list").body["nodes"])
    busiest = max(Counter(int(at / 0.25) for at in heard.values()).values())
    assert busiest <= 50, "more than a quarter of the fleet in a quarter of a second"
    assert max(heard.values()) < 25.0


def small(world: Simulation, **megabytes: int) -> None:
    """Give nodes so little memory, before they come up. node_1 is node-1."""
    for name, size in megabytes.items():
        node = world.nodes[name.replace("_", "-")]
        node.profile = replace(node.profile, memory_bytes=size * 1_000_000, memory_free_bytes=size * 1_000_000)


def test_a_job_that_fits_nowhere_says_what_it_needs_and_what_there_is():
    world = simulation(3)
    small(world, node_1=512, node_2=256, node_3=128, cloud_1=400)
    job = world.submit({**chaos.JOB, "resources": {"memory_mb": 900}})
    world.kernel.run(60.0)
    status = world.status(job)
    assert status["state"] == "waiting_nodes"
    assert "needs 900 MB, largest free is 512 MB on node-1" in status["line"]
    assert status["waits"][0]["since_s"] > 50
    reply = world.coordinator.request("job.cancel", job=job)
    assert reply.body["state"] == "cancelled"


def test_jobs_that_want_the_same_nodes_queue_and_say_so():
    world = simulation(2)
    first, second, third = (world.submit({**chaos.JOB, "name": name}) for name in ("one", "two", "three"))
    world.kernel.run(world.kernel.now + 2.0)
    assert world.status(first)["state"] == "running"
    waiting = world.status(second)
    assert (waiting["state"], waiting["line"]) == ("queued", "queued: node-1, node-2, cloud-1 busy with one")
    assert waiting["waits"][0]["since"] > 0
    assert world.run(third, 200.0)["state"] == "finished"
    ended = [world.status(job)["ended_at"] for job in (first, second, third)]
    assert ended == sorted(ended)


def test_a_slow_receiver_does_not_slow_the_others_and_piles_nothing_up():
    def run(slow: bool, **job: Any) -> tuple[float, int, list[int]]:
        world = simulation(3)
        if slow:
            world.nodes["node-3"].port.link = Link(up_bytes_s=300.0, down_bytes_s=300.0, latency_s=1.0)
        name = world.submit({**chaos.JOB, **job})
        held = [0]

        def look() -> None:
            hosts = [worker.core.host for node in world.nodes.values() for worker in node.workers.values() if worker.core.host]
            held.extend(host.refs.blobs.size_bytes for host in hosts)

        status = world.run(name, 600.0, look)
        assert status["state"] == "finished"
        assert len(held) > 10, "no host was looked at"
        return status["wall_s"], max(held), [record["updates"] for record in status["history"]]

    usual_s, _, _ = run(slow=False)
    took_s, held, updates = run(slow=True, stragglers={"quorum": 0.6, "deadline_s": 3.0})
    assert updates.count(2) >= len(updates) - 1, "rounds close without the node that cannot keep up"
    assert took_s < 4 * usual_s + 8 * 3.0
    assert held < chaos.MAX_HOST_BYTES
