"""The campaigns' own checks: what they call a violation, and how a recovery is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench.chaos import truth
from bench.chaos.kinds import cases
from bench.chaos.watch import Closing, Watch, figures
from blake3 import blake3
from msgspec.structs import replace

from fog_learning.backend import plain_ops
from fog_learning.backend.standin import examples
from fog_learning.job.reading import job_from
from fog_sim.campaign import chaos
from fog_sim.campaign.books import StarBook, TreeBook, Verdict
from fog_sim.costs import standin_backend
from fog_sim.faults import ON_FLEET, ON_NODES, Fault, Schedule
from fog_sim.shape import uniform
from fog_sim.world import Simulation

SHORT = replace(chaos.STAR, job={**chaos.JOB, "train": {"rounds": 4}}, nodes=tuple(uniform(3)), slots=3)
SLOTS = range(3)


def history(*rounds: tuple[int, float, int]) -> list[dict[str, float]]:
    return [{"round": number, "examples": examples, "updates": updates} for number, examples, updates in rounds]


def test_the_weights_that_must_come_out_are_those_that_do():
    _, weights = chaos.play(1, Schedule(), SHORT)
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
        isinstance(fault, Fault) and (fault.node or fault.kind in (*ON_FLEET, "clock_ahead", "clock_behind"))
        for case in cases(1)
        for fault in case.schedule.faults
    )


def test_a_coordinator_with_an_unsound_state_is_a_violation_and_its_stimuli_are_told():
    world = Simulation(3, chaos.SLOW, standin_backend)
    job = world.submit(SHORT.job)
    look = chaos.Inspector(world, job, SHORT.max_bytes)
    world.kernel.run(world.kernel.now + 3.0)
    look.second()
    assert not look.unsound
    assert world.coordinator.core is not None
    world.coordinator.core.book[job].job.seats[0].since = 99
    look.second()
    look.second()
    (found,) = look.unsound.values()
    assert found.startswith("coordinator at 6.0 s: chaos (running, view") and "is live since view 99" in found
    story = look.story()
    assert any(line.startswith("coordinator ") and "submit" in line for line in story)
    assert any(line.startswith("node-1 ") for line in story)
    world.coordinator.core = None
    look.second()
    assert not any(line.startswith("coordinator ") for line in look.story())


# -- the books of the simulated campaign ------------------------------------------------------------


class Star:
    """A star of three slots by hand, on the book's ops."""

    def __init__(self) -> None:
        job = job_from(SHORT.job)
        self.book = StarBook(job, {f"trainer-{slot}": slot for slot in range(3)}, 3)
        self.weights = self.book.run("init", "server", {}, {})[0]["weights"]
        self.history: list[dict[str, float]] = []

    def update(self, slot: int, number: int) -> Any:
        return self.book.run("train", f"trainer-{slot}", {"weights": self.weights}, {"round": number})[0]["weights"]

    def close(self, number: int, updates: list[tuple[int, Any]], said: int | None = None) -> None:
        total = None
        for slot, update in updates:
            total = self.book.run("accumulate", "server", {"sum": total, "add": update}, {"n": examples(slot)})[0]["sum"]
        self.weights = self.book.run("mean", "server", {"sum": total}, {})[0]["weights"]
        n = float(sum(examples(slot) for slot, _ in updates))
        self.history.append({"round": number, "updates": len(updates) if said is None else said, "examples": n})

    def verdict(self) -> Verdict:
        return self.book.verify({"history": self.history}, bytes(self.book.encode(self.weights)), range(3))


def test_the_book_of_a_star_names_who_was_counted():
    star = Star()
    star.close(1, [(slot, star.update(slot, 1)) for slot in range(3)])
    star.close(2, [(slot, star.update(slot, 2)) for slot in (0, 2)])
    assert star.verdict()[:3] == ([], False, {(0, 1), (1, 1), (2, 1), (0, 2), (2, 2)})


def test_the_book_of_a_star_sees_a_slot_counted_twice():
    star = Star()
    update = star.update(0, 1)
    star.close(1, [(0, update), (0, update)])
    assert "slot 0 of round 1 is twice in one mean" in star.verdict().violations


def test_the_book_of_a_star_sees_a_history_that_names_more_than_was_counted():
    star = Star()
    star.close(1, [(slot, star.update(slot, 1)) for slot in (0, 1)], said=3)
    assert "the history says 3 updates" in star.verdict().violations[0]


def test_the_book_of_a_star_sees_weights_that_come_from_nowhere():
    star = Star()
    star.close(1, [(slot, star.update(slot, 1)) for slot in range(3)])
    star.weights = star.update(0, 2)
    assert "no mean of this run" in star.verdict().violations[0]


@pytest.mark.parametrize(("slots", "twice"), [([0, 1, 2], None), ([0, 1, 2], 1)])
def test_the_book_of_a_tree_sees_a_slot_counted_twice(slots: list[int], twice: int | None):
    book = TreeBook(job_from(SHORT.job), {}, 3)
    members = slots if twice is None else [*slots, twice]
    n = [plain_ops.examples(slot) for slot in members]
    weights = [0.0, *(sum(k for slot, k in zip(members, n, strict=True) if slot == other) / sum(n) for other in range(plain_ops.SLOTS))]
    book.run("train", "trainer-0", {"weights": weights}, {"slot": 0, "round": 2})
    assert bool(book.violations) == (twice is not None)
