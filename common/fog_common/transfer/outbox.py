"""Tables of all letters, casts and parcels on their way out; letters enter by pack() and add(), and leave by forget()."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from fog_common.errors import FogError, TooLarge
from fog_common.transfer import frames
from fog_common.transfer.blobs import Blobs
from fog_common.transfer.casting import Casting
from fog_common.transfer.letters import BODY, Address, Content, Output, TransferLimits
from fog_common.transfer.outgoing import Flow, Parcel, PeerKey, PeerLine, Sending, Stream

HEAD_BYTES: Final = 1024
"""Room in an offer's frame for the fields beside body and manifest."""
PART_BYTES: Final = 192
"""Room in an offer's frame for an entry of the manifest; a name may have 128 characters."""


class Outbox:
    def __init__(
        self, blobs: Blobs, limits: TransferLimits, counters: dict[str, int], incarnation: int, way: Callable[[Address], tuple[str, str]]
    ) -> None:
        self._blobs, self.limits, self.counters, self.incarnation, self._way = blobs, limits, counters, incarnation, way
        self.outputs: list[Output] = []
        self.view = 0
        self.root_saved = -1
        self.lines: dict[PeerKey, PeerLine] = {}
        self.casts: dict[tuple[str, int], Casting] = {}
        self.keys: dict[Hashable, dict[tuple[PeerKey, tuple[str, int]], Sending]] = {}
        self.parcels: dict[str, Parcel] = {}
        self.ready: dict[PeerKey, PeerLine] = {}
        """Lines that may have frames to send."""
        self.casting: dict[tuple[str, int], Casting] = {}
        """Casts that may have frames to send."""
        self.soonest = math.inf
        """Lower bound of the next due timer."""
        self._streams: dict[Hashable, Stream] = {}
        self._last_number = 0
        self._bodies = 0

    def count(self, name: str, by: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by

    # -- in --------------------------------------------------------------------------------

    def line(self, to: Address) -> PeerLine:
        peer = (to.node, to.kind)
        line = self.lines.get(peer)
        if line is None or line.to != to:
            old = line
            line = PeerLine(to, *self._way(to), self.stream(peer))
            if old is not None:  # the peer moved to another site: the next frames go there
                old.to, old.topic, old.plane = line.to, line.topic, line.plane
                return old
            self.lines[peer] = line
        return line

    def stream(self, name: Hashable) -> Stream:
        """The stream of that name. A stream outlives its line, so that no number comes twice under one incarnation."""
        return self._streams.setdefault(name, Stream())

    def pack(self, content: Content) -> tuple[tuple[Parcel, ...], bool]:
        """The parcels of a letter, and whether the last one is its body. FogError if a blob is missing, TooLarge over a limit."""
        if len(content.body) > self.limits.max_letter_bytes:
            raise TooLarge(len(content.body), self.limits.max_letter_bytes, "letter")
        if len(content.blobs) >= frames.MAX_PARTS:
            raise TooLarge(len(content.blobs), frames.MAX_PARTS - 1, "number of blobs in a letter")
        contents: dict[str, memoryview] = {}
        for meta in content.blobs:
            if meta.size > self.limits.max_blob_bytes:
                raise TooLarge(meta.size, self.limits.max_blob_bytes, "blob")
            known = self.parcels.get(meta.digest)
            held = known.content if known is not None else self._blobs.get(meta.digest)
            if held is None or len(held) != meta.size:
                raise FogError(f"blob {meta.digest[:12]} of {meta.size} B is not here: it cannot be sent to {content.to}")
            contents[meta.digest] = held
        long = self._too_long(content)
        parcels = [self._parcel(digest, view) for digest, view in contents.items()]
        if long:
            parcels.append(self._body(content))
        return tuple(parcels), long

    def _parcel(self, digest: str, content: memoryview) -> Parcel:
        parcel = self.parcels.get(digest)
        if parcel is None:
            parcel = Parcel(digest, content.cast("B") if content.format != "B" else content, self._number(), self.limits.chunk_bytes)
            if parcel.count > frames.MAX_CHUNKS:
                raise TooLarge(parcel.size, frames.MAX_CHUNKS * parcel.chunk, "blob in chunks of this size")
            self.parcels[digest] = parcel
        parcel.users += 1
        return parcel

    def _number(self) -> int:
        self._last_number = self._last_number % ((1 << 32) - 1) + 1
        return self._last_number

    def release(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            parcel.users -= 1
            if parcel.users == 0:
                self.parcels.pop(parcel.digest, None)

    def inline(self, content: Content, parcels: tuple[Parcel, ...], long: bool) -> bool:
        """Whether the blobs travel inside the letter's frame."""
        total = sum(parcel.size for parcel in parcels)
        room = self.limits.chunk_bytes - HEAD_BYTES - len(content.body) - PART_BYTES * len(parcels)
        return not long and total <= self.limits.inline_bytes and total <= room

    def add(self, sending: Sending) -> None:
        """Add a letter to its line, with the flows of its parcels."""
        line = sending.line
        line.letters[sending.id] = sending
        self.keys.setdefault(sending.key, {})[line.peer, sending.id] = sending
        if not sending.inline:
            for parcel in sending.parcels:
                self._carry(sending, parcel)

    # -- out -------------------------------------------------------------------------------

    def forget(self, sending: Sending, held: bool = False) -> None:
        """Remove a letter that is done or obsolete. held: the peer has its blobs."""
        line, name = sending.line, sending.id
        line.letters.pop(name, None)
        line.offers.pop(name, None)
        line.unanswered.pop(name, None)
        for flow in sending.flows:
            flow.users -= 1
            if held:
                line.hold(flow.parcel.digest)
            if flow.users == 0:
                line.drop_flow(flow)
            elif flow.passing is not None and flow.passing.cast is sending.cast:
                flow.passing.leave(flow)  # other letters still need the flow, which is served alone from now on
        sending.flows = []
        if (mine := self.keys.get(sending.key)) is not None:
            mine.pop((line.peer, name), None)
            if not mine:
                del self.keys[sending.key]
        self.ready[line.peer] = line
        if sending.cast is not None:
            cast = self.casts[sending.cast.id]
            cast.leave(line.peer)
            self.casting[cast.id] = cast
            if cast.members:
                return
            self.casts.pop(cast.id, None)
            self.casting.pop(cast.id, None)
        sending.stream.open.pop(name[1], None)
        self.release(sending.parcels)

    # -- again -----------------------------------------------------------------------------

    def requeue(self, sending: Sending) -> None:
        """Send the letter's frame again, alone or as a new cast if many members need it."""
        line = sending.line
        line.unanswered.pop(sending.id, None)
        sending.known, sending.refused_view, sending.due = False, None, math.inf
        self.count("repeated_letters")
        if sending.cast is not None:
            if not sending.cast.offer:
                sending.cast.lack(line.peer)
            self.casting[sending.cast.id] = self.casts[sending.cast.id]
        else:
            line.offers[sending.id] = sending
        self.ready[line.peer] = line

    def restart(self, flow: Flow) -> None:
        """Send a blob from its first chunk, because the peer does not know it."""
        if flow.passing is not None:
            flow.nothing_there()
        else:
            flow.restart(hint=False)
            flow.line.wake(flow)

    def restart_line(self, line: PeerLine) -> None:
        """Send all letters and blobs of a line again, because the peer is a new process."""
        for flow in line.flows.values():
            if flow.passing is not None:
                flow.passing.leave(flow)
            flow.restart(hint=False)
        line.held.clear()
        line.unanswered.clear()
        line.grant, line.last_ack, line.probing = 1 << 16, 0, False
        for sending in line.letters.values():
            if sending.refused_view is None and (sending.cast is None or not sending.cast.offer):
                sending.known, sending.due = False, math.inf
                line.offers[sending.id] = sending
        self.ready[line.peer] = line

    def arm(self, line: PeerLine, sending: Sending, due: float) -> None:
        sending.due = due
        line.deadline = min(line.deadline, due)
        self.soonest = min(self.soonest, due)

    def cut_anew(self, limits: TransferLimits) -> None:
        """Take new limits; parcels whose chunks exceed them are cut into smaller ones, under new numbers."""
        smaller = limits.chunk_bytes < self.limits.chunk_bytes
        self.limits = limits
        if not smaller:
            return
        for cast in self.casts.values():
            for one in cast.passes:
                for flow in list(one.flows.values()):
                    one.leave(flow)
            cast.passes = []
        for parcel in self.parcels.values():
            parcel.cut(self._number(), limits.chunk_bytes)
        for line in self.lines.values():
            line.numbers = {flow.parcel.number: flow for flow in line.flows.values()}
            for flow in line.flows.values():
                flow.restart(hint=True)
        alone = [sending for line in self.lines.values() for sending in line.letters.values() if sending.cast is None]
        for group in [[sending] for sending in alone] + [list(cast.members.values()) for cast in self.casts.values()]:
            self._refit(group)

    def _refit(self, group: list[Sending]) -> None:
        """Fit one letter, to all its receivers, into smaller limits."""
        content, parcels, long = group[0].content, group[0].parcels, group[0].long
        new: tuple[Parcel, ...] = ()
        if not long and self._too_long(content):
            long, new = True, (self._body(content),)
        inline = group[0].inline and self.inline(content, parcels + new, long)
        for sending in group:
            fresh = parcels + new if sending.inline and not inline else new
            sending.parcels, sending.long, sending.inline = parcels + new, long, inline
            for parcel in fresh:
                self._carry(sending, parcel)
            if sending.due < math.inf and sending.refused_view is None:
                sending.known, sending.due = False, math.inf
                sending.line.unanswered.pop(sending.id, None)
                sending.line.offers[sending.id] = sending
            self.ready[sending.line.peer] = sending.line
            if sending.cast is not None:
                sending.cast.parcels, sending.cast.long, sending.cast.inline = sending.parcels, long, inline

    def _too_long(self, content: Content) -> bool:
        return HEAD_BYTES + len(content.body) + PART_BYTES * len(content.blobs) > self.limits.chunk_bytes

    def _body(self, content: Content) -> Parcel:
        self._bodies += 1
        return self._parcel(f"{BODY}{self.incarnation}-{self._bodies}", memoryview(content.body))

    def _carry(self, sending: Sending, parcel: Parcel) -> None:
        if parcel.size:
            flow = sending.line.flow(parcel)
            flow.users += 1
            sending.flows.append(flow)
