"""The supervisor of a node's workers, called directly: what it wants done, what it says of each job, when it must be called again."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from fog_agent.effects import AssignWorker, Effect, Exit, Forget, KillWorker, SaveIncarnation, Say, StartWorker, StopWorker
from fog_agent.supervisor import BACKOFF_MAX_S, FORGET_S, HEALTHY_S, AgentLimits, Supervisor
from fog_common.wire.messages import DesiredJob
from support.agent_core import ready, wanted


class Node:
    """A supervisor with the effects it wished for and the times at which the coordinator should have heard."""

    def __init__(self, incarnations: dict[str, int] | None = None, **limits: Any) -> None:
        self.effects: list[Effect] = []
        self.told: list[float] = []
        self.supervisor = Supervisor(AgentLimits(**limits), incarnations or {}, Random(1), self.effects, self.told.append)

    def want(self, now: float, *jobs: DesiredJob) -> bool:
        return self.supervisor.on_desired({job.job: job for job in jobs}, now)

    def take(self) -> list[Effect]:
        effects = [effect for effect in self.effects if not isinstance(effect, Say)]
        self.effects.clear()
        return effects

    def phases(self, now: float) -> dict[str, str]:
        return {state.job: state.phase for state in self.supervisor.states(now)}


def running(*jobs: DesiredJob, **limits: Any) -> Node:
    """A node whose workers for these jobs have started at 0, each of incarnation 1."""
    node = Node(max_workers=max(1, len(jobs)), **limits)
    node.want(0.0, *jobs)
    node.take()
    node.told.clear()
    return node


def test_a_start_is_saved_then_made_then_assigned_above_everything_known_of_the_job():
    node = Node({"a": 4})
    assert node.want(0.0, wanted("a", floor=2))
    assert node.take() == [SaveIncarnation("a", 5), StartWorker("a", 5), AssignWorker("a", wanted("a", floor=2))]
    assert node.told == [0.0] and node.phases(0.0) == {"a": "starting"}


def test_the_same_wish_is_no_news():
    node = running(wanted("a"))
    assert not node.want(1.0, wanted("a")) and node.take() == []
    assert node.want(2.0, wanted("a", view=2)) and node.take() == [AssignWorker("a", wanted("a", view=2))]


def test_two_workers_of_one_job_never_run():
    node = running(wanted("a"))
    node.want(1.0)
    assert node.take() == [StopWorker("a")]
    assert node.want(2.0, wanted("a")) and node.take() == [], "the old worker still ends"
    node.supervisor.on_exited("a", 1, 0, 3.0)
    assert node.take() == [SaveIncarnation("a", 2), StartWorker("a", 2), AssignWorker("a", wanted("a"))]


@pytest.mark.parametrize(("job", "incarnation"), [("a", 2), ("b", 1)])
def test_an_exit_or_a_report_of_another_worker_changes_nothing(job: str, incarnation: int):
    node = running(wanted("a"))
    node.supervisor.on_exited(job, incarnation, 1, 5.0)
    assert not node.supervisor.on_state(job, ready(job, incarnation), urgent=True, now=5.0)
    assert node.take() == [] and node.told == [] and node.phases(5.0) == {"a": "starting"}


def test_only_a_new_phase_or_an_urgent_report_is_told_early():
    node = running(wanted("a"))
    for now, urgent in ((1.0, False), (2.0, False), (3.0, True)):
        assert node.supervisor.on_state("a", ready("a", 1), urgent, now)
    assert node.told == [1.0, 3.0]
    (state,) = node.supervisor.states(10.0)
    assert (state.phase, state.age_s) == ("ready", 7.0)


def test_a_worker_that_does_not_end_is_killed_again_and_again_until_it_is_gone():
    node = running(wanted("a"), stop_s=10.0)
    node.want(5.0)
    node.take()
    assert node.supervisor.next_timer(connected=True) == 15.0
    for now in (15.0, 25.0):
        node.supervisor.on_timer(now - 0.1, connected=True)
        assert node.take() == []
        node.supervisor.on_timer(now, connected=True)
        assert node.take() == [KillWorker("a")]
    node.supervisor.on_exited("a", 1, -9, 26.0)
    assert node.supervisor.states(26.0) == () and node.supervisor.next_timer(connected=False) is None


def test_a_crash_is_told_with_its_reason_and_started_again_at_the_timer():
    node = running(wanted("a"))
    node.supervisor.on_exited("a", 1, 3, 1.0, "disk full")
    (state,) = node.supervisor.states(1.0)
    assert (state.phase, state.problems) == ("exited", ("exit code 3: disk full",)) and node.told == [1.0]
    due = node.supervisor.next_timer(connected=False)
    assert due is not None and 2.0 <= due <= 2.5 and state.retry_s == pytest.approx(due - 1.0)
    node.supervisor.on_timer(due - 0.01, connected=False)
    assert node.take() == []
    node.supervisor.on_timer(due, connected=False)
    assert StartWorker("a", 2) in node.take()


def test_the_pause_grows_to_its_limit_and_a_healthy_worker_begins_a_new_count():
    node, now, pauses = running(wanted("a")), 0.0, []
    for incarnation in range(1, 10):
        node.supervisor.on_exited("a", incarnation, 1, now)
        due = node.supervisor.next_timer(connected=False)
        assert due is not None
        pauses.append(due - now)
        now = due
        node.supervisor.on_timer(now, connected=False)
    assert all(0.5 * 2**k <= pause <= 1.5 * 2**k for k, pause in enumerate(pauses[1:6], start=1))
    assert pauses[-1] >= BACKOFF_MAX_S / 2 and max(pauses) <= BACKOFF_MAX_S + 1e-9
    node.supervisor.on_exited("a", 10, 1, now + HEALTHY_S)
    due = node.supervisor.next_timer(connected=False)
    assert due is not None and due - now - HEALTHY_S <= 1.5


def test_a_changed_job_file_replaces_the_worker_and_forgives_its_crashes():
    node = running(wanted("a"))
    assert node.want(1.0, wanted("a", memory_mb=10)) and node.take() == [StopWorker("a")]
    node.supervisor.on_exited("a", 1, 0, 2.0)
    assert node.take()[1:] == [StartWorker("a", 2), AssignWorker("a", wanted("a", memory_mb=10))]
    node.supervisor.on_exited("a", 2, 1, 3.0)
    assert node.take() == []
    node.want(3.1, wanted("a", memory_mb=20))
    assert StartWorker("a", 3) in node.take(), "without the rest of the pause"


def test_a_waiting_job_says_for_what_and_starts_when_its_place_is_free():
    node = Node(max_workers=1, memory_mb=100)
    node.want(0.0, wanted("a", memory_mb=80), wanted("b", memory_mb=30), wanted("c", memory_mb=200))
    a, b, c = node.supervisor.states(4.0)
    assert (a.phase, b.phase, b.waited_s) == ("starting", "queued", 4.0) and b.problems[0].startswith("waits for a: this node runs 1 worker(s)")
    assert c.phase == "refused" and c.problems[0].startswith("needs 200 MB, this node's workers may use 100 MB")
    node.take()
    node.want(5.0, wanted("b", memory_mb=30), wanted("c", memory_mb=200))
    node.supervisor.on_exited("a", 1, 0, 6.0)
    assert node.take() == [StopWorker("a"), SaveIncarnation("b", 1), StartWorker("b", 1), AssignWorker("b", wanted("b", memory_mb=30))]


def test_beyond_the_memory_limit_the_largest_worker_is_killed_once():
    node = running(wanted("a"), wanted("b"), memory_mb=100)
    node.supervisor.on_memory({"a": 40_000_000, "b": 60_000_000, "gone": 900_000_000}, 1.0)
    assert node.take() == [], "the limit itself is allowed, and a worker that is gone does not count"
    node.supervisor.on_memory({"a": 41_000_000, "b": 60_000_000}, 2.0)
    node.supervisor.on_memory({"a": 41_000_000, "b": 60_000_000}, 3.0)
    assert node.take() == [KillWorker("b")]
    node.supervisor.on_exited("b", 1, -9, 4.0)
    state = next(state for state in node.supervisor.states(4.0) if state.job == "b")
    assert state.problems == ("used 60 MB, all workers may use 100 MB (memory_mb); stopped",)


def test_the_last_words_of_a_worker_that_ended_in_order_are_given_once():
    node = running(wanted("a"), wanted("b"))
    for job in ("a", "b"):
        node.supervisor.on_state(job, ready(job, 1, ideal_bytes=7), urgent=False, now=1.0)
    node.want(2.0)
    node.supervisor.on_exited("a", 1, 0, 3.0)
    node.supervisor.on_exited("b", 1, 0, 3.0)
    node.want(4.0, wanted("b"))
    assert [(state.job, state.ideal_bytes) for state in node.supervisor.take_last_words()] == [("a", 7)], "b has a slot again, which speaks for it"
    assert node.supervisor.take_last_words() == ()


def test_leaving_stops_the_workers_and_exits_once_after_the_last():
    node = running(wanted("a"), wanted("b"), drain_s=20.0)
    node.supervisor.draining = True
    node.supervisor.drain(1.0, known=True)
    assert node.take() == [] and node.supervisor.next_timer(connected=True) == 21.0
    node.supervisor.on_exited("a", 1, 1, 2.0)
    node.supervisor.on_timer(10.0, connected=True)
    assert node.take() == [] and node.phases(10.0)["a"] == "queued", "nothing starts while the node drains"
    node.supervisor.on_timer(21.0, connected=True)
    assert node.take() == [StopWorker("b")]
    node.supervisor.leave(21.5, "asked twice")
    node.supervisor.on_exited("b", 1, 0, 22.0)
    node.supervisor.on_timer(23.0, connected=True)
    assert node.take() == [Exit()] and node.supervisor.exited


@pytest.mark.parametrize(("known", "drain_s"), [(False, 20.0), (True, 0.0)])
def test_a_node_that_nobody_can_relieve_leaves_at_once(known: bool, drain_s: float):
    node = running(wanted("a"), drain_s=drain_s)
    node.supervisor.drain(1.0, known)
    assert node.take() == [StopWorker("a")] and node.supervisor.leaving


def test_the_remains_of_a_job_go_after_an_hour_of_one_connection_in_which_it_is_not_named():
    node = Node({"old": 3})
    node.want(0.0)
    assert node.supervisor.next_timer(connected=True) == FORGET_S and node.supervisor.next_timer(connected=False) is None
    node.supervisor.on_disconnected()
    node.want(100.0)
    node.supervisor.on_timer(FORGET_S, connected=True)
    assert node.take() == [] and node.supervisor.incarnations == {"old": 3}
    node.supervisor.on_timer(FORGET_S + 100.0, connected=False)
    assert node.take() == []
    node.supervisor.on_timer(FORGET_S + 100.0, connected=True)
    assert node.take() == [Forget("old")] and node.supervisor.incarnations == {}
