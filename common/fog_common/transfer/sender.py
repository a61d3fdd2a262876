"""The sending half of an endpoint: letters and blobs go out as far as the windows allow, and again where receivers report losses."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence

from fog_common.errors import WireError
from fog_common.transfer import answers, frames
from fog_common.transfer.blobs import Blobs
from fog_common.transfer.casting import GATHER, Casting, Pass
from fog_common.transfer.frames import Ack, BlobPart, Offer, Origin, StateProbe
from fog_common.transfer.letters import Address, Content, PublishFrame, TransferLimits
from fog_common.transfer.outbox import Outbox
from fog_common.transfer.outgoing import Parcel, PeerLine, Sending

PROBED = 512
"""Largest number of letters in one probe."""


class Sender:
    def __init__(self, me: Origin, blobs: Blobs, limits: TransferLimits, counters: dict[str, int], way: Callable[[Address], tuple[str, str]]) -> None:
        self._me, self._code = me, frames.origin_code(me.kind)
        self.outbox = Outbox(blobs, limits, counters, me.incarnation, way)
        self._online = True

    # -- the host --------------------------------------------------------------------------

    def send(self, now: float, to: Address, content: Content, key: Hashable) -> None:
        parcels, long = self.outbox.pack(content)
        line = self.outbox.line(to)
        sending = Sending(line, line.stream, ("", line.stream.number()), key, content, parcels, now)
        sending.long, sending.inline = long, self.outbox.inline(content, parcels, long)
        self.outbox.add(sending)
        line.offers[sending.id] = sending
        self.outbox.ready[line.peer] = line

    def cast(self, now: float, topic: str, stream_name: str, members: Sequence[Address], content: Content, key: Hashable) -> None:
        if not members:
            return
        outbox = self.outbox
        parcels, long = outbox.pack(content)
        stream = outbox.stream(stream_name)
        cast = Casting((stream_name, stream.number()), stream, topic, key, parcels)
        cast.long, cast.inline = long, outbox.inline(content, parcels, long)
        passes = {parcel.digest: Pass(cast, parcel) for parcel in parcels if parcel.size and not cast.inline}
        for to in members:
            line = outbox.line(to)
            sending = Sending(line, stream, cast.id, key, content, parcels, now)
            sending.cast, sending.long, sending.inline = cast, long, cast.inline
            outbox.add(sending)
            cast.members[line.peer] = sending
            for flow in sending.flows:
                if flow.users == 1:  # otherwise an earlier letter carries it already
                    passes[flow.parcel.digest].join(flow)
        for one in passes.values():
            if one.flows:
                cast.passes.append(one)
                if all(flow.hint for flow in one.flows.values()):
                    one.next = one.parcel.count  # all members probably hold the blob: ask first
                else:
                    for flow in one.flows.values():
                        flow.hint = False
        outbox.casts[cast.id] = outbox.casting[cast.id] = cast

    def cancel(self, key: Hashable) -> None:
        for sending in list(self.outbox.keys.get(key, {}).values()):
            self.outbox.forget(sending)

    def forget_peer(self, node: str) -> None:
        for peer in [peer for peer in self.outbox.lines if peer[0] == node]:
            line = self.outbox.lines[peer]
            for sending in list(line.letters.values()):
                self.outbox.forget(sending)
            del self.outbox.lines[peer]
            self.outbox.ready.pop(peer, None)

    def stamp(self, view: int, root_saved: int) -> None:
        outbox = self.outbox
        outbox.view, outbox.root_saved = view, root_saved
        for line in outbox.lines.values():
            for sending in list(line.letters.values()):
                if sending.refused_view is not None and sending.refused_view < outbox.view:
                    outbox.requeue(sending)

    def connected(self, now: float) -> None:
        """Probe the receivers of all offered letters, because frames on the way may be lost."""
        self._online = True
        for line in self.outbox.lines.values():
            asked = [sending for sending in line.letters.values() if sending.due < math.inf]
            for sending in asked:
                sending.wait = self.outbox.limits.stall_s
                self.outbox.arm(line, sending, now + sending.wait)
            if asked:
                self._ask(line, asked)

    def disconnected(self) -> None:
        self._online = False

    # -- frames and time -------------------------------------------------------------------

    def hear(self, node: str, origin: Origin) -> PeerLine | None:
        """Note the incarnation of a peer; a newer one restarts its line. None for an unknown peer; WireError for an older incarnation."""
        line = self.outbox.lines.get((node, origin.kind))
        if line is None:
            return None
        if line.incarnation is None:
            line.incarnation = origin.incarnation
        elif origin.incarnation < line.incarnation:
            raise WireError(f"frame of {node}'s incarnation {origin.incarnation}, {line.incarnation} is known", "dead_incarnation")
        elif origin.incarnation > line.incarnation:
            line.incarnation = origin.incarnation
            self.outbox.restart_line(line)
        return line

    def on_ack(self, now: float, node: str, ack: Ack) -> None:
        """WireError for an Ack to another incarnation, or one that contradicts the outbox."""
        if ack.of != self._me.incarnation:
            raise WireError(f"{node} answers our incarnation {ack.of}, this is {self._me.incarnation}", "dead_incarnation")
        line = self.hear(node, ack.origin)
        if line is not None:
            answers.apply(self.outbox, now, line, ack)

    def next_timer(self) -> float:
        return self.outbox.soonest if self._online else math.inf

    def on_timer(self, now: float) -> None:
        outbox = self.outbox
        if not self._online or now < outbox.soonest:
            return
        outbox.soonest = math.inf
        for line in outbox.lines.values():
            if line.deadline <= now:
                quiet = list(line.quiet(now, outbox.limits.stall_s, outbox.limits.stall_max_s))
                if quiet:
                    self._ask(line, quiet)
            outbox.soonest = min(outbox.soonest, line.deadline)
        for cast in outbox.casts.values():
            if cast.deadline is not None and cast.deadline <= now:
                self._decide(cast)
            if cast.deadline is not None:
                outbox.soonest = min(outbox.soonest, cast.deadline)

    def _ask(self, line: PeerLine, letters: list[Sending]) -> None:
        outbox = self.outbox
        letters = letters[:PROBED]
        line.probe = line.stream.probes = line.stream.probes + 1
        line.probe_serial, line.probing = line.serial, True
        flows = {flow.parcel.number: flow for sending in letters for flow in sending.flows}
        line.probe_marks = {number: flow.passing.next for number, flow in flows.items() if flow.passing is not None}
        bases = {sending.id[0]: sending.stream.base for sending in letters}
        probe = StateProbe(
            self._me, line.probe, tuple(bases.items()), tuple(sending.id for sending in letters), tuple(flows), outbox.limits.window_chunks
        )
        outbox.outputs.append(PublishFrame(line.topic, frames.encode(probe), line.plane))
        outbox.count("probes")
        for sending in letters:
            if sending.cast is not None:
                outbox.casting[sending.cast.id] = outbox.casts[sending.cast.id]  # the other members do not wait for this one

    # -- out -------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether there may be frames to send now."""
        return self._online and bool(self.outbox.ready or self.outbox.casting)

    def pump(self, now: float) -> None:
        """Send as far as the windows allow: letters first, then chunks of all flows in turn."""
        while self.busy:
            self._pump(now)

    def _pump(self, now: float) -> None:
        outbox = self.outbox
        window = outbox.limits.window_chunks
        casting, outbox.casting = outbox.casting, {}
        for cast in casting.values():
            self._gather(now, cast)
            if cast.offer and cast.ready(window):
                self._cast_offer(now, cast)
        ring: deque[PeerLine | Pass] = deque()
        ready, outbox.ready = outbox.ready, {}
        for line in ready.values():
            while line.offers and (line.in_flight < min(window, line.grant) or not line.unanswered):  # chunks never block letters
                self._offer(now, line, next(iter(line.offers.values())))
            if line.ring:
                ring.append(line)
        ring.extend(one for cast in casting.values() if not cast.offer for one in cast.passes)
        while ring:
            item = ring.popleft()
            if self._line_chunk(item) if isinstance(item, PeerLine) else self._pass_chunk(item):
                ring.append(item)
        for line in ready.values():
            if line.repaired:
                outbox.count("repaired_chunks", line.repaired)
                line.repaired = 0
        for cast in casting.values():
            self._gather(now, cast)  # a pass has ended with losses

    def _line_chunk(self, line: PeerLine) -> bool:
        if line.in_flight >= min(self.outbox.limits.window_chunks, line.grant) or (found := line.next_chunk()) is None:
            return False
        flow, index = found
        flow.sent(index)
        frame = flow.parcel.frame(index, self.outbox.limits.window_chunks, self._me.incarnation, self._code)
        self.outbox.outputs.append(PublishFrame(line.topic, frame, line.plane))
        return True

    def _pass_chunk(self, one: Pass) -> bool:
        window = self.outbox.limits.window_chunks
        index = one.following(window)
        if index is None:
            return False
        frame = one.parcel.frame(index, window, self._me.incarnation, self._code)
        self.outbox.outputs.append(PublishFrame(one.cast.topic, frame, "cast"))
        return True

    def _gather(self, now: float, cast: Casting) -> None:
        """After a reported loss, wait a little for reports of the other members, if there are enough of them for another cast."""
        if cast.undecided and cast.deadline is None:
            if len(cast.members) < cast.threshold:
                self._decide(cast)
            else:
                cast.deadline = now + GATHER * self.outbox.limits.stall_s
                self.outbox.soonest = min(self.outbox.soonest, cast.deadline)

    def _decide(self, cast: Casting) -> None:
        if again := cast.decide():
            self.outbox.count("casts_repaired", again)
        self.outbox.casting[cast.id] = cast
        for sending in cast.members.values():
            self.outbox.ready[sending.line.peer] = sending.line

    def _offer(self, now: float, line: PeerLine, sending: Sending) -> None:
        del line.offers[sending.id]
        line.serial += 1
        line.unanswered.pop(sending.id, None)
        line.unanswered[sending.id] = line.serial
        self._offered(now, sending)
        ask = any(flow.hint for flow in sending.flows)
        frame = self._frame(sending.content, sending.id, sending.stream.base, sending.parcels, sending.inline, sending.long, ask)
        self.outbox.outputs.append(PublishFrame(line.topic, frame, line.plane))

    def _offered(self, now: float, sending: Sending) -> None:
        sending.refused_view, sending.offered_view = None, self.outbox.view
        sending.wait = max(sending.wait, self.outbox.limits.stall_s)
        self.outbox.arm(sending.line, sending, now + sending.wait)
        for flow in sending.flows:
            sending.line.wake(flow)

    def _cast_offer(self, now: float, cast: Casting) -> None:
        cast.offer = False
        cast.missing.clear()
        for sending in cast.members.values():
            line = sending.line
            if not sending.known and sending.refused_view is None:
                line.serial += 1
                line.unanswered.pop(sending.id, None)
                line.unanswered[sending.id] = line.serial
                self._offered(now, sending)
                self.outbox.ready[line.peer] = line
        first = next(iter(cast.members.values()))
        ask = any(flow.hint for sending in cast.members.values() for flow in sending.flows)
        frame = self._frame(first.content, cast.id, cast.stream.base, cast.parcels, cast.inline, cast.long, ask)
        self.outbox.outputs.append(PublishFrame(cast.topic, frame, "cast"))

    def _frame(
        self, content: Content, name: tuple[str, int], base: int, parcels: tuple[Parcel, ...], inline: bool, long: bool, ask: bool
    ) -> bytearray:
        outbox = self.outbox
        bare = [inline or not parcel.size for parcel in parcels]
        offer = Offer(
            origin=self._me,
            view=outbox.view,
            root_saved=outbox.root_saved,
            stream=name[0],
            seq=name[1],
            base=base,
            sender=content.sender,
            to=content.to,
            body=b"" if long else content.body,
            parts=tuple(BlobPart(parcel.digest, parcel.size) if here else parcel.part() for parcel, here in zip(parcels, bare, strict=True)),
            inline=tuple(parcel.content for parcel, here in zip(parcels, bare, strict=True) if here),
            long=long,
            ask=ask,
            window=outbox.limits.window_chunks,
        )
        return frames.encode(offer)
