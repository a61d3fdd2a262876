"""Letters and blobs between hosts over a bus that promises nothing: sans-IO, driven by the live host and by the simulator.

    endpoint.send(now, to, content, key)        # a letter; its blobs are in the table
    endpoint.on_frame(now, route, payload)      # whatever came on the inbox or on a cast
    for output in endpoint.take(): ...          # PublishFrame, Arrived, Acked, LetterRefused

A letter is offered with a manifest of its blobs; the chunks are pushed right behind it, as far as the receiver's window goes.
The receiver acknowledges what it has (every half window, at a gap, at the end), and only that moves the window. Silence for
`stall_s` makes the sender ask; nothing is ever given up by time, only by cancel() and forget_peer(). A letter arrives at most
once per receiver instance, and at least once where the host keeps it.
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
"""What a letter's frame may have beside its body."""


class Endpoint:
    """One per host. It takes the bus for connected until it hears otherwise."""

    def __init__(self, me: Address, fleet: str, job: str, incarnation: int, blobs: Blobs, limits: TransferLimits = TransferLimits()) -> None:
        self.me, self.fleet, self.job, self.incarnation = me, fleet, job, incarnation
        self.limits = limits
        self.counters: dict[str, int] = {}
        """repaired_chunks, repeated_letters, casts_repaired, probes, repeated_offers, duplicate_chunks, chunks_far_ahead, idle_dropped."""
        self.rejected: dict[str, int] = {}
        """Frames that were dropped, by reason."""
        origin = Origin(incarnation, me.site, me.tier, me.kind)
        self._sender = Sender(origin, blobs, limits, self.counters, self._way)
        self._receiver = Receiver(origin, blobs, limits, self.counters, self._reject, self._way)
        self._now = 0.0
        self._online = True

    # -- sending ---------------------------------------------------------------------------

    def stamp(self, now: float, view: int, root_saved: int) -> None:
        """For every letter that is offered from now on. What was refused as stale is offered again under a newer view."""
        self._now = now
        self._sender.stamp(view, root_saved)

    def send(self, now: float, to: Address, content: Content, key: Hashable) -> None:
        """One letter to one host; `key` comes back in Acked or LetterRefused. FogError if a blob is not in the table, TooLarge over a limit."""
        self._now = now
        self._sender.send(now, to, content, key)

    def cast(self, now: float, scope: str, role: str, members: Sequence[Address], content: Content, key: Hashable) -> None:
        """One letter to all hosts of a role, published once. scope: their site, or `all`. Acked comes once per member."""
        self._now = now
        topic = topics.CAST.at(fleet=self.fleet, scope=scope, group=topics.group(self.job, role), sender=self.me.node, kind=self.me.kind)
        self._sender.cast(now, topic, f"{scope}/{role}", members, content, key)

    def cancel(self, key: Hashable) -> None:
        """The letter is obsolete: no more is pushed of it, no Acked or LetterRefused comes."""
        self._sender.cancel(key)

    def forget_peer(self, node: str) -> None:
        """The instance on that node is gone: what is outstanding towards it is dropped."""
        self._sender.forget_peer(node)

    def set_limits(self, limits: TransferLimits) -> None:
        """E.g. the broker's largest payload became known. What is on the way in larger chunks is cut anew."""
        self.limits = self._receiver.limits = limits
        self._sender.outbox.cut_anew(limits)

    def pending(self) -> list[tuple[Hashable, str, int, float]]:
        """(key, node, bytes that it does not have yet, since when), oldest first: for status."""
        return [
            (sending.key, line.to.node, sum(flow.bytes_left for flow in sending.flows), sending.since)
            for line in self._sender.outbox.lines.values()
            for sending in line.letters.values()
        ]

    def in_flight(self, node: str) -> int:
        """Frames on the way to that node that it has not acknowledged."""
        return sum(line.in_flight for peer, line in self._sender.outbox.lines.items() if peer[0] == node)

    def digests(self) -> set[str]:
        """Blobs that letters on their way name: they should stay in the table."""
        return set(self._sender.outbox.parcels) | self._receiver.digests()

    # -- the bus ---------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """Receivers of all that is outstanding are asked what they have; they are told what we have."""
        self._now, self._online = now, True
        self._sender.connected(now)

    def disconnected(self, now: float) -> None:
        """Nothing is published until connected()."""
        self._now, self._online = now, False
        self._sender.disconnected()

    def on_frame(self, now: float, route: topics.Route, payload: frames.Payload) -> None:
        """Whatever it is: a frame that is none, or not allowed, is counted in `rejected` and dropped."""
        self._now = now
        if route.plane == "cast" and route.sender == self.me.node and (route.sender, self.me.kind) not in self._sender.outbox.lines:
            return  # our own cast, come back from the broker
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
        """The host took it: the sender is told, and it does not come again."""
        self._receiver.accept(letter)

    def refuse(self, letter: Letter, reason: str) -> None:
        """The sender is told why; the letter does not come again under its view."""
        self._receiver.refuse(letter, reason)

    # -- time and output -------------------------------------------------------------------

    def on_timer(self, now: float) -> None:
        self._now = now
        self._sender.on_timer(now)
        self._receiver.on_timer(now)

    def next_timer(self) -> float | None:
        """When on_timer() is to be called, at the latest; now, if take() would have something."""
        if self._sender.busy or (self._online and self._receiver.waiting):
            return self._now
        at = min(self._sender.next_timer(), self._receiver.next_timer())
        return at if at < math.inf else None

    def take(self) -> list[Output]:
        """What happened and what is to be done since the last call, in order."""
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
        """(topic, plane) to an address."""
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
