"""The live campaign's own checks: what it calls a violation, and how it measures a recovery."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.chaos import truth
from bench.chaos.kinds import cases
from bench.chaos.watch import Closing, Watch, figures
from blake3 import blake3

from fog_sim import chaos
from fog_sim.faults import ON_FLEET, ON_NODES, Fault, Schedule

JOB = {**chaos.JOB, "train": {"rounds": 4}}
SLOTS = range(3)


def history(*rounds: tuple[int, float, int]) -> list[dict[str, float]]:
    return [{"round": number, "examples": examples, "updates": updates} for number, examples, updates in rounds]


def test_the_weights_that_must_come_out_are_those_that_do():
    _, weights = chaos.play(1, Schedule(), job=JOB, nodes=3)
    members = [(number, (0, 1, 2)) for number in range(1, 5)]
    assert truth.digest_of(members) == blake3(weights).hexdigest()
    status = {"history": history(*((number, 33.0, 3) for number in range(1, 5))), "digest": truth.digest_of(members)}
    assert truth.violations(status, 4, SLOTS) == []
    assert truth.whole(status, SLOTS)


def test_a_round_without_one_slot_gives_other_weights_and_is_no_violation():
    members = [(1, (0, 1, 2)), (2, (0, 2))]
    status = {"history": history((1, 33.0, 3), (2, 22.0, 2)), "digest": truth.digest_of(members)}
    assert truth.violations(status, 2, SLOTS) == []
    assert not truth.whole(status, SLOTS)
    assert truth.violations({**status, "digest": truth.digest_of([(1, (0, 1, 2)), (2, (0, 1, 2))])}, 2, SLOTS)


@pytest.mark.parametrize(
    "record",
    [(1, 20.0, 2), (1, 43.0, 4), (1, 33.0, 2), (2, 33.0, 3)],
    ids=["a slot twice", "more than all", "sum and number disagree", "round 1 is missing"],
)
def test_what_no_honest_round_could_say_is_a_violation(record: tuple[int, float, int]):
    status = {"history": history(record), "digest": truth.digest_of([(1, (0, 1, 2))])}
    assert truth.violations(status, 1, SLOTS)


def test_a_recovery_is_the_longest_time_without_a_round_minus_a_usual_one():
    before = [Closing(float(number), number, "cloud-1") for number in range(1, 5)]
    measured = figures([*before, Closing(4.9, 5, "cloud-1"), Closing(12.0, 6, "agent-1"), Closing(13.0, 7, "agent-1")], 4.5, 20.0)
    assert measured is not None
    assert (measured.recover_s, measured.again, measured.round_s) == (pytest.approx(6.1), 0, 1.0)
    again = figures([*before, Closing(9.0, 4, "agent-1"), Closing(10.0, 5, "agent-1")], 4.5, 20.0)
    assert again is not None
    assert (again.recover_s, again.again) == (pytest.approx(3.5), 1)
    assert figures(before, 4.5, 20.0) is None


def test_a_copy_of_a_save_is_no_round(tmp_path: Path):
    folders = {node: tmp_path / node for node in ("cloud-1", "agent-1")}
    with Watch(folders) as watch:
        for node, label, content in (("cloud-1", 1, b"one"), ("agent-1", 1, b"one"), ("agent-1", 2, b"two"), ("agent-1", 3, b"")):
            folders[node].mkdir(exist_ok=True)
            (folders[node] / f"{label}.{'save' if content else 'replica'}").write_bytes(content)
    assert sorted((closing.round, closing.node) for closing in watch.closings) in ([(1, "agent-1"), (2, "agent-1")], [(1, "cloud-1"), (2, "agent-1")])
    assert watch.round == 2


def test_every_kind_of_fault_is_played_alone():
    played = {fault.kind for case in cases(0) for fault in case.schedule.faults}
    assert played == {*ON_NODES, *ON_FLEET}
    assert cases(3) == cases(3)
    assert all(
        isinstance(fault, Fault) and (fault.node or fault.kind in (*ON_FLEET, "clock_ahead")) for case in cases(1) for fault in case.schedule.faults
    )
