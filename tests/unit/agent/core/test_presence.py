"""The agent's core: announcements, heartbeats, the measured link."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fog_agent.core import AgentCore, Sample
from fog_agent.effects import ProbeLink, Say, Speak
from fog_agent.presence import COALESCE_S, REFRESH_S
from fog_common.wire.messages import (
    Announce,
    Heartbeat,
    Identify,
    Presence,
    Probe,
    WorkerState,
    encode,
)
from support.agent_core import COORDINATOR, PROFILE, desired, fresh, heartbeat, kinds, ready, wanted

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
        if any(isinstance(effect, Speak) and isinstance(effect.message, Heartbeat) for effect in core.take()):
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
    beats = [effect.message for effect in core.take() if isinstance(effect, Speak)]
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
    announced = [effect.message for effect in core.take() if isinstance(effect, Speak) and isinstance(effect.message, Announce)]
    assert announced[0].profile.flops == 1e9


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
    announced = [effect.message for effect in core.take() if isinstance(effect, Speak) and isinstance(effect.message, Announce)]
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
    announced = [effect.message for effect in core.take() if isinstance(effect, Speak) and isinstance(effect.message, Announce)]
    assert [(item.profile.flops, item.profile.op_s) for item in announced] == [(4e9, 1e-3)]
