"""The agent's core: workers start, stop, wait, crash, and leave files behind."""

from __future__ import annotations

from pathlib import Path

from fog_agent.core import AgentCore
from fog_agent.effects import AssignWorker, Forget, KillWorker, SaveIncarnation, Say, ShowPresence, Speak, StartWorker, StopWorker
from fog_agent.node.state import StateDir
from fog_agent.supervisor import BACKOFF_MAX_S
from fog_common.wire.messages import (
    DesiredJob,
    Placement,
    WorkerState,
)
from support.agent_core import COORDINATOR, desired, fresh, heartbeat, kinds, ready, wanted

# -- converging ------------------------------------------------------------------------------


def test_a_wanted_job_starts_one_worker_and_its_incarnation_is_saved_first():
    core = fresh(incarnations={"a": 4})
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    assert kinds(core.take()) == ["SaveIncarnation", "StartWorker", "AssignWorker"]
    assert core.incarnations["a"] == 5


def test_the_incarnation_is_above_the_coordinators_floor():
    core = fresh(incarnations={"a": 4})
    core.on_message(desired(1, wanted("a", floor=9)), COORDINATOR, 2.0)
    assert SaveIncarnation("a", 10) in core.take()


def test_a_job_whose_name_is_no_id_is_not_run():
    core = fresh()
    core.on_message(desired(1, wanted("../../etc"), wanted("ok")), COORDINATOR, 2.0)
    assert list(core.slots) == ["ok"]


def test_desired_again_changes_nothing():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.take()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 3.0)
    assert core.take() == []


def test_a_changed_placement_reaches_the_running_worker():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.take()
    core.on_message(desired(2, wanted("a", view=2)), COORDINATOR, 3.0)
    assert core.take() == [AssignWorker("a", wanted("a", view=2))]


def test_a_job_that_is_not_named_stops_and_is_forgotten():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.take()
    core.on_message(desired(2), COORDINATOR, 3.0)
    assert core.take() == [StopWorker("a")]
    core.on_worker_exited("a", 1, 0, 4.0)
    assert not core.slots and heartbeat(core, 5.0).workers == ()


def test_a_worker_that_does_not_stop_is_killed():
    core = fresh(stop_s=10.0)
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_message(desired(2), COORDINATOR, 3.0)
    core.take()
    core.on_timer(12.9)
    assert KillWorker("a") not in core.take()
    core.on_timer(13.0)
    assert KillWorker("a") in core.take()


def test_a_job_wanted_again_while_it_stops_starts_only_after_the_old_worker_is_gone():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_message(desired(2), COORDINATOR, 3.0)
    core.take()
    core.on_message(desired(3, wanted("a", view=3)), COORDINATOR, 3.5)
    assert core.take() == []
    core.on_worker_exited("a", 1, 0, 4.0)
    assert kinds(core.take()) == ["SaveIncarnation", "StartWorker", "AssignWorker"]


def test_an_overtaken_desired_and_one_of_a_former_coordinator_are_ignored():
    core = fresh()
    core.on_message(desired(5, wanted("a")), COORDINATOR, 2.0)
    core.take()
    core.on_message(desired(4), COORDINATOR, 2.1)
    assert core.take() == []
    core.on_message(desired(1, wanted("a"), nonce="c2"), COORDINATOR, 2.2)  # a new process counts from 1
    core.on_message(desired(9, nonce="c1"), COORDINATOR, 2.3)
    assert StopWorker("a") not in core.take()
    assert heartbeat(core, 3.0).desired == 1


def test_jobs_beyond_max_workers_wait_in_order_and_say_for_whom():
    core = fresh(max_workers=1)
    core.on_message(desired(1, wanted("a"), wanted("b"), wanted("c")), COORDINATOR, 2.0)
    assert [effect.job for effect in core.take() if isinstance(effect, StartWorker)] == ["a"]
    states = {state.job: state for state in heartbeat(core, 2.0).workers}
    assert states["b"].phase == "queued" and "waits for a" in states["b"].problems[0]
    core.on_message(desired(2, wanted("b"), wanted("c")), COORDINATOR, 3.0)
    core.on_worker_exited("a", 1, 0, 4.0)
    assert [effect.job for effect in core.take() if isinstance(effect, StartWorker)] == ["b"]


def test_a_job_larger_than_the_limit_is_refused_with_the_numbers():
    core = fresh(memory_mb=300)
    core.on_message(desired(1, wanted("a", memory_mb=900)), COORDINATOR, 2.0)
    assert "StartWorker" not in kinds(core.take())
    state = heartbeat(core, 2.0).workers[0]
    assert state.phase == "refused" and "900 MB" in state.problems[0] and "300 MB" in state.problems[0]


def test_memory_that_others_use_makes_a_job_wait():
    core = fresh(memory_mb=1000, max_workers=2)
    core.on_message(desired(1, wanted("a", memory_mb=600), wanted("b", memory_mb=600)), COORDINATOR, 2.0)
    assert [effect.job for effect in core.take() if isinstance(effect, StartWorker)] == ["a"]
    core.on_message(desired(2, wanted("b", memory_mb=600)), COORDINATOR, 3.0)
    core.on_worker_exited("a", 1, 0, 4.0)
    assert [effect.job for effect in core.take() if isinstance(effect, StartWorker)] == ["b"]


def test_a_worker_over_the_memory_limit_is_killed_and_says_why():
    core = fresh(memory_mb=500)
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.take()
    core.on_memory({"a": 499_000_000}, 3.0)
    assert core.take() == []
    core.on_memory({"a": 812_000_000}, 4.0)
    assert KillWorker("a") in core.take()
    core.on_worker_exited("a", 1, -9, 4.1)
    state = heartbeat(core, 4.1).workers[0]
    assert state.phase == "exited" and "used 812 MB" in state.problems[0]


# -- crashes ---------------------------------------------------------------------------------


def test_a_crashed_worker_is_shown_with_its_reason_and_starts_again_with_the_next_incarnation():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.take()
    core.on_worker_exited("a", 1, -9, 3.0, "out of memory (the kernel killed a process)")
    message = heartbeat(core, 3.0)
    assert message.workers[0].phase == "exited"
    assert message.workers[0].problems[0].startswith("killed by signal 9: out of memory")
    core.on_timer(5.0)
    assert StartWorker("a", 2) in core.take()


def test_the_backoff_grows_to_a_minute_and_begins_anew_after_a_healthy_minute():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 0.0)
    now, waits = 0.0, []
    for incarnation in range(1, 11):
        core.on_worker_exited("a", incarnation, 1, now)
        retry = core.slots["a"].retry_at
        waits.append(retry - now)
        now = retry
        core.on_timer(now)
    assert waits[0] <= 1.5 and waits[-1] >= 30.0 and all(1.0 <= wait <= BACKOFF_MAX_S for wait in waits)
    core.on_worker_exited("a", 11, 1, now + 61.0)
    assert core.slots["a"].retry_at - (now + 61.0) <= 1.5


def test_a_new_view_does_not_undo_the_backoff_of_a_crash_loop():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 0.0)
    core.on_worker_exited("a", 1, 1, 0.1)
    core.take()
    core.on_message(desired(2, wanted("a", view=2)), COORDINATOR, 0.2)
    assert "StartWorker" not in kinds(core.take())


def test_a_job_that_crashed_once_is_not_overtaken_but_one_that_keeps_crashing_is():
    core = fresh(max_workers=1)
    core.on_message(desired(1, wanted("a"), wanted("b")), COORDINATOR, 0.0)
    now = 0.0
    for incarnation in (1, 2, 3):
        core.take()
        core.on_worker_exited("a", incarnation, 1, now)
        assert "StartWorker" not in kinds(core.take())
        now = core.slots["a"].retry_at
        core.on_timer(now)
    core.take()
    core.on_worker_exited("a", 4, 1, now)
    assert [effect.job for effect in core.take() if isinstance(effect, StartWorker)] == ["b"]
    now = core.slots["a"].retry_at
    core.on_timer(now)
    assert core.next_timer() > now  # it waits for b, not in a busy loop


def test_a_refused_worker_keeps_its_problems_after_it_has_ended():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 0.0)
    core.on_worker_state("a", WorkerState("a", 1, "refused", problems=("data set 'x' is missing on pi-1",)), True, 1.0)
    core.on_worker_exited("a", 1, 0, 2.0)
    state = heartbeat(core, 2.0).workers[0]
    assert state.phase == "refused" and state.problems == ("data set 'x' is missing on pi-1",)


def test_reports_of_an_older_incarnation_are_ignored():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 0.0)
    core.on_worker_exited("a", 1, 1, 1.0)
    core.on_timer(3.0)
    core.on_worker_state("a", ready("a", 1, view=7), True, 3.1)
    assert heartbeat(core, 3.1).workers[0].phase == "starting"


# -- away and back ---------------------------------------------------------------------------


def test_workers_go_on_and_are_restarted_while_the_broker_is_away():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_disconnected(3.0, "network down")
    core.take()
    core.on_worker_exited("a", 1, 1, 4.0)
    core.on_timer(6.0)
    effects = core.take()
    assert StartWorker("a", 2) in effects and not any(isinstance(effect, Speak | ShowPresence) for effect in effects)


def test_nothing_is_due_while_idle_and_offline():
    core = fresh()
    core.on_disconnected(3.0)
    assert core.next_timer() is None


def test_a_job_that_was_planned_anew_gets_a_new_worker():
    core = fresh()
    core.on_message(desired(1, wanted("digits")), COORDINATOR, 1.0)
    core.take()
    other = DesiredJob("digits", {"name": "digits", "method": {"cut": 2}}, Placement("digits", 2, "server", ()))
    core.on_message(desired(2, other), COORDINATOR, 2.0)
    assert [type(effect) for effect in core.take() if not isinstance(effect, Speak | Say)] == [StopWorker]
    core.on_worker_exited("digits", 1, 0, 2.5)
    started = core.take()
    assert StartWorker("digits", 2) in started and AssignWorker("digits", other) in started


# -- what ended jobs leave behind --------------------------------------------------------------


def forgotten(core: AgentCore, now: float) -> list[str]:
    core.on_timer(now)
    return [effect.job for effect in core.take() if isinstance(effect, Forget)]


def test_what_a_job_left_goes_when_the_coordinator_has_not_named_it_for_an_hour():
    core = fresh(incarnations={"old": 3, "kept": 1})
    core.on_message(desired(1, wanted("kept")), COORDINATOR, 10.0)
    core.take()
    assert forgotten(core, 3609.0) == []
    assert forgotten(core, 3610.0) == ["old"]
    assert core.incarnations == {"kept": 2}
    assert forgotten(core, 9999.0) == []


def test_nothing_is_forgotten_while_nobody_says_what_is_wanted():
    core = fresh(incarnations={"old": 3})
    assert forgotten(core, 1e6) == [], "no word of a coordinator"
    core.on_message(desired(1), COORDINATOR, 1e6)
    core.on_disconnected(1e6 + 3000, "")
    core.on_connected(2e6)
    assert forgotten(core, 2e6 + 1) == [], "an hour of one connection, not of absence"
    core.on_message(desired(2, wanted("old")), COORDINATOR, 2e6 + 2)
    core.take()
    assert forgotten(core, 3e6) == []


def test_forgetting_a_job_removes_its_files_and_no_others(tmp_path: Path):
    state = StateDir(tmp_path)
    for job in ("old", "kept"):
        (tmp_path / "jobs" / job / "blobs").mkdir(parents=True)
        (tmp_path / "jobs" / job / "blobs" / "x").write_bytes(b"1")
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / f"{job}.log").write_bytes(b"1")
    state.forget("old")
    state.forget("never-was")
    state.close()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path.name != "agent.lock")
    assert left == ["jobs/kept/blobs/x", "logs/kept.log"]
