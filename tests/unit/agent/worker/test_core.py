"""The worker's core by plain calls: a job of the stand-in, whose only task (the server) runs on this node."""

from __future__ import annotations

from typing import Any

import pytest

from fog_agent.worker import core as rules
from fog_agent.worker.core import Prepared, WorkerCore
from fog_agent.worker.effects import Connect, Effect, Prepare, Reslot, Subscribe
from fog_agent.worker.frames import State, WorkerSetup
from fog_common.bus.base import BrokerConfig, Connected, Denied, Disconnected, Received
from fog_common.runtime.effects import Compute, Persist
from fog_common.runtime.machine import Peer
from fog_common.runtime.shelf import Shelf
from fog_common.wire import topics
from fog_common.wire.messages import DesiredJob, Placement, WorkerState
from fog_learning.backend.standin import StandinBackend
from fog_learning.job.reading import job_from
from fog_sim.campaign import chaos
from fog_sim.disk import JobDisk

JOB = job_from({**chaos.JOB, "evaluation": {"where": "none"}}, "job")
TRAINER = topics.CAST.at(fleet="main", scope="all", group="j~trainer", sender="node-1", kind="bulk~j")


def table(view: int = 1) -> DesiredJob:
    tasks = (
        Peer("server", "server", -1, "cloud-1", "cloud", "cloud", 1, 1),
        Peer("trainer-0", "trainer", 0, "node-1", "home", "edge", 1, 1, "server"),
    )
    return DesiredJob("j", {}, Placement("j", view, "server", tasks, places={"cloud-1": ("cloud", "cloud"), "node-1": ("home", "edge")}))


def worker(node: str = "cloud-1", **more: Any) -> WorkerCore:
    site, tier = ("cloud", "cloud") if node == "cloud-1" else ("home", "edge")
    return WorkerCore(WorkerSetup(node, site, tier, "main", BrokerConfig(username=node), "", "j", 1, **more), 0.0)


def prepared() -> Prepared:
    backend, disk = StandinBackend(JOB, {"trainer-0": 0}, 1), JobDisk({}, [])
    return Prepared(JOB, backend, disk=disk, shelf=disk.load(), speed={"flops_per_second": 5.0})


def ready(node: str = "cloud-1", **more: Any) -> WorkerCore:
    core = worker(node, **more)
    core.on_assign(0.0, table())
    core.on_prepared(0.0, prepared())
    core.on_bus(0.0, Connected())
    return core


def some(effects: list[Effect], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def run_ops(core: WorkerCore, now: float) -> list[Effect]:
    """All ops at once, each one second long; the effects that are no ops."""
    backend, others = StandinBackend(JOB, {"trainer-0": 0}, 1), []
    while effects := core.take():
        for effect in effects:
            if not isinstance(effect, Compute):
                others.append(effect)
                continue
            assert core.host is not None
            inputs = {name: core.host.refs.value(effect.task, ref) for name, ref in effect.refs.items()}
            outputs, numbers = backend.run(effect.op, effect.task, inputs, dict(effect.numbers))
            for name, handle in effect.into.items():
                core.host.refs.store(effect.task, handle, outputs[name])
            core.on_ran(now, effect, dict(outputs), numbers, 1.0)
    return others


def report(core: WorkerCore, now: float) -> WorkerState:
    """The next report, which is due by now."""
    core.on_timer(now)
    (state,) = some(core.take(), State)
    return state.state


# -- phases --------------------------------------------------------------------------------


def test_from_the_start_to_ready():
    core = worker()
    assert report(core, 0.0).phase == "starting"
    core.on_assign(1.0, table())
    assert core.take() == [Prepare(table())]
    assert core.phase == "preparing"
    core.on_prepared(2.0, prepared())
    assert core.phase == "connecting"
    effects = core.take()
    assert isinstance(effects[0], Connect) and effects[1] == Reslot(table())
    core.on_bus(3.0, Connected())
    state = report(core, 3.0)
    assert (state.phase, state.view, state.gauges["flops_per_second"]) == ("ready", 1, 5.0)
    assert [task.task for task in state.tasks] == ["server"]


def test_an_assignment_that_comes_during_the_preflight_is_the_one_that_counts():
    core = worker()
    core.on_assign(0.0, table(1))
    core.on_assign(0.5, table(2))
    assert core.take() == [Prepare(table(1))]
    core.on_prepared(1.0, prepared())
    assert core.host is not None
    assert core.host.view == 2


def test_a_refused_preflight_is_said_at_once_and_looked_at_again_with_the_next_assignment():
    core = worker()
    report(core, 0.0)
    core.on_assign(0.0, table())
    core.take()
    core.on_refused(0.0, ("no data here",))
    assert core.next_timer() == rules.LEAST_S
    core.on_timer(rules.LEAST_S)
    (said,) = core.take()
    assert isinstance(said, State)
    assert said.urgent
    assert (said.state.phase, said.state.problems) == ("refused", ("no data here",))
    core.on_assign(5.0, table(2))
    assert core.take() == [Prepare(table(2))]
    core.on_prepared(6.0, prepared())
    assert (core.phase, core.problems) == ("connecting", ())


def test_a_job_that_its_method_does_not_take_is_refused():
    core = worker()
    core.on_assign(0.0, table())
    backend = StandinBackend(JOB, {}, 1)
    unfit = job_from({**chaos.JOB, "method": {"name": "fedavg"}, "evaluation": {"where": "none"}}, "job")
    unfit.method["name"] = "astrology"
    core.on_prepared(0.0, Prepared(unfit, backend, disk=JobDisk({}, []), shelf=Shelf()))
    assert core.phase == "refused"
    assert "astrology" in core.problems[0]


def test_an_event_that_a_phase_does_not_know_is_a_fault():
    with pytest.raises(KeyError):
        worker().on_refused(0.0, ("nothing was asked",))


# -- reports -------------------------------------------------------------------------------


def test_a_report_every_two_seconds_and_an_urgent_one_sooner():
    core = ready()
    run_ops(core, 0.0)
    report(core, 1.0)
    run_ops(core, 1.0)
    while core.next_timer() < 1.0 + rules.REPORT_S:  # the host's own timers
        core.on_timer(core.next_timer())
        assert not some(run_ops(core, 1.0), State)
    core.on_bus(1.5, Denied((TRAINER,)))
    assert core.next_timer() <= 1.5
    core.on_timer(1.5)
    (said,) = some(core.take(), State)
    assert said.urgent


def test_the_last_report_comes_with_the_stop():
    core = ready()
    report(core, 0.0)
    core.on_stop(0.01)
    assert [state.state.phase for state in some(core.take(), State)] == ["ready"]


def test_time_of_ops_is_counted_by_op_and_role_unless_nothing_is_measured():
    core, silent = ready(), ready(metrics=False)
    for each in (core, silent):
        run_ops(each, 1.0)
    said = report(core, 1.0)
    assert said.counters["op_seconds"] == said.counters["role_server_seconds"] == said.counters["op_init_seconds"] > 0
    assert said.gauges["ops_queued"] == 0.0
    assert (report(silent, 1.0).counters, silent.setup.metrics) == ({}, False)


# -- the disk ------------------------------------------------------------------------------


def test_a_full_disk_is_asked_again_until_it_takes_the_save():
    core = ready()
    (save,) = some(run_ops(core, 0.0), Persist)
    report(core, 0.0)
    core.on_save_refused(1.0, "No space left on device")
    state = report(core, 1.0)
    assert state.problems == ("cannot save: No space left on device; free some space, the job goes on from there",)
    assert (state.waited_s, state.retry_s) == (0.0, rules.RETRY_SAVE_S)
    core.on_timer(1.0 + rules.RETRY_SAVE_S)
    assert some(core.take(), Persist) == [save]
    core.on_save_refused(3.0, "No space left on device")
    state = report(core, 4.0)
    assert (state.waited_s, state.retry_s) == (3.0, 1.0)
    core.on_timer(5.0)
    assert some(core.take(), Persist) == [save]
    core.on_saved(5.0, save, 0.25)
    state = report(core, 7.0)
    assert (state.problems, state.waited_s, state.retry_s) == ((), None, None)
    assert (state.counters["saves"], state.counters["save_seconds"]) == (1, 0.25)
    assert state.tasks[0].labels == (save.record.label,)


# -- the bus -------------------------------------------------------------------------------


def test_a_denied_subscription_is_a_problem_until_a_connection_has_it():
    core = ready("node-1")
    said = some(core.take(), Subscribe)
    assert any("j~trainer" in filter_ for subscription in said for filter_ in subscription.filters)
    core.on_bus(1.0, Denied((TRAINER,)))
    assert report(core, 1.0).problems == (f"the broker refuses user 'node-1' the subscription {TRAINER}; correct its access list",)
    core.on_bus(2.0, Disconnected("the broker is gone"))
    core.on_bus(3.0, Connected())
    assert report(core, 3.0).problems == ()


def test_received_bytes_go_by_plane_and_tier():
    down = topics.TO.at(fleet="main", site="home", node="node-1", sender="cloud-1", kind="bulk~j")
    up = topics.TO.at(fleet="main", site="cloud", node="cloud-1", sender="node-1", kind="bulk~j")
    edge, cloud = ready("node-1"), ready("cloud-1")
    edge.on_bus(0.0, Received(down, b"12345"))
    edge.on_bus(0.0, Received(TRAINER, b"123"))
    edge.on_bus(0.0, Received("weather/today", b"rain"))
    cloud.on_bus(0.0, Received(up, b"1234567"))
    assert edge.received == {"up": 0, "down": 5, "d2d": 0, "cast": 3}
    assert cloud.received == {"up": 7, "down": 0, "d2d": 0, "cast": 0}
    assert sum(value for name, value in report(edge, 0.0).counters.items() if name.startswith("rejected_")) >= 1


def test_a_small_broker_makes_small_chunks():
    core = worker()
    core.on_assign(0.0, table())
    core.on_prepared(0.0, prepared())
    core.on_bus(0.0, Connected(max_payload=4000))
    assert core.host is not None
    assert core.host.endpoint.limits.chunk_bytes == 4000
