"""The agent's core: random orders of everything that can happen."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from fog_agent.core import AgentCore
from fog_agent.effects import AssignWorker, Exit, KillWorker, SaveIncarnation, ShowPresence, Speak, StartWorker, StopWorker
from fog_agent.supervisor import AgentLimits
from fog_common.wire.messages import (
    WorkerState,
)
from support.agent_core import COORDINATOR, PROFILE, desired, wanted

JOBS = ("a", "b", "c")


class Orders(RuleBasedStateMachine):
    """What may never happen, whatever comes in which order: two workers of a job, more workers than allowed, an incarnation
    that does not grow or is not saved first, silence with something left to do."""

    @initialize(seed=st.integers(0, 99), workers=st.integers(1, 3), old=st.dictionaries(st.sampled_from(JOBS), st.integers(0, 5)))
    def begin(self, seed: int, workers: int, old: dict[str, int]) -> None:
        self.limits = AgentLimits(max_workers=workers)
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
                case Speak() | ShowPresence():
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


CALM = settings(stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_any_order() -> None:
    run_state_machine_as_test(Orders, settings=settings(CALM, max_examples=15))


@pytest.mark.thorough
def test_any_order_many_times() -> None:
    run_state_machine_as_test(Orders, settings=settings(CALM, max_examples=150))
