"""The agent's core: SIGTERM, drain and goodbye."""

from __future__ import annotations

from fog_agent.effects import Exit, Speak
from fog_common.wire.messages import (
    Goodbye,
)
from support.agent_core import COORDINATOR, desired, fresh, kinds, wanted


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
    assert Speak(Goodbye("pi-1", "n1")) in effects and "StopWorker" not in kinds(effects)
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
    assert Speak(Goodbye("pi-1", "n1")) in effects
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
