"""The coordinator's core: the end of a job, its figures, requests, restart."""

from __future__ import annotations

import pytest

from fog_common.runtime.machine import RoundRecord, Waiting
from fog_common.wire.messages import Desired, Heartbeat, Planes, TaskState, WorkerState
from fog_coordinator.state.effects import JournalRecord, Tell
from fog_coordinator.state.rules import Rules
from support.running_jobs import fleet, running, trained
from support.stand_ins import SPEC

# -- the end --------------------------------------------------------------------------------


def test_the_result_ends_the_job_and_its_workers():
    world = trained(rounds=8)
    world.run(1.0)
    status = world.status()
    assert status["state"] == "finished"
    assert status["metrics"]["accuracy"] == 0.9
    assert all(not node.jobs for node in world.nodes.values())
    body = world.body("job.result", job="digits")
    assert (body["digest"], body["rounds"]) == ("d" * 64, 6)
    assert [sent.digest for sent in world.results] == ["d" * 64]


def test_a_finished_job_waits_a_moment_for_the_last_figures_of_its_workers():
    world = trained(rounds=6)
    assert world.core is not None
    node = world.nodes["pi-1"]
    worker = WorkerState("digits", 1, "ready", 2, sent=Planes(up=5_000))
    world.core.on_result(world.now, "digits", {}, "d" * 64)
    world.core.on_heartbeat(world.now, Heartbeat("pi-1", node.nonce, node.desired, (worker,), uptime_s=world.now - node.born))
    assert world.status()["state"] == "running"
    assert world.status()["line"] == "the result is here; cloud-1, pi-1, pi-2, pi-3 finish"
    world.run(1.0)
    assert world.status()["state"] == "finished"
    assert world.status()["bytes"]["up"] >= 5_000
    assert all(not node.jobs for node in world.nodes.values())


def test_a_worker_that_says_nothing_more_does_not_keep_a_job_open():
    world = trained(rounds=6)
    assert world.core is not None
    world.nodes["pi-1"].up = False  # frozen
    world.core.on_result(world.now, "digits", {}, "")
    world.perform()
    world.run(1.0)
    assert world.status()["state"] == "running"
    world.run(1.5)
    assert world.status()["state"] == "finished"


def test_a_result_from_a_node_that_lost_the_server_is_refused():
    world = trained()
    assert world.core is not None
    assert world.core.expects("digits", "server", "cloud-1") is None
    assert world.core.expects("digits", "server", "pi-1") == "not_placed"
    assert world.core.expects("digits", "trainer-0", "pi-1") == "not_placed"
    assert world.core.expects("other", "server", "cloud-1") == "unknown_job"
    world.ask("job.cancel", job="digits")
    assert world.core.expects("digits", "server", "cloud-1") == ""


def test_a_task_that_failed_fails_the_job():
    world = running()
    assert world.core is not None
    node = world.nodes["cloud-1"]
    state = TaskState("server", since=2, finished=True, why="mean: shapes differ")
    worker = WorkerState("digits", 1, "ready", 2, tasks=(state,))
    world.deliver("", Heartbeat("cloud-1", node.nonce, node.desired, (worker,), uptime_s=99.0))
    assert world.status()["why"] == "server on cloud-1: mean: shapes differ"


# -- what a person sees ---------------------------------------------------------------------


def test_the_status_line_says_what_the_round_waits_for():
    world = running()
    node = world.nodes["cloud-1"]
    waiting = Waiting("updates", have=2, need=3, who=("trainer-2",), since=5.0, until=19.0)
    state = TaskState("server", since=2, round=7, waiting=waiting, now=7.0)
    worker = WorkerState("digits", 1, "ready", 2, tasks=(state,))
    world.deliver("", Heartbeat("cloud-1", node.nonce, node.desired, (worker,), uptime_s=99.0))
    status = world.status()
    assert status["line"] == "round 7: 2 of 3 updates, waiting for pi-3, closes in 12 s at the latest"
    assert status["waits"][0]["who"] == ["pi-3"]
    assert status["waits"][0]["since_s"] == pytest.approx(2.0)
    assert status["waits"][0]["until_s"] == pytest.approx(12.0)


def test_bytes_of_earlier_incarnations_stay_in_the_sum():
    world = running()
    for incarnation, up in ((1, 500), (1, 300), (4, 70)):  # the second one was overtaken
        node = world.nodes["pi-1"]
        worker = WorkerState("digits", incarnation, "ready", 2, sent=Planes(up=up, cast=2), ideal_bytes=up)
        world.deliver("", Heartbeat("pi-1", node.nonce, node.desired, (worker,), uptime_s=90.0 + world.now))
    assert world.status()["bytes"] == {"up": 570, "down": 0, "d2d": 0, "cast": 4, "ctl": 0, "total": 574, "ideal": 570}


def test_energy_counts_what_was_used_while_the_job_was_there():
    world = fleet()
    node = world.nodes["pi-1"]

    def reads(joules: float, at: float) -> None:
        beat = Heartbeat("pi-1", node.nonce, node.desired, node.heartbeat(world.now).workers, uptime_s=at, energy_j={"modelled": joules})
        world.deliver("", beat)

    reads(100.0, 50.0)
    world.submit()
    world.run(2.0)
    reads(130.0, 60.0)
    reads(5.0, 61.0)  # the agent began anew
    assert world.status()["energy_j"] == {"value": 35.0, "source": "modelled"}


def test_history_is_merged_by_round_and_confirmed():
    world = trained(rounds=6)
    history = world.status()["history"]
    assert [record["round"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert [record["accuracy"] for record in history] == [n / 100 for n in range(1, 7)]
    assert world.status()["history"] == world.body("job.status", job="digits", after=0)["history"]
    assert [record["round"] for record in world.body("job.status", job="digits", after=4)["history"]] == [5, 6]
    assert world.nodes["cloud-1"].jobs["digits"].history_seen >= 5  # the root need not tell it again


def test_logs_tell_the_story():
    world = running()
    world.kill("pi-2")
    world.run(world.rules.return_s + 2.0)
    texts = [event["text"] for event in world.body("job.logs", job="digits")["events"]]
    assert texts[0] == "submitted by operator: fedavg, 6 rounds"
    assert "view 3: trainer-1 left pi-2" in texts
    assert len(world.body("job.logs", job="digits", lines=1)["events"]) == 1


# -- requests -------------------------------------------------------------------------------


def test_submit_with_a_token_is_done_once():
    world = fleet()
    first = world.body("job.submit", spec=SPEC, token="t1")
    again = world.body("job.submit", spec=SPEC, token="t1")
    assert (first["repeated"], again["repeated"]) == (False, True)
    assert first["job"] == again["job"]
    other = world.ask("job.submit", spec={**SPEC, "name": "other"}, token="t1")
    assert other.exit_code == 2


def test_a_name_is_free_again_when_its_job_has_ended():
    world = running()
    refused = world.ask("job.submit", spec=SPEC)
    assert refused.exit_code == 4
    assert "a job named 'digits' is running" in refused.error
    world.ask("job.cancel", job="digits")
    assert world.submit() == "digits-2"


@pytest.mark.parametrize(
    ("verb", "arguments", "code", "text"),
    [
        ("job.stop", {}, 2, "unknown request"),
        ("job.status", {}, 2, "job"),
        ("job.status", {"job": "digit"}, 2, "did you mean 'digits'"),
        ("job.status", {"job": "digits", "color": 1}, 2, "color"),
        ("job.status", {"job": 7}, 2, "job"),
        ("job.logs", {"job": "digits", "lines": 0}, 2, "lines"),
        ("job.result", {"job": "digits"}, 4, "has no result"),
        ("node.show", {"node": "pi-77"}, 2, "pi-77"),
        ("node.drain", {"node": "pi-1", "undo": "yes"}, 2, "undo"),
        ("job.submit", {"spec": {**SPEC, "trian": {}}}, 2, "trian"),
        ("job.submit", {"spec": {**SPEC, "method": {"name": "fedavgg"}}}, 2, "fedavgg"),
        ("job.submit", {"spec": {**SPEC, "train": {"rounds": -1}}}, 2, "rounds"),
        ("job.submit", {"spec": {**SPEC, "name": "Not an id"}}, 2, "name"),
        ("job.submit", {"spec": []}, 2, "spec"),
        ("job.submit", {"spec": {**SPEC, "name": "x", "junk": "y" * 70_000}}, 2, "64 KiB"),
    ],
)
def test_bad_requests_get_one_line(verb, arguments, code, text):
    world = running()
    before = world.body("job.list")["jobs"]
    reply = world.ask(verb, **arguments)
    assert reply.exit_code == code
    assert text in reply.error
    assert "\n" not in reply.error
    assert world.body("job.list")["jobs"] == before


def test_old_jobs_are_forgotten():
    world = fleet(rules=Rules(keep_jobs=2))
    for n in range(5):
        world.submit(name=f"job-{n}")
        world.ask("job.cancel", job=f"job-{n}")
    world.submit(name="last")
    assert [job["job"] for job in world.body("job.list")["jobs"]] == ["last", "job-4", "job-3"]
    assert {key[0] for key in world.rows["jobs"]} == {"last", "job-4", "job-3"}
    assert {key[0] for key in world.rows["log"]} == {"last", "job-4", "job-3"}


# -- restart --------------------------------------------------------------------------------


def test_a_restarted_coordinator_adopts_the_job_without_a_new_view():
    world = trained()
    before = world.status()
    world.kill_core()
    world.run(3.0)
    world.start_core()
    world.run(5.0)
    after = world.status()
    for key in ("state", "view", "round", "history", "bytes", "buddies"):
        assert after[key] == before[key], key
    assert world.live() == {task["task"]: task["node"] for task in before["tasks"]}
    world.train()
    world.run(1.0)
    assert world.status()["round"] == before["round"] + 1


def test_a_restarted_coordinator_sees_who_left_meanwhile():
    world = trained()
    world.kill_core()
    world.kill("pi-1")
    world.run(1.0)
    world.start_core()
    world.run(world.rules.return_s + 2.0)
    assert "trainer-0" not in world.live()


def test_records_come_before_what_they_make_durable():
    world = running(rules=Rules(return_s=0.0))
    world.kill("pi-1")
    world.effects.clear()
    world.run(1.0)
    kinds = [type(effect) for effect in world.effects if not (isinstance(effect, Tell) and not isinstance(effect.message, Desired))]
    assert kinds.index(JournalRecord) < kinds.index(Tell)


def test_rounds_are_rows_of_their_own():
    world = trained(rounds=3)
    assert sorted(world.rows["rounds"]) == [("digits", 1), ("digits", 2), ("digits", 3)]
    record = RoundRecord(2, 2.0, 1, 10, {"accuracy": 0.02})
    assert world.core is not None
    assert world.core.book["digits"].history.rounds[2].record == record
