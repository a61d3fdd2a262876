"""Letters and blobs between hosts over a bus without guarantees. Sans-IO; the live host and the simulator drive it.

    endpoint.send(now, to, content, key)        # a letter; its blobs are in the table
    endpoint.on_frame(now, route, payload)      # any payload from the inbox or a cast
    for output in endpoint.take(): ...          # PublishFrame, Arrived, Acked, LetterRefused

A letter is offered with a manifest of its blobs; the chunks follow at once, as far as the receiver's window allows.
The receiver acknowledges (every half window, at a gap, at the end), and only that moves the window. After `stall_s` of
silence the sender probes; no letter is given up by time, only by cancel() and forget_peer(). A letter arrives at most
once per receiver instance, and at least once if its sender keeps it. All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from fog_common.errors import WireError
from fog_common.ids import TIERS
from fog_common.transfer import frames
from fog_common.transfer.blobs import Blobs
from fog_common.transfer.frames import Ack, Offer, Origin, StateProbe
from fog_common.transfer.letters import Acked, Address, Arrived, BlobMeta, Content, Letter, LetterRefused, Output, PublishFrame, TransferLimits
from fog_common.transfer.receiver import Receiver
from fog_common.transfer.sender import Sender
from fog_common.wire import topics

__all__ = ["Acked", "Address", "Arrived", "BlobMeta", "Content", "Endpoint", "Letter", "LetterRefused", "Output", "PublishFrame", "TransferLimits"]

FRAME_BYTES = 256 * 1024
"""Room in a letter's frame beside its body and blobs."""


class Endpoint:
    """One per host. The bus counts as connected until disconnected() is called."""

    def __init__(self, me: Address, fleet: str, job: str, incarnation: int, blobs: Blobs, limits: TransferLimits = TransferLimits()) -> None:
        self.me, self.fleet, self.job, self.incarnation = me, fleet, job, incarnation
        self.limits = limits
        self.counters: dict[str, int] = {}
        """Counts of repaired_chunks, repeated_letters, casts_repaired, probes, repeated_offers, duplicate_chunks, chunks_far_ahead, idle_dropped."""
        self.rejected: dict[str, int] = {}
        """Number of dropped frames by reason."""
        origin = Origin(incarnation, me.site, me.tier, me.kind)
        self._sender = Sender(origin, blobs, limits, self.counters, self._way)
        self._receiver = Receiver(origin, blobs, limits, self.counters, self._reject, self._way)
        self._now = 0.0
        self._online = True

    # -- sending ---------------------------------------------------------------------------

    def stamp(self, now: float, view: int, root_saved: int) -> None:
        """Set view and root_saved of all offers from now on. Letters refused as stale are offered again under a newer view."""
        self._now = now
        self._sender.stamp(view, root_saved)

    def send(self, now: float, to: Address, content: Content, key: Hashable) -> None:
        """Send a letter to one host; `key` returns in Acked or LetterRefused. FogError if a blob is not in the table, TooLarge over a limit."""
        self._now = now
        self._sender.send(now, to, content, key)

    def cast(self, now: float, scope: str, role: str, members: Sequence[Address], content: Content, key: Hashable) -> None:
        """Publish a letter once to all hosts of a role. scope: their site, or `all`. Acked comes once per member. Errors as of send()."""
        self._now = now
        topic = topics.CAST.at(fleet=self.fleet, scope=scope, group=topics.group(self.job, role), sender=self.me.node, kind=self.me.kind)
        self._sender.cast(now, topic, f"{scope}/{role}", members, content, key)

    def cancel(self, key: Hashable) -> None:
        """Stop an obsolete letter; no Acked or LetterRefused comes."""
        self._sender.cancel(key)

    def forget_peer(self, node: str) -> None:
        """Drop all outstanding letters to a node whose instance is gone."""
        self._sender.forget_peer(node)

    def set_limits(self, limits: TransferLimits) -> None:
        """Take new limits, e.g. the broker's largest payload; blobs on the way in larger chunks are cut anew."""
        self.limits = self._receiver.limits = limits
        self._sender.outbox.cut_anew(limits)

    def pending(self) -> list[tuple[Hashable, str, int, float]]:
        """(key, node, bytes that the node lacks, time of send) of each outstanding letter, oldest first per node; for status."""
        return [
            (sending.key, line.to.node, sum(flow.bytes_left for flow in sending.flows), sending.since)
            for line in self._sender.outbox.lines.values()
            for sending in line.letters.values()
        ]

    def in_flight(self, node: str) -> int:
        """Number of frames to that node that it has not acknowledged."""
        return sum(line.in_flight for peer, line in self._sender.outbox.lines.items() if peer[0] == node)

    def digests(self) -> set[str]:
        """Blobs of letters on their way, which should stay in the table."""
        return set(self._sender.outbox.parcels) | self._receiver.digests()

    # -- the bus ---------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """Probe the receivers of outstanding letters, because frames on the way may be lost."""
        self._now, self._online = now, True
        self._sender.connected(now)

    def disconnected(self, now: float) -> None:
        """Publish no frame until connected()."""
        self._now, self._online = now, False
        self._sender.disconnected()

    def on_frame(self, now: float, route: topics.Route, payload: frames.Payload) -> None:
        """Take any payload; a malformed or forbidden frame is counted in `rejected` and dropped."""
        self._now = now
        if route.plane == "cast" and route.sender == self.me.node and (route.sender, self.me.kind) not in self._sender.outbox.lines:
            return  # the broker returns our own cast
        try:
            if len(payload) > 0 and payload[0] == frames.CHUNK_MAGIC:
                self._receiver.on_chunk(now, route, payload)
                return
            message = frames.decode(payload, self.limits.max_letter_bytes + self.limits.inline_bytes + FRAME_BYTES)
            match message:
                case Offer():
                    self._sender.hear(route.sender, message.origin)
                    self._receiver.on_offer(now, route, message)
                case StateProbe():
                    self._sender.hear(route.sender, message.origin)
                    self._receiver.on_probe(now, route, message)
                case Ack():
                    self._sender.on_ack(now, route.sender, message)
        except WireError as error:
            self._reject(error.reason)

    # -- receiving -------------------------------------------------------------------------

    def accept(self, letter: Letter) -> None:
        """The host accepts the letter: the sender is told, and the letter does not arrive again."""
        self._receiver.accept(letter)

    def refuse(self, letter: Letter, reason: str) -> None:
        """The host refuses the letter: the sender is told the reason, and the letter does not arrive again under its view."""
        self._receiver.refuse(letter, reason)

    # -- time and output -------------------------------------------------------------------

    def on_timer(self, now: float) -> None:
        self._now = now
        self._sender.on_timer(now)
        self._receiver.on_timer(now)

    def next_timer(self) -> float | None:
        """Latest time of the next on_timer(), the current time if take() has outputs; None without a timer."""
        if self._sender.busy or (self._online and self._receiver.waiting):
            return self._now
        at = min(self._sender.next_timer(), self._receiver.next_timer())
        return at if at < math.inf else None

    def take(self) -> list[Output]:
        """Outputs since the last call, in order."""
        if self._online:
            self._receiver.acknowledge()
            self._sender.pump(self._now)
        outputs = self._receiver.outputs
        self._receiver.outputs = []
        if self._sender.outbox.outputs:
            outputs += self._sender.outbox.outputs
            self._sender.outbox.outputs = []
        return outputs

    # -- inside ----------------------------------------------------------------------------

    def _way(self, to: Address) -> tuple[str, str]:
        """(topic, plane) to an address. WireError if the address is not a topic."""
        try:
            topic = topics.inbox(self.fleet, to.site, to.node, self.me.node, self.me.site, to.kind)
        except ValueError as error:
            raise WireError(f"cannot be reached: {error}") from None
        if topics.parse(topic).plane == "d2d":
            return topic, "d2d"
        return topic, "up" if _rank(to.tier) >= _rank(self.me.tier) else "down"

    def _reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


def _rank(tier: str) -> int:
    return TIERS.index(tier) if tier in TIERS else len(TIERS)
