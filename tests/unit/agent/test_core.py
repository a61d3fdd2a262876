"""The agent's core: plain calls, then random orders of everything that can happen."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fog_agent.core import BACKOFF_MAX_S, COALESCE_S, REFRESH_S, AgentCore, Limits, Sample
from fog_agent.effects import AssignWorker, Exit, Forget, KillWorker, ProbeLink, Publish, SaveIncarnation, Say, ShowPresence, StartWorker, StopWorker
from fog_agent.node.state import StateDir
from fog_common.runtime.machine import RoundRecord
from fog_common.wire.messages import (
    Announce,
    Desired,
    DesiredJob,
    Goodbye,
    Heartbeat,
    Identify,
    Placement,
    Presence,
    Probe,
    Profile,
    TaskState,
    WorkerState,
    encode,
)

COORDINATOR = "coordinator"
PROFILE = Profile(tier="edge", site="home")


def wanted(name: str, floor: int = 0, view: int = 1, memory_mb: int | None = None) -> DesiredJob:
    spec: dict[str, Any] = {"name": name}
    if memory_mb is not None:
        spec["resources"] = {"memory_mb": memory_mb}
    return DesiredJob(name, spec, Placement(name, view, "server", ()), floor)


def desired(number: int, *jobs: DesiredJob, nonce: str = "c1", release: bool = False) -> Desired:
    return Desired(number, nonce, jobs, release)


def fresh(connected: bool = True, incarnations: dict[str, int] | None = None, **limits: Any) -> AgentCore:
    core = AgentCore("pi-1", "n1", PROFILE, Limits(**limits), incarnations, seed=1)
    if connected:
        core.on_connected(0.0)
        core.on_timer(1.0)
        core.take()
    return core


def kinds(effects: list[Any]) -> list[str]:
    return [
        type(effect.message).__name__ if isinstance(effect, Publish) else type(effect).__name__ for effect in effects if not isinstance(effect, Say)
    ]


def heartbeat(core: AgentCore, now: float) -> Heartbeat:
    """The next heartbeat, whenever it is due after `now`."""
    due = core.next_timer()
    assert due is not None
    core.on_timer(max(now, due))
    return next(effect.message for effect in core.take() if isinstance(effect, Publish) and isinstance(effect.message, Heartbeat))


def ready(job: str, incarnation: int, **fields: Any) -> WorkerState:
    return WorkerState(job, incarnation, "ready", **fields)


# -- saying who it is ------------------------------------------------------------------------


def test_a_connection_is_followed_by_announce_presence_and_heartbeat_in_that_order():
    core = fresh(connected=False)
    core.on_connected(5.0)
    due = core.next_timer()
    assert due is not None and 5.0 <= due <= 5.05
    core.on_timer(due)
    assert kinds(core.take()) == ["Announce", "ShowPresence", "Heartbeat"]


def test_a_fleet_that_reconnects_does_not_announce_in_step():
    times = []
    for seed in range(50):
        core = AgentCore("pi-1", "n1", PROFILE, seed=seed)
        core.on_connected(0.0)
        core.on_timer(0.05)
        core.on_disconnected(10.0)
        core.on_connected(20.0)
        times.append(core.next_timer())
    assert max(times) - min(times) > 1.0 and all(20.0 <= time <= 22.0 for time in times)


def test_heartbeats_go_on_with_jitter_and_carry_what_was_measured():
    core = fresh(heartbeat_s=5.0)
    core.on_measured(Sample({"cpu_ratio": 0.5}, {"sent_bytes": 10.0}, {"modelled": 3.0}))
    beats, now = [], 1.0
    for _ in range(20):
        now = core.next_timer()
        core.on_timer(now)
        if any(isinstance(effect, Publish) and isinstance(effect.message, Heartbeat) for effect in core.take()):
            beats.append(now)
    gaps = [after - before for before, after in pairwise(beats)]
    assert all(4.5 <= gap <= 5.5 for gap in gaps) and len(set(gaps)) > 1
    message = heartbeat(core, now)
    assert message.gauges["cpu_ratio"] == 0.5 and message.energy_j == {"modelled": 3.0} and message.counters == {"sent_bytes": 10.0}


def test_its_own_offline_presence_makes_it_announce_again():
    core = fresh()
    core.on_message(Presence("pi-1", "n0", online=False), "pi-1", 2.0)
    due = core.next_timer()
    assert due <= 3.0
    core.on_timer(due)
    assert kinds(core.take())[:2] == ["Announce", "ShowPresence"]


def test_the_echo_of_its_presence_measures_the_round_trip():
    core = fresh()
    core.on_message(Presence("pi-1", "n1", online=True), "pi-1", 1.25)
    assert heartbeat(core, 2.0).gauges["rtt_seconds"] == pytest.approx(0.25)


def test_presence_is_repeated_so_that_a_broker_that_forgot_learns_it_again():
    core = fresh()
    core.on_timer(1.0 + 1.1 * REFRESH_S)
    assert "ShowPresence" in kinds(core.take())


def test_another_agent_of_the_same_name_is_reported():
    core = fresh()
    core.on_message(Presence("pi-1", "other", online=True), "pi-1", 2.0)
    assert any(isinstance(effect, Say) and effect.warning for effect in core.take())


def test_identify_is_answered_with_an_announcement():
    core = fresh()
    core.on_message(Identify(), COORDINATOR, 2.0)
    core.on_timer(2.0 + COALESCE_S)
    assert kinds(core.take())[0] == "Announce"


def test_only_the_coordinator_is_obeyed():
    core = fresh()
    core.on_message(desired(1, wanted("a")), "pi-2", 2.0)
    assert core.take() == [] and not core.slots
    assert heartbeat(core, 3.0).counters["rejected_sender"] == 1.0


def test_an_idle_heartbeat_is_small():
    core = fresh()
    core.on_measured(Sample({f"some_gauge_{i}": 0.123456 for i in range(12)}, {f"some_counter_{i}": 123456.0 for i in range(6)}, {"modelled": 1.5}))
    assert len(encode(heartbeat(core, 2.0))) < 1000


def test_a_long_history_goes_out_in_pieces_oldest_first():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    rounds = tuple(RoundRecord(number, float(number), numbers={"loss": 0.5, "accuracy": 0.5}) for number in range(20_000))
    core.on_worker_state("a", ready("a", 1, tasks=(TaskState("server", 1, history=rounds, finished=True),)), True, 3.0)
    message = heartbeat(core, 3.0)
    task = message.workers[0].tasks[0]
    assert task.history[0].round == 0 and len(task.history) > 100 and not task.finished
    assert len(encode(message)) < 200_000


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


# -- urgent changes --------------------------------------------------------------------------


def test_urgent_changes_share_one_early_heartbeat():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_timer(2.0 + COALESCE_S)
    core.take()
    for step in range(5):
        core.on_worker_state("a", ready("a", 1, view=step), True, 3.0 + step / 1000)
    due = core.next_timer()
    assert due == pytest.approx(3.0 + COALESCE_S)
    core.on_timer(due)
    beats = [effect.message for effect in core.take() if isinstance(effect, Publish)]
    assert len(beats) == 1 and beats[0].workers[0].view == 4


def test_calm_reports_wait_for_the_next_heartbeat():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_worker_state("a", ready("a", 1), True, 2.1)
    core.on_timer(3.0)
    core.take()
    before = core.next_timer()
    core.on_worker_state("a", ready("a", 1, view=3), False, 3.1)
    assert core.next_timer() == before


def test_a_measured_speed_is_announced():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.take()
    core.on_worker_state("a", ready("a", 1, gauges={"flops_per_second": 1e9}), False, 3.0)
    core.on_timer(3.1)
    announced = [effect.message for effect in core.take() if isinstance(effect, Publish) and isinstance(effect.message, Announce)]
    assert announced[0].profile.flops == 1e9


# -- away and back ---------------------------------------------------------------------------


def test_workers_go_on_and_are_restarted_while_the_broker_is_away():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_disconnected(3.0, "network down")
    core.take()
    core.on_worker_exited("a", 1, 1, 4.0)
    core.on_timer(6.0)
    effects = core.take()
    assert StartWorker("a", 2) in effects and not any(isinstance(effect, Publish | ShowPresence) for effect in effects)


def test_nothing_is_due_while_idle_and_offline():
    core = fresh()
    core.on_disconnected(3.0)
    assert core.next_timer() is None


# -- leaving ---------------------------------------------------------------------------------


def test_sigterm_without_jobs_says_goodbye_and_ends():
    core = fresh()
    core.on_stop(2.0)
    assert kinds(core.take()) == ["Goodbye", "Heartbeat", "Exit"]


def test_sigterm_waits_for_the_release_then_stops_the_workers_then_ends():
    core = fresh(drain_s=20.0)
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.take()
    core.on_stop(3.0)
    effects = core.take()
    assert Publish(Goodbye("pi-1", "n1")) in effects and "StopWorker" not in kinds(effects)
    core.on_message(desired(2, wanted("a"), release=True), COORDINATOR, 5.0)
    assert "StopWorker" in kinds(core.take())
    core.on_worker_exited("a", 1, 0, 6.0)
    assert Exit() in core.take() and core.next_timer() is None


def test_a_drain_ends_at_its_limit():
    core = fresh(drain_s=20.0)
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_stop(3.0)
    core.take()
    core.on_timer(22.9)
    assert "StopWorker" not in kinds(core.take())
    core.on_timer(23.0)
    assert "StopWorker" in kinds(core.take())


def test_a_second_sigterm_does_not_wait():
    core = fresh()
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_stop(3.0)
    core.take()
    core.on_stop(3.5)
    assert "StopWorker" in kinds(core.take())


def test_sigterm_while_the_broker_is_away_says_goodbye_when_it_is_back():
    core = fresh(drain_s=20.0)
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_disconnected(2.5)
    core.take()
    core.on_stop(3.0)
    assert "StopWorker" not in kinds(core.take())
    core.on_connected(8.0)
    core.on_timer(12.0)
    effects = core.take()
    assert Publish(Goodbye("pi-1", "n1")) in effects
    core.on_message(desired(2, wanted("a"), release=True), COORDINATOR, 13.0)
    assert "StopWorker" in kinds(core.take())


def test_sigterm_while_the_broker_stays_away_ends_at_the_limit():
    core = fresh(drain_s=20.0)
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_disconnected(2.5)
    core.on_stop(3.0)
    core.take()
    assert core.next_timer() == 23.0
    core.on_timer(23.0)
    assert "StopWorker" in kinds(core.take())


def test_no_worker_starts_while_draining():
    core = fresh(max_workers=2)
    core.on_message(desired(1, wanted("a")), COORDINATOR, 2.0)
    core.on_stop(3.0)
    core.take()
    core.on_message(desired(2, wanted("a"), wanted("b")), COORDINATOR, 4.0)
    core.on_worker_exited("a", 1, 1, 5.0)
    core.on_timer(10.0)
    assert "StartWorker" not in kinds(core.take())


# -- any order -------------------------------------------------------------------------------

JOBS = ("a", "b", "c")


class Orders(RuleBasedStateMachine):
    """What may never happen, whatever comes in which order: two workers of a job, more workers than allowed, an incarnation
    that does not grow or is not saved first, silence with something left to do."""

    @initialize(seed=st.integers(0, 99), workers=st.integers(1, 3), old=st.dictionaries(st.sampled_from(JOBS), st.integers(0, 5)))
    def begin(self, seed: int, workers: int, old: dict[str, int]) -> None:
        self.limits = Limits(max_workers=workers)
        self.core = AgentCore("pi-1", "n1", PROFILE, self.limits, old, seed=seed)
        self.now = 0.0
        self.alive: dict[str, int] = {}
        self.asked: set[str] = set()
        self.saved = dict(old)
        self.highest = dict(old)
        self.number = 0
        self.last: tuple[str, ...] | None = None
        self.exited = False
        self.stopping = False

    def perform(self) -> None:
        for effect in self.core.take():
            match effect:
                case SaveIncarnation(job, incarnation):
                    self.saved[job] = incarnation
                case StartWorker(job, incarnation):
                    assert job not in self.alive, "two workers of one job"
                    assert self.saved.get(job) == incarnation, "started before its incarnation was saved"
                    assert incarnation > self.highest.get(job, 0)
                    assert not self.stopping
                    self.highest[job] = incarnation
                    self.alive[job] = incarnation
                    assert len(self.alive) <= self.limits.max_workers
                case AssignWorker(job, _):
                    assert job in self.alive
                case StopWorker(job) | KillWorker(job):
                    assert job in self.alive
                    self.asked.add(job)
                case Exit():
                    assert not self.alive, "left workers behind"
                    assert not self.exited, "ended twice"
                    self.exited = True
                case Publish() | ShowPresence():
                    assert self.core.connected

    @rule(after=st.floats(0, 30))
    def time_passes(self, after: float) -> None:
        self.now += after
        due = self.core.next_timer()
        if due is not None and due <= self.now:
            self.core.on_timer(self.now)
        self.perform()

    @rule()
    def connect(self) -> None:
        self.core.on_connected(self.now)
        self.perform()

    @rule()
    def disconnect(self) -> None:
        self.core.on_disconnected(self.now)
        self.perform()

    @rule(names=st.permutations(JOBS), count=st.integers(0, 3), back=st.integers(0, 2), floor=st.integers(0, 3), release=st.booleans())
    def hear_desired(self, names: list[str], count: int, back: int, floor: int, release: bool) -> None:
        if back == 0:
            self.number += 1
            self.last = tuple(names[:count])
        jobs = [wanted(name, floor, view=self.number) for name in names[:count]]
        self.core.on_message(desired(max(0, self.number - back), *jobs, release=release), COORDINATOR, self.now)
        if back and self.number - back >= self.core._desired:
            self.last = tuple(names[:count])
        self.perform()

    @precondition(lambda self: self.alive)
    @rule(pick=st.integers(0, 5), code=st.sampled_from([0, 1, 3, -9, -11]))
    def worker_ends(self, pick: int, code: int) -> None:
        job = sorted(self.alive)[pick % len(self.alive)]
        incarnation = self.alive.pop(job)
        self.asked.discard(job)
        self.core.on_worker_exited(job, incarnation, code, self.now)
        self.core.on_worker_exited(job, incarnation, code, self.now)  # told twice
        self.perform()

    @precondition(lambda self: self.alive)
    @rule(pick=st.integers(0, 5), phase=st.sampled_from(["starting", "ready", "refused"]), stale=st.booleans(), urgent=st.booleans())
    def worker_reports(self, pick: int, phase: str, stale: bool, urgent: bool) -> None:
        job = sorted(self.alive)[pick % len(self.alive)]
        self.core.on_worker_state(job, WorkerState(job, self.alive[job] - stale, phase), urgent, self.now)
        self.perform()

    @rule()
    def stop(self) -> None:
        self.core.on_stop(self.now)
        self.stopping = True
        self.perform()

    @invariant()
    def knows_what_runs(self) -> None:
        if not hasattr(self, "core"):
            return
        running = {name: slot.incarnation for name, slot in self.core.slots.items() if slot.running}
        assert running == self.alive

    @invariant()
    def is_awake_while_something_is_left(self) -> None:
        if not hasattr(self, "core") or self.exited:
            return
        due = self.core.next_timer()
        if self.asked or (self.core.connected and not self.exited):
            assert due is not None
        waiting = [slot for slot in self.core.slots.values() if slot.desired is not None and not slot.running]
        if waiting and not self.stopping and len(self.alive) < self.limits.max_workers:
            assert due is not None, "a job waits and nothing will wake us"

    def teardown(self) -> None:
        """With time and obedient workers it converges: exactly what was wanted last runs, or all is over."""
        if not hasattr(self, "core"):
            return
        for _ in range(400):
            for job in sorted(self.asked & set(self.alive)):
                incarnation = self.alive.pop(job)
                self.asked.discard(job)
                self.core.on_worker_exited(job, incarnation, 0, self.now)
                self.perform()
            due = self.core.next_timer()
            if due is None:
                break
            assert due >= self.now - 31 or due <= self.now
            self.now = max(self.now, due)
            self.core.on_timer(self.now)
            self.perform()
            after = self.core.next_timer()
            assert after is None or after > self.now or self.asked, "a timer that is due again at once: a busy loop"
        if self.stopping:
            assert self.exited
        elif self.last is not None:
            assert set(self.core.slots) == set(self.last)
            assert len(self.alive) == min(len(self.last), self.limits.max_workers)


Orders.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
test_any_order = Orders.TestCase


# -- the link, the node's speed, another plan ------------------------------------------------


def probes_of(core: AgentCore) -> list[Probe]:
    return [effect.probe for effect in core.take() if isinstance(effect, ProbeLink)]


def measured_link(trip_s: float, bytes_s: float) -> tuple[AgentCore, list[int], float]:
    """(the core after its probes came back, their sizes, the time)"""
    core, now, sizes = fresh(probe_bytes=64 * 1024), 1.0, []
    now += trip_s
    core.on_message(Presence("pi-1", "n1", online=True), "pi-1", now)
    while found := probes_of(core):
        (probe,) = found
        sizes.append(len(probe.filler))
        now += trip_s + 2 * len(probe.filler) / bytes_s
        core.on_message(probe, "pi-1", now)
    return core, sizes, now


@pytest.mark.parametrize("bytes_s", [2e5, 5e6, 4e7])
def test_the_links_rate_is_what_many_bytes_take_beyond_an_empty_round_trip(bytes_s: float):
    core, sizes, now = measured_link(0.01, bytes_s)
    assert core.profile.bandwidth_bytes_s == pytest.approx(bytes_s, rel=0.05)
    assert sum(sizes) < 400 * 1024
    core.on_timer(now + COALESCE_S)
    announced = [effect.message for effect in core.take() if isinstance(effect, Publish) and isinstance(effect.message, Announce)]
    assert announced[-1].profile.bandwidth_bytes_s == core.profile.bandwidth_bytes_s
    assert announced[-1].profile.rtt_s == pytest.approx(0.01, rel=0.1)


def test_a_known_link_is_measured_again_only_while_no_job_runs():
    core, _, now = measured_link(0.01, 5e6)
    core.on_message(desired(1, wanted("digits")), COORDINATOR, now)
    for _ in range(3):
        now += 3700.0
        core.on_timer(now)
        core.take()
        core.on_message(Presence("pi-1", "n1", online=True), "pi-1", now + 0.01)
        assert not probes_of(core)
    core.on_message(desired(2), COORDINATOR, now)
    core.on_worker_exited("digits", 1, 0, now)
    now += 100.0
    core.on_timer(now)
    core.take()
    core.on_message(Presence("pi-1", "n1", online=True), "pi-1", now + 0.01)
    assert probes_of(core)


def test_a_probe_of_somebody_else_or_of_the_past_means_nothing():
    core = fresh(probe_bytes=1024)
    core.on_message(Presence("pi-1", "n1", online=True), "pi-1", 1.01)
    (probe,) = probes_of(core)
    core.on_message(probe, "pi-2", 1.02)
    core.on_message(Probe(probe.number - 1, b""), "pi-1", 1.02)
    assert not probes_of(core) and core.rejected == 1


def test_what_a_worker_measured_is_announced_once():
    core = fresh()
    core.on_message(desired(1, wanted("digits")), COORDINATOR, 1.0)
    state = WorkerState("digits", 1, "ready", gauges={"flops_per_second": 4e9, "op_overhead_seconds": 1e-3})
    core.take()
    for now in (2.0, 3.0):
        core.on_worker_state("digits", state, False, now)
        core.on_timer(now + COALESCE_S)
    announced = [effect.message for effect in core.take() if isinstance(effect, Publish) and isinstance(effect.message, Announce)]
    assert [(item.profile.flops, item.profile.op_s) for item in announced] == [(4e9, 1e-3)]


def test_a_job_that_was_planned_anew_gets_a_new_worker():
    core = fresh()
    core.on_message(desired(1, wanted("digits")), COORDINATOR, 1.0)
    core.take()
    other = DesiredJob("digits", {"name": "digits", "method": {"cut": 2}}, Placement("digits", 2, "server", ()))
    core.on_message(desired(2, other), COORDINATOR, 2.0)
    assert [type(effect) for effect in core.take() if not isinstance(effect, Publish | Say)] == [StopWorker]
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
