"""One letter to many peers, published once, paced by a quorum of them; chunks that many miss are cast again, others are sent alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

from fog_common.transfer.outgoing import Flow, LetterId, Parcel, PeerKey, PeerLine, Sending, Stream
from fog_common.transfer.window import bits

PACE: Final = 0.75
"""Fraction of the peers that must keep up; at least one peer."""
GATHER: Final = 0.125
"""Fraction of the stall time for which reports of losses are gathered before chunks go out again."""


def pace(behind: list[int]) -> int:
    """Lag of the slowest peer of the quorum. behind: lag of each peer, in frames."""
    return sorted(behind)[max(1, int(PACE * len(behind))) - 1]


class Pass:
    """A parcel of a cast: every chunk goes to all once, then those that many peers miss go again."""

    __slots__ = ("again", "cast", "flows", "next", "parcel")

    def __init__(self, cast: Casting, parcel: Parcel) -> None:
        self.cast, self.parcel = cast, parcel
        self.flows: dict[PeerKey, Flow] = {}
        self.next = 0
        self.again: deque[int] = deque()

    @property
    def passed(self) -> bool:
        """Whether every chunk went out once; from then on each flow counts its own losses."""
        return self.next >= self.parcel.count

    def join(self, flow: Flow) -> None:
        flow.passing = self
        flow.next = self.parcel.count
        self.flows[flow.line.peer] = flow

    def leave(self, flow: Flow) -> None:
        """Serve the flow alone from now on."""
        if self.flows.pop(flow.line.peer, None) is not None:
            flow.passing = None
            lost, flow.lost = flow.lost, 0
            if not self.passed:
                flow.next = self.next
                for index in bits(((1 << self.next) - 1) & ~(flow.received | lost)):
                    flow.sent(index)
            flow.miss(lost)
            flow.line.wake(flow)

    def missed(self, flow: Flow) -> None:
        self.cast.gather()

    def learned(self, flow: Flow, edge: int) -> None:
        """A report came during the pass. edge: chunks below it that the peer does not have are lost."""
        edge = max(edge, flow.received.bit_length() - 1)
        flow.lost |= ((1 << max(0, min(edge, self.next))) - 1) & ~flow.received

    def following(self, window: int) -> int | None:
        """Index of the chunk to cast now, or None."""
        if self.passed and not self.again:
            return None
        if self.passed:
            return self._again(window)
        flows = [flow for flow in self.flows.values() if not flow.done and not flow.line.probing]
        if not flows:
            return None
        if pace([self.next - (flow.received | flow.lost).bit_count() for flow in flows]) >= window:
            return None
        index = self.next
        self.next += 1
        if self.passed:
            for flow in self.flows.values():
                for left in bits(self.parcel.full & ~(flow.received | flow.lost)):
                    flow.sent(left)
            if any(flow.lost for flow in self.flows.values()):
                self.cast.gather()
        return index

    def _again(self, window: int) -> int | None:
        while self.again:
            index = self.again[0]
            takers = [flow for flow in self.flows.values() if not flow.received >> index & 1]
            heard = [flow.line.in_flight for flow in takers if not flow.line.probing]
            if takers and (not heard or pace(heard) >= window):
                return None
            self.again.popleft()
            if takers:
                for flow in takers:
                    flow.resend.pop(index, None)
                    flow.sent(index)
                return index
        return None

    def decide(self, threshold: int) -> int:
        """Cast chunks again that at least `threshold` peers miss, send the others alone. Returns the number of chunks to cast again."""
        misses: dict[int, int] = {}
        for flow in self.flows.values():
            for index in bits(flow.lost):
                misses[index] = misses.get(index, 0) + 1
        common = 0
        for index, count in sorted(misses.items()):
            if count >= threshold:
                common |= 1 << index
                if index not in self.again:
                    self.again.append(index)
        for flow in self.flows.values():
            alone, flow.lost = flow.lost & ~common, 0
            for index in bits(alone):
                flow.resend[index] = None
            if alone:
                flow.line.wake(flow)
        return common.bit_count()


class Casting:
    """A letter to a group. The line of each member has a Sending with the same id."""

    __slots__ = (
        "deadline",
        "id",
        "inline",
        "key",
        "long",
        "members",
        "missing",
        "offer",
        "parcels",
        "passes",
        "stream",
        "topic",
        "undecided",
    )

    def __init__(self, id_: LetterId, stream: Stream, topic: str, key: Hashable, parcels: tuple[Parcel, ...]) -> None:
        self.id, self.stream, self.topic, self.key, self.parcels = id_, stream, topic, key, parcels
        self.members: dict[PeerKey, Sending] = {}
        self.missing: dict[PeerKey, None] = {}
        """Peers that need the letter's frame again."""
        self.passes: list[Pass] = []
        self.offer = True
        """The letter's frame has to be cast."""
        self.inline = self.long = False
        self.undecided = False
        self.deadline: float | None = None

    def gather(self) -> None:
        """Losses were reported: decide soon between another cast and single repairs."""
        self.undecided = True

    def lack(self, peer: PeerKey) -> None:
        self.missing[peer] = None
        self.gather()

    @property
    def threshold(self) -> int:
        return max(2, (len(self.members) + 1) // 2)

    def ready(self, window: int) -> bool:
        """Whether the letter's frame may go out: the quorum has fewer than `window` unanswered letters."""
        lines: list[PeerLine] = [sending.line for sending in self.members.values()]
        heard = [line for line in lines if not line.probing]
        return pace([len(line.unanswered) for line in heard or lines]) < window

    def leave(self, peer: PeerKey) -> None:
        self.members.pop(peer, None)
        self.missing.pop(peer, None)

    def decide(self) -> int:
        """Decide after the gathering; returns the number of frames to cast again."""
        self.undecided, self.deadline = False, None
        again = 0
        if len(self.missing) >= self.threshold:
            self.offer = True
            again += 1
        else:
            for peer in self.missing:
                sending = self.members[peer]
                sending.line.offers[sending.id] = sending
        self.missing.clear()
        for one in self.passes:
            if one.passed:
                again += one.decide(self.threshold)
            elif any(flow.lost for flow in one.flows.values()):
                self.undecided = False  # the end of the pass decides
        return again
