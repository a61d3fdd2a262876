"""The herald, called directly: when a node announces itself, beats and shows its presence."""

from __future__ import annotations

from random import Random

import pytest

from fog_agent.effects import Effect, Say, ShowPresence
from fog_agent.presence import COALESCE_S, REFRESH_S, Herald
from fog_common.wire.messages import Presence

BEAT_S = 5.0


class Node:
    def __init__(self, seed: int = 1) -> None:
        self.effects: list[Effect] = []
        self.herald = Herald("pi-1", "n1", "hall", BEAT_S, Random(seed), self.effects)


def connected(seed: int = 1) -> Node:
    """A node that came up at 0 and made its announcement."""
    node = Node(seed)
    node.herald.on_connected(0.0)
    assert node.herald.announces(1.0)
    return node


def due(node: Node) -> float:
    when = node.herald.next_timer()
    assert when is not None
    return when


def test_the_first_announcement_comes_at_once_and_only_once():
    node = Node()
    assert node.herald.next_timer() is None
    node.herald.on_connected(10.0)
    when = due(node)
    assert 10.0 <= when <= 10.05
    assert not node.herald.announces(when - 1e-6) and node.herald.announces(when) and not node.herald.announces(when)


def test_a_fleet_that_comes_back_spreads_its_announcements():
    times = []
    for seed in range(50):
        node = connected(seed)
        node.herald.on_disconnected()
        assert node.herald.next_timer() is None
        node.herald.on_connected(100.0)
        times.append(due(node) - 100.0)
    assert min(times) < 0.3 and max(times) > 1.5 and max(times) <= 2.0


def test_nothing_is_due_without_a_connection():
    node = connected()
    node.herald.show(1.0)
    node.herald.beaten(1.0, again=False)
    node.herald.on_disconnected()
    node.herald.changed(2.0)
    node.herald.asked(2.0)
    assert node.herald.next_timer() is None
    assert not any(ask(1e9) for ask in (node.herald.announces, node.herald.refreshes, node.herald.beats))


def test_changes_share_a_heartbeat_and_the_first_sets_its_time():
    node = connected()
    node.herald.beaten(1.0, again=False)
    node.herald.changed(2.0)
    node.herald.changed(2.0 + COALESCE_S / 2)
    assert due(node) == pytest.approx(2.0 + COALESCE_S)
    assert not node.herald.beats(2.0) and node.herald.beats(2.0 + COALESCE_S)


def test_a_change_before_an_announcement_asks_for_no_heartbeat_of_its_own():
    node = connected()
    node.herald.asked(2.0)
    node.herald.changed(2.0)
    assert node.herald.announces(2.0 + COALESCE_S) and not node.herald.beats(1e9)


def test_heartbeats_follow_each_other_with_jitter_or_at_once():
    node = connected()
    pauses = []
    for now in range(100):
        node.herald.beaten(float(now), again=False)
        pauses.append(due(node) - now)
    assert min(pauses) >= 0.9 * BEAT_S and max(pauses) <= 1.1 * BEAT_S and max(pauses) - min(pauses) > 0.1 * BEAT_S
    node.herald.beaten(200.0, again=True)
    assert due(node) == pytest.approx(200.0 + COALESCE_S)


def test_the_presence_is_shown_again_after_about_a_minute():
    node = connected()
    node.herald.show(10.0)
    assert node.effects == [ShowPresence(Presence("pi-1", "n1", online=True, site="hall"))]
    assert 0.9 * REFRESH_S <= due(node) - 10.0 <= 1.1 * REFRESH_S
    assert not node.herald.refreshes(10.0 + 0.8 * REFRESH_S) and node.herald.refreshes(10.0 + 1.1 * REFRESH_S)


def test_the_echo_of_a_shown_presence_is_one_round_trip():
    node, echo = connected(), Presence("pi-1", "n1", online=True, site="hall")
    assert node.herald.on_presence(echo, 1.0, leaving=False) is None, "nothing was shown yet: the broker kept it from before"
    node.herald.show(10.0)
    assert node.herald.on_presence(echo, 10.25, leaving=False) == 0.25
    assert node.herald.on_presence(echo, 10.5, leaving=False) is None
    node.herald.show(20.0)
    node.herald.on_disconnected()
    assert node.herald.on_presence(echo, 21.0, leaving=False) is None, "what the lost connection asked is not answered on the next"


@pytest.mark.parametrize("nonce", ["n1", "n0"])
def test_a_stale_will_is_answered_by_an_announcement(nonce: str):
    node, will = connected(), Presence("pi-1", nonce, online=False)
    node.herald.on_presence(will, 5.0, leaving=False)
    assert 5.2 <= due(node) <= 6.0 and node.herald.announces(6.0)


def test_a_node_that_leaves_does_not_contradict_its_goodbye():
    node = connected()
    node.herald.on_presence(Presence("pi-1", "n1", online=False), 5.0, leaving=True)
    assert node.herald.next_timer() is None


def test_another_agent_of_the_same_name_is_warned_of():
    node = connected()
    node.herald.show(5.0)
    assert node.herald.on_presence(Presence("pi-1", "n2", online=True), 5.1, leaving=False) is None
    (warning,) = [effect for effect in node.effects if isinstance(effect, Say)]
    assert warning.warning and "another agent calls itself pi-1" in warning.text
    assert node.herald.on_presence(Presence("pi-1", "n1", online=True), 5.2, leaving=False) == pytest.approx(0.2), "its own echo still counts"


def test_the_earliest_of_several_wishes_to_announce_holds():
    node = connected()
    node.herald.announce_by(9.0)
    node.herald.announce_by(7.0)
    node.herald.announce_by(8.0)
    assert due(node) == 7.0
