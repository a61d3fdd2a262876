"""A few schedules of the live campaign (`make chaos` plays many): full disks, wrong clocks, links that lie."""

from __future__ import annotations

from pathlib import Path

from bench.chaos.__main__ import Runner
from bench.chaos.fleet import ChaosFleet
from bench.chaos.kinds import Case

from fog_sim.faults import Fault, Schedule
from fogctl.fleet.broker import find_mosquitto
from support.broker import needs

CASES = [
    Case("disks full", 1, 60, Schedule([Fault(0.3, "disk_full", "cloud-1", 2.0), Fault(0.5, "disk_full", "agent-2", 2.0)])),
    Case(
        "clocks wrong",
        1,
        60,
        Schedule([Fault(0.1, "clock_ahead", "", 9.0), Fault(0.2, "clock_behind", "cloud-1", 9.0), Fault(0.4, "kill_coordinator", "", 0.5)]),
    ),
    Case("links lie", 1, 80, Schedule([Fault(0.2, "half_open", "agent-1", 2.0), Fault(0.4, "black_hole", "cloud-1", 2.0)])),
]


def test_schedules_of_several_faults_end_with_the_right_weights(tmp_path: Path):
    needs("mosquitto", find_mosquitto())
    with ChaosFleet(tmp_path, 3) as fleet, fleet.client(timeout_s=3.0) as client:
        fleet.heal_all(client)
        runner = Runner(fleet, client)
        outcomes = [runner.play(case) for case in CASES]
    assert {outcome.name: outcome.violations for outcome in outcomes} == {case.name: () for case in CASES}
    assert [outcome.whole for outcome in outcomes[:2]] == [True, True]
    measured = outcomes[0].figures
    assert measured is not None and measured.recover_s > 1.0, "the disk was full for two seconds, and nothing happened"
