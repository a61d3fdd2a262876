"""The core tells how it came to its state, and names what is wrong with it."""

from __future__ import annotations

from support.running_jobs import running


def test_the_story_of_a_job_has_its_stimuli_and_its_log_in_order():
    world = running()
    world.deliver("", world.nodes["pi-2"].goodbye())
    world.run(1.0)
    assert world.core is not None
    lines = world.core.story("digits")
    kinds = [line.split()[1] for line in lines]
    assert {"announce", "submit", "heartbeat", "goodbye", "->"} <= set(kinds)
    assert [float(line.split()[0]) for line in lines] == sorted(float(line.split()[0]) for line in lines)
    assert any("pi-2" in line and "goodbye" in line for line in lines)
    assert world.core.validate_state() == []


def test_a_broken_state_is_named():
    world = running()
    assert world.core is not None
    seat = world.core.book["digits"].job.seats[0]
    seat.since = world.core.book["digits"].job.view + 1
    assert any(f"{seat.task} is live since view" in text for text in world.core.validate_state())
