"""Timing of this node's announcements, heartbeats and retained presence, and the measurement of its link to the broker. Pure."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Final

from fog_agent.effects import Effect, ProbeLink, Say, ShowPresence
from fog_common.wire.messages import Presence, Probe

COALESCE_S: Final = 0.05
"""Urgent changes within this time share a heartbeat."""
REFRESH_S: Final = 60.0
"""Seconds between publications of the presence; its echo also measures the round trip to the broker."""
PROBE_AGAIN_S: Final = 3600.0
"""Seconds between two measurements of the link's rate."""
PROBE_FINE_S: Final = 0.004
"""A probe whose bytes take less than this is repeated with more bytes."""
PROBE_MOST: Final = 256 * 1024
"""Bytes of the largest probe."""
PROBE_LEAST_S: Final = 0.0005
"""Shortest time that a probe's bytes are assumed to take."""
PROBE_EMPTY: Final = 64
"""Bytes of a probe of the round trip."""
MOST_TRIPS: Final = 8
"""Number of round trips that are remembered."""


class Herald:
    """Timers of one node's messages to the coordinator; the core fills the messages."""

    def __init__(self, node: str, nonce: str, site: str, heartbeat_s: float, random: Random, effects: list[Effect]) -> None:
        """heartbeat_s: seconds between heartbeats. effects: list to which effects are appended."""
        self.node, self.nonce, self.site = node, nonce, site
        self.connected = False
        self.met = False
        """The node was connected at least once."""
        self._heartbeat_s, self._random, self._effects = heartbeat_s, random, effects
        self._announce_at: float | None = None
        self._beat_at: float | None = None
        self._refresh_at: float | None = None
        self._asked_at: float | None = None

    def next_timer(self) -> float | None:
        times = (self._announce_at, self._beat_at, self._refresh_at) if self.connected else ()
        return min((time for time in times if time is not None), default=None)

    def on_connected(self, now: float) -> None:
        """Announce soon: at once after the start, jittered after a loss, so that a fleet does not announce all at once."""
        self.connected = True
        spread = min(2.0, self._heartbeat_s / 2) if self.met else 0.05
        self.met = True
        self.announce_by(now + self._random.uniform(0.0, spread))

    def on_disconnected(self) -> None:
        self.connected = False
        self._announce_at = self._beat_at = self._refresh_at = self._asked_at = None

    def on_presence(self, presence: Presence, now: float, leaving: bool) -> float | None:
        """Take this node's own presence from the broker. Returns the seconds of the round trip, if it echoes the last one shown."""
        if not presence.online:  # a stale will, of this connection or of an earlier process
            if self.connected and not leaving:
                self.announce_by(now + self._random.uniform(0.2, 1.0))
        elif presence.nonce == self.nonce and self._asked_at is not None:
            trip, self._asked_at = now - self._asked_at, None
            return trip
        elif presence.nonce != self.nonce:
            self._effects.append(Say(f"another agent calls itself {self.node}: give each node a name of its own", warning=True))
        return None

    def asked(self, now: float) -> None:
        """The coordinator does not know this node, and asks for an announcement."""
        if self.connected:
            self.announce_by(now + self._random.uniform(0.0, COALESCE_S))

    def announce_by(self, when: float) -> None:
        self._announce_at = when if self._announce_at is None else min(self._announce_at, when)

    def beat_by(self, when: float) -> None:
        if self.connected and self._announce_at is None:  # an announcement brings a heartbeat with it
            self._beat_at = when if self._beat_at is None else min(self._beat_at, when)

    def changed(self, now: float) -> None:
        """Send a heartbeat soon, with all changes until then."""
        self.beat_by(now + COALESCE_S)

    def announces(self, now: float) -> bool:
        """Whether an announcement is due now; it counts as made."""
        due = self.connected and self._announce_at is not None and now >= self._announce_at
        if due:
            self._announce_at = None
        return due

    def refreshes(self, now: float) -> bool:
        """Whether the presence is due to be shown again."""
        return self.connected and self._refresh_at is not None and now >= self._refresh_at

    def beats(self, now: float) -> bool:
        """Whether a heartbeat is due now."""
        return self.connected and self._beat_at is not None and now >= self._beat_at

    def show(self, now: float) -> None:
        self._effects.append(ShowPresence(Presence(self.node, self.nonce, online=True, site=self.site)))
        self._asked_at = now
        self._refresh_at = now + REFRESH_S * self._random.uniform(0.9, 1.1)

    def beaten(self, now: float, again: bool) -> None:
        """A heartbeat was sent. again: the next one follows at once, otherwise after heartbeat_s."""
        self._beat_at = now + (COALESCE_S if again else self._heartbeat_s * self._random.uniform(0.9, 1.1))


class LinkProbe:
    """Measures the round trip to the broker and the rate of the link, by messages that this node sends to itself."""

    def __init__(self, size: int, effects: list[Effect]) -> None:
        """size: bytes of a probe; 0 = the rate is never measured. effects: list to which effects are appended."""
        self.rtt_s: float | None = None
        self._size, self._effects = size, effects
        self._trips: deque[float] = deque(maxlen=MOST_TRIPS)
        self._probed_at: float | None = None
        self._sent = (0, 0.0)
        """(number, time) of the last probe."""

    @property
    def shortest_s(self) -> float | None:
        """The shortest round trip, which is the link's own: longer ones include waiting for a processor."""
        return min(self._trips, default=None)

    def trip(self, seconds: float) -> None:
        self.rtt_s = seconds
        self._trips.append(seconds)

    def start(self, now: float, known: bool, busy: bool) -> None:
        """Begin a measurement if one is due: at every chance until the rate is `known`, then hourly while the node is not `busy`."""
        if not self._size:
            return
        if self._probed_at is None or not known or (now - self._probed_at >= PROBE_AGAIN_S and not busy):
            self._send(PROBE_EMPTY, now)

    def on_probe(self, probe: Probe, now: float) -> float | None:
        """Go on after an echo; returns bytes per second once they are known, otherwise None.

        A few empty probes measure the round trip. Then one with many bytes goes up and comes down: its time beyond the round trip is
        twice their time on the link.
        """
        number, sent_at = self._sent
        if probe.number != number:
            return None
        size = len(probe.filler)
        if size == PROBE_EMPTY:
            self.trip(now - sent_at)
            self._send(PROBE_EMPTY if len(self._trips) < MOST_TRIPS // 2 else self._size, now)
            return None
        took = now - sent_at - min(self._trips)
        if took < PROBE_FINE_S and size < PROBE_MOST:
            self._send(PROBE_MOST, now)  # too short to distinguish from the round trip
            return None
        return 2 * size / max(took, PROBE_LEAST_S)

    def _send(self, size: int, now: float) -> None:
        self._probed_at, self._sent = now, (self._sent[0] + 1, now)
        self._effects.append(ProbeLink(Probe(self._sent[0], bytes(size))))
