"""One host's end of the transfer: letters and blobs to other hosts, reliably, over a bus that promises nothing. Sans-IO.

Sending. A letter is offered (header, body, manifest; small blobs inside), its larger blobs follow as chunks as far as the
receiver's window goes. Nothing is asked first. What the receiver acknowledges opens the window; after silence it is probed,
and what its answer does not hold was lost and is sent again. A cast is published once and paced by a quorum of its members;
who falls behind is repaired on its own inbox.

Receiving. Chunks count only for blobs that an offer announced; each is checked by crc, the whole by BLAKE3 while it comes.
A letter is handed to the host when all its blobs are here, and acknowledged when the host has accepted it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Final

from blake3 import blake3

from fog_common.errors import WireError
from fog_common.ids import COORDINATOR, TIERS
from fog_common.transfer import frames
from fog_common.transfer.blobs import Blobs
from fog_common.transfer.frames import BUSY, DONE, KNOWN, REFUSED, UNKNOWN, Ack, BlobState, Chunk, LetterState, Offer, Origin, Part, Probe
from fog_common.transfer.letters import (
    STALE_VIEW,
    Acked,
    Address,
    Arrived,
    BlobMeta,
    Content,
    Letter,
    Limits,
    Output,
    Publish,
    Refused,
)
from fog_common.transfer.window import Ranges, beyond_bytes, bits, mask_of
from fog_common.wire import topics

__all__ = ["Acked", "Address", "Arrived", "BlobMeta", "Content", "Endpoint", "Letter", "Limits", "Output", "Publish", "Refused"]

MAX_PARKED: Final = 512
"""Letters of one sender that wait for blobs or for the host."""
QUORUM: Final = 0.75
"""Fraction of a cast's members whose acknowledgements pace it."""
MAX_HELD: Final = 256
"""Blobs remembered as being at one receiver."""


# -- what is on the way out ----------------------------------------------------------------


class Source:
    """A blob that is being sent to somebody."""

    __slots__ = ("chunk", "content", "count", "digest", "number", "size", "users")

    def __init__(self, meta: BlobMeta, number: int, chunk: int, content: memoryview) -> None:
        self.digest, self.size, self.number, self.chunk = meta.digest, meta.size, number, chunk
        self.count = -(-meta.size // chunk)
        self.content = content
        self.users = 0

    def slice(self, index: int) -> memoryview:
        return self.content[index * self.chunk : (index + 1) * self.chunk]

    @property
    def full(self) -> int:
        return (1 << self.count) - 1


class Pass:
    """Chunks of one blob going out once to many."""

    __slots__ = ("address", "flows", "next", "source")

    def __init__(self, source: Source, topic: str) -> None:
        self.source = source
        self.address = topic
        self.next = 0
        self.flows: dict[str, Flow] = {}


class Flow:
    """One blob on its way to one receiver: bit masks of chunks."""

    __slots__ = ("acked", "asked", "cast", "sent", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.acked = 0
        self.sent = 0  # and neither acknowledged nor known to be lost
        self.asked = 0  # sent before the last probe
        self.cast: Pass | None = None

    @property
    def in_flight(self) -> int:
        return (self.sent & ~self.acked).bit_count()

    def next_missing(self) -> int | None:
        """The next chunk for this receiver's own inbox."""
        free = ~(self.acked | self.sent) & self.source.full
        if self.cast is not None:
            free &= (1 << self.cast.next) - 1
        return (free & -free).bit_length() - 1 if free else None


class Remote:
    """A receiver of ours."""

    def __init__(self, address: Address, window: int) -> None:
        self.address = address
        self.grant = window
        self.flows: dict[str, Flow] = {}  # digest -> flow, round robin
        self.held: dict[str, None] = {}
        self.outgoing: dict[tuple[str, int], Outgoing] = {}
        self.probe = 0
        self.heard_at = 0.0
        self.wait_s = 0.0
        self.probe_at: float | None = None

    @property
    def in_flight(self) -> int:
        return sum(flow.in_flight for flow in self.flows.values())


class Target:
    __slots__ = ("address", "offered_view", "stale")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.offered_view = -1
        self.stale = False


class Outgoing:
    """A letter that somebody has not acknowledged."""

    __slots__ = ("began", "body", "cast", "content", "key", "seq", "sources", "stream", "targets")

    def __init__(self, key: Hashable, content: Content, stream: str, seq: int, now: float) -> None:
        self.key, self.content, self.stream, self.seq, self.began = key, content, stream, seq, now
        self.targets: dict[str, Target] = {}
        self.cast = ""
        self.sources: dict[str, Source] = {}


# -- what is on the way in -----------------------------------------------------------------


class Assembly:
    """A blob that is coming: one buffer, a mask, and the hash of its beginning."""

    __slots__ = ("buffer", "chunk", "count", "digest", "gap", "hashed", "hasher", "last_at", "mask", "size")

    def __init__(self, part: Part, now: float) -> None:
        self.digest, self.size, self.chunk, self.count = part.digest, part.size, part.chunk, part.count
        self.buffer = bytearray(part.size)
        self.mask = 0
        self.hashed = 0  # chunks
        self.hasher = blake3() if frames.is_hash(part.digest) else None
        self.last_at = now
        self.gap = False

    def add(self, index: int, content: memoryview) -> bool:
        """False if it was here. WireError if it does not fit."""
        bit = 1 << index
        if self.mask & bit:
            return False
        at = index * self.chunk
        if len(content) != min(self.chunk, self.size - at):
            raise WireError(f"chunk {index} of {self.digest[:12]} has {len(content)} B")
        self.buffer[at : at + len(content)] = content
        self.gap = index > self.prefix
        self.mask |= bit
        first = self.hashed
        while self.mask >> self.hashed & 1:
            self.hashed += 1
        if self.hasher is not None and self.hashed > first:
            self.hasher.update(memoryview(self.buffer)[first * self.chunk : self.hashed * self.chunk])
        return True

    @property
    def prefix(self) -> int:
        """Chunks here without a gap."""
        return self.hashed

    @property
    def complete(self) -> bool:
        return self.hashed == self.count

    @property
    def genuine(self) -> bool:
        return self.hasher is None or self.hasher.hexdigest() == self.digest

    def state(self, number: int) -> BlobState:
        return BlobState(number, KNOWN, self.prefix, beyond_bytes(self.prefix, (i for i in bits(self.mask >> self.prefix << self.prefix))))


class Incoming:
    __slots__ = ("letter", "missing", "offer", "told")

    def __init__(self, offer: Offer, letter: Letter, missing: dict[int, str]) -> None:
        self.offer, self.letter, self.missing = offer, letter, missing
        self.told = False


class Sender:
    """One incarnation of an endpoint that sends to us."""

    def __init__(self, node: str, origin: Origin) -> None:
        self.node, self.origin = node, origin
        self.taken: dict[str, Ranges] = {}
        self.incoming: dict[tuple[str, int], Incoming] = {}
        self.assemblies: dict[int, Assembly] = {}
        self.finished: dict[int, None] = {}  # numbers of blobs that are here
        self.since_ack = 0
        self.window = 32
        self.echo = 0
        self.acks = 0
        self.letters: dict[tuple[str, int], LetterState] = {}  # to be told
        self.blobs: dict[int, None] = {}


class Endpoint:
    """See the module text. All calls take `now`, the host's seconds; `take()` gives what is to be done after any of them."""

    def __init__(self, me: Address, fleet: str, job: str, incarnation: int, blobs: Blobs, limits: Limits = Limits()) -> None:
        self.me, self.fleet, self.job, self.incarnation = me, fleet, job, incarnation
        self.blobs = blobs
        self.limits = limits
        self.rejected: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self._origin = Origin(incarnation, me.site, me.tier, me.kind)
        self._code = frames.origin_code(me.kind)
        self._view = 0
        self._root_saved = -1
        self._outputs: list[Output] = []
        self._online = True
        self._numbers = 0
        self._sequence: dict[str, int] = {}
        self._sources: dict[str, Source] = {}
        self._letters: dict[Hashable, Outgoing] = {}
        self._streams: dict[str, dict[int, Outgoing]] = {}
        self._remotes: dict[str, Remote] = {}
        self._passes: list[Pass] = []
        self._senders: dict[tuple[str, int], Sender] = {}  # (node, code of its kind)
        self._acks_due: dict[tuple[str, int], None] = {}
        self._now = 0.0
        self._swept_at = 0.0

    # -- sending ---------------------------------------------------------------------------

    def stamp(self, now: float, view: int, root_saved: int) -> None:
        """Header of every letter offered from now on. A newer view offers again what was refused as stale."""
        self._now = now
        newer = view > self._view
        self._view, self._root_saved = view, root_saved
        if newer:
            for outgoing in list(self._letters.values()):
                for target in outgoing.targets.values():
                    if target.stale:
                        target.stale = False
                        self._offer_to(outgoing, target)

    def send(self, now: float, to: Address, content: Content, key: Hashable) -> None:
        """Offer a letter to one host; ends as Acked or Refused with `key`, unless it is cancelled."""
        self._now = now
        outgoing = self._begin(now, to.node, content, key, [to])
        self._offer_to(outgoing, outgoing.targets[to.node])
        self._pump()

    def cast(self, now: float, scope: str, role: str, members: Sequence[Address], content: Content, key: Hashable) -> None:
        """Offer a letter to many, published once; Acked or Refused once for each member."""
        self._now = now
        if not members:
            return
        outgoing = self._begin(now, f"*{role}", content, key, members)
        topic = topics.CAST.at(fleet=self.fleet, scope=scope, group=topics.group(self.job, role), sender=self.me.node, kind=self.me.kind)
        outgoing.cast = topic
        for target in outgoing.targets.values():
            target.offered_view = self._view
        self._publish(topic, frames.encode(self._offer(outgoing)), "cast")
        for source in outgoing.sources.values():
            going = Pass(source, topic)
            for node in outgoing.targets:
                flow = self._remotes[node].flows.get(source.digest)
                if flow is not None and flow.cast is None and not flow.sent and not flow.acked:
                    flow.cast = going
                    going.flows[node] = flow
            if going.flows:
                self._passes.append(going)
        self._pump()

    def _begin(self, now: float, stream: str, content: Content, key: Hashable, members: Sequence[Address]) -> Outgoing:
        seq = self._sequence[stream] = self._sequence.get(stream, 0) + 1
        outgoing = Outgoing(key, content, stream, seq, now)
        self._letters[key] = outgoing
        self._streams.setdefault(stream, {})[seq] = outgoing
        known = self._remotes[members[0].node].held if len(members) == 1 and members[0].node in self._remotes else {}
        big = sum(meta.size for meta in content.blobs if meta.digest not in known) > self.limits.inline_bytes
        for meta in content.blobs:
            if meta.size and (big or meta.digest in known):
                outgoing.sources[meta.digest] = self._source(meta)
        for source in outgoing.sources.values():
            source.users += 1
        for member in members:
            outgoing.targets[member.node] = Target(member)
            remote = self._remote(member)
            if not remote.outgoing:
                remote.heard_at = now
            remote.outgoing[stream, seq] = outgoing
            for source in outgoing.sources.values():
                if source.digest not in remote.held and source.digest not in remote.flows:
                    remote.flows[source.digest] = Flow(source)
            self._arm(remote)
        return outgoing

    def _source(self, meta: BlobMeta) -> Source:
        source = self._sources.get(meta.digest)
        if source is None:
            content = self.blobs.get(meta.digest)
            if content is None:
                raise KeyError(f"blob {meta.digest[:12]} is not in the table")
            self._numbers += 1
            chunk = self.limits.chunk_bytes - frames.CHUNK_HEAD_BYTES
            source = self._sources[meta.digest] = Source(meta, self._numbers, chunk, content)
        return source

    def _remote(self, address: Address) -> Remote:
        remote = self._remotes.get(address.node)
        if remote is None:
            remote = self._remotes[address.node] = Remote(address, self.limits.window_chunks)
        remote.address = address
        return remote

    def _offer(self, outgoing: Outgoing, ask: bool = False) -> Offer:
        parts: list[Part] = []
        inline: list[memoryview] = []
        for meta in outgoing.content.blobs:
            source = outgoing.sources.get(meta.digest)
            if source is not None:
                parts.append(Part(meta.digest, meta.size, source.number, source.chunk))
                continue
            content = self.blobs.get(meta.digest)
            if content is None:
                raise KeyError(f"blob {meta.digest[:12]} is not in the table")
            parts.append(Part(meta.digest, meta.size))
            inline.append(content)
        content_ = outgoing.content
        return Offer(
            origin=self._origin,
            view=self._view,
            root_saved=self._root_saved,
            stream=outgoing.stream,
            seq=outgoing.seq,
            base=min(self._streams[outgoing.stream]),
            sender=content_.sender,
            to=content_.to,
            body=content_.body,
            parts=tuple(parts),
            inline=tuple(inline),
            ask=ask,
            window=self.limits.window_chunks,
        )

    def _offer_to(self, outgoing: Outgoing, target: Target) -> None:
        target.offered_view = self._view
        remote = self._remote(target.address)
        ask = any(digest in remote.held for digest in outgoing.sources)
        self._to(target.address, frames.encode(self._offer(outgoing, ask)))
        for source in outgoing.sources.values():
            if source.digest not in remote.held and source.digest not in remote.flows:
                remote.flows[source.digest] = Flow(source)
        self._arm(remote)

    def cancel(self, key: Hashable) -> None:
        """Obsolete: nothing more of it is sent, nothing is reported."""
        outgoing = self._letters.get(key)
        if outgoing is not None:
            for node in list(outgoing.targets):
                self._done(outgoing, node)

    def forget_peer(self, node: str) -> None:
        """That host is gone: nothing more is owed to it, and what it has is no longer known."""
        remote = self._remotes.get(node)
        if remote is None:
            return
        for outgoing in list(remote.outgoing.values()):
            self._done(outgoing, node)
        for flow in remote.flows.values():
            if flow.cast is not None:
                flow.cast.flows.pop(node, None)
        self._remotes.pop(node, None)

    def _done(self, outgoing: Outgoing, node: str) -> None:
        """One receiver needs this letter no more."""
        outgoing.targets.pop(node, None)
        remote = self._remotes.get(node)
        if remote is not None:
            remote.outgoing.pop((outgoing.stream, outgoing.seq), None)
            for digest in outgoing.sources:
                if digest in remote.flows and not any(digest in other.sources for other in remote.outgoing.values()):
                    flow = remote.flows.pop(digest)
                    if flow.cast is not None:
                        flow.cast.flows.pop(node, None)
        if not outgoing.targets and self._letters.pop(outgoing.key, None) is not None:
            stream = self._streams[outgoing.stream]
            del stream[outgoing.seq]
            if not stream:
                del self._streams[outgoing.stream]
            for source in outgoing.sources.values():
                source.users -= 1
                if not source.users:
                    self._sources.pop(source.digest, None)

    # -- pushing ---------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send chunks as far as the windows go: casts first, then each receiver's own, one of each flow in turn."""
        if not self._online:
            return
        self._passes = [going for going in self._passes if self._push_pass(going)]
        for remote in self._remotes.values():
            if remote.flows:
                self._push(remote)

    def _push_pass(self, going: Pass) -> bool:
        """False when the pass is over."""
        source, flows = going.source, going.flows
        while going.next < source.count and flows:
            behind = sorted(flow.in_flight for flow in flows.values())
            pace = behind[max(0, min(len(behind) - 1, round(QUORUM * len(behind)) - 1))]
            if pace >= min(self.limits.window_chunks, *(self._remotes[node].grant for node in flows)):
                return True
            index = going.next
            going.next += 1
            bit = 1 << index
            wanted = False
            for node, flow in flows.items():
                if not flow.acked & bit:
                    flow.sent |= bit
                    wanted = True
                    self._arm(self._remotes[node])
            if wanted:
                self._publish(going.address, self._chunk(source, index), "cast")
        for flow in flows.values():
            flow.cast = None
        return False

    def _push(self, remote: Remote) -> None:
        room = min(self.limits.window_chunks, remote.grant) - remote.in_flight
        while room > 0:
            progress = False
            for digest in list(remote.flows):
                flow = remote.flows[digest]
                index = flow.next_missing()
                if index is None or room <= 0:
                    continue
                flow.sent |= 1 << index
                self._to(remote.address, self._chunk(flow.source, index))
                room -= 1
                progress = True
            if not progress:
                break
            self._arm(remote)

    def _chunk(self, source: Source, index: int) -> bytes:
        head = Chunk(self.limits.window_chunks, self.incarnation, self._code, source.number, index, source.count)
        return frames.encode_chunk(head, source.slice(index))

    # -- acknowledgements come -------------------------------------------------------------

    def _on_ack(self, now: float, node: str, ack: Ack) -> None:
        if ack.of != self.incarnation:
            self._reject("dead_incarnation")
            return
        remote = self._remotes.get(node)
        if remote is None:
            return
        remote.heard_at, remote.wait_s = now, 0.0
        remote.grant = max(1, ack.grant)
        answered = bool(remote.probe) and ack.echo == remote.probe
        by_number = {flow.source.number: flow for flow in remote.flows.values()}
        for state in ack.blobs:
            flow = by_number.get(state.number)
            if flow is None and state.status != DONE:
                flow = self._not_held(remote, state.number)
            if flow is None:
                continue
            if state.status == DONE:
                self._held(remote, flow)
                continue
            has = mask_of(min(state.count, flow.source.count), state.beyond) & flow.source.full if state.status == KNOWN else 0
            if answered:
                lost = flow.asked & ~has
                flow.sent &= ~lost
                flow.acked = has if state.status == UNKNOWN else flow.acked | has
                repaired = lost.bit_count()
                if repaired:
                    self._count("repaired_chunks", repaired)
                flow.asked = 0
            else:
                flow.acked |= has
                if (flow.sent & ~flow.acked) & ((1 << flow.acked.bit_length()) - 1):
                    self._probe_soon(remote)  # a gap: ask before sending again
        for letter in ack.letters:
            self._letter_state(now, remote, letter)
        if answered:
            remote.probe = 0
        self._arm(remote)
        self._pump()

    def _not_held(self, remote: Remote, number: int) -> Flow | None:
        """It was believed to have this blob, and does not."""
        for outgoing in remote.outgoing.values():
            for source in outgoing.sources.values():
                if source.number == number:
                    remote.held.pop(source.digest, None)
                    flow = remote.flows[source.digest] = Flow(source)
                    return flow
        return None

    def _remember(self, remote: Remote, digest: str) -> None:
        if frames.is_hash(digest):
            remote.held[digest] = None
            while len(remote.held) > MAX_HELD:
                del remote.held[next(iter(remote.held))]

    def _held(self, remote: Remote, flow: Flow) -> None:
        digest = flow.source.digest
        remote.flows.pop(digest, None)
        if flow.cast is not None:
            flow.cast.flows.pop(remote.address.node, None)
        self._remember(remote, digest)

    def _letter_state(self, now: float, remote: Remote, state: LetterState) -> None:
        node = remote.address.node
        outgoing = remote.outgoing.get((state.stream, state.seq))
        if outgoing is None:
            return
        target = outgoing.targets[node]
        match state.status:
            case frames.DONE:
                for digest in outgoing.sources:
                    if (flow := remote.flows.get(digest)) is not None:
                        self._held(remote, flow)
                for meta in outgoing.content.blobs:
                    self._remember(remote, meta.digest)
                self._outputs.append(Acked(outgoing.key, node))
                self._done(outgoing, node)
            case frames.REFUSED if state.reason == STALE_VIEW:
                if state.view < self._view or target.offered_view < self._view:
                    self._offer_to(outgoing, target)
                else:
                    target.stale = True
            case frames.REFUSED:
                self._outputs.append(Refused(outgoing.key, node, state.reason))
                self._done(outgoing, node)
            case frames.UNKNOWN if not target.stale:
                for digest in outgoing.sources:
                    remote.held.pop(digest, None)  # what it had may be gone with what it was
                self._offer_to(outgoing, target)

    # -- silence ---------------------------------------------------------------------------

    def _arm(self, remote: Remote) -> None:
        """When to ask this receiver what it has, if it stays silent."""
        waits = any(not outgoing.targets[remote.address.node].stale for outgoing in remote.outgoing.values())
        if not waits or not self._online:
            remote.probe_at = None
            return
        remote.wait_s = remote.wait_s or self.limits.stall_s
        if remote.probe_at is None or remote.probe_at < remote.heard_at + remote.wait_s:
            remote.probe_at = max(remote.heard_at, self._now if remote.probe_at is None else remote.heard_at) + remote.wait_s

    def _probe_soon(self, remote: Remote) -> None:
        if not remote.probe:
            self._probe(remote)

    def _probe(self, remote: Remote) -> None:
        self._numbers += 1
        remote.probe = self._numbers
        letters = [at for at, outgoing in remote.outgoing.items() if not outgoing.targets[remote.address.node].stale]
        for flow in remote.flows.values():
            flow.asked = flow.sent & ~flow.acked
        streams = {stream for stream, _ in letters}
        bases = tuple((stream, min(self._streams[stream])) for stream in sorted(streams))
        probe = Probe(
            origin=self._origin,
            number=remote.probe,
            bases=bases,
            letters=tuple(letters),
            blobs=tuple({source.number: None for outgoing in remote.outgoing.values() for source in outgoing.sources.values()}),
            window=self.limits.window_chunks,
        )
        self._count("probes")
        self._to(remote.address, frames.encode(probe))

    def connected(self, now: float) -> None:
        """The bus is there (again): ask every receiver what it has of what it has not acknowledged."""
        self._now, self._online = now, True
        for remote in self._remotes.values():
            if remote.outgoing:
                remote.heard_at, remote.wait_s, remote.probe_at = now, self.limits.stall_s, None
                self._probe(remote)
                self._arm(remote)
        self._pump()

    def disconnected(self, now: float) -> None:
        self._now, self._online = now, False
        for remote in self._remotes.values():
            remote.probe_at = None

    def set_limits(self, limits: Limits) -> None:
        """For what is sent from now on."""
        self.limits = limits

    def on_timer(self, now: float) -> None:
        self._now = now
        for remote in list(self._remotes.values()):
            if remote.probe_at is not None and now >= remote.probe_at - 1e-9:
                remote.wait_s = min(self.limits.stall_max_s, 2 * (remote.wait_s or self.limits.stall_s))
                remote.probe_at = now + remote.wait_s
                self._probe(remote)
        if now - self._swept_at > self.limits.idle_s / 4:
            self._swept_at = now
            self._sweep(now)

    def next_timer(self) -> float | None:
        return min((remote.probe_at for remote in self._remotes.values() if remote.probe_at is not None), default=None)

    # -- receiving -------------------------------------------------------------------------

    def on_frame(self, now: float, route: topics.Route, payload: bytes) -> None:
        """A frame of the bus. Nothing that a peer sends raises; it is counted in `rejected`."""
        self._now = now
        try:
            if payload and payload[0] == frames.CHUNK_MAGIC:
                self._on_chunk(now, route.sender, payload)
                return
            match frames.decode(payload, self.limits.max_letter_bytes + self.limits.inline_bytes + 65_536):
                case Offer() as offer:
                    self._on_offer(now, route, offer)
                case Probe() as probe:
                    self._on_probe(route.sender, probe)
                case Ack() as ack:
                    self._on_ack(now, route.sender, ack)
        except WireError as error:
            self._reject(error.reason)

    def _sender(self, node: str, origin: Origin) -> Sender | None:
        """The state of that incarnation; None (and counted) if a newer one has been heard of."""
        frames.check_origin(origin)
        at = (node, frames.origin_code(origin.kind))
        known = self._senders.get(at)
        if known is None or origin.incarnation > known.origin.incarnation:
            known = self._senders[at] = Sender(node, origin)
        elif origin.incarnation < known.origin.incarnation:
            self._reject("dead_incarnation")
            return None
        return known

    def _on_offer(self, now: float, route: topics.Route, offer: Offer) -> None:
        frames.check_offer(offer, self.limits.max_letter_bytes, self.limits.max_blob_bytes)
        sender = self._sender(route.sender, offer.origin)
        if sender is None:
            return
        sender.window = max(1, offer.window)
        at = (offer.stream, offer.seq)
        taken = sender.taken.setdefault(offer.stream, Ranges())
        self._below(sender, offer.stream, offer.base)
        if offer.seq in taken:
            self._count("repeated_letters")
            self._tell(sender, at, DONE)
            return
        known = sender.incoming.get(at)
        if known is not None:
            self._count("repeated_letters")
            self._tell(sender, at, KNOWN)
            return
        if len(sender.incoming) >= MAX_PARKED:
            self._reject("busy")
            self._tell(sender, at, BUSY)
            return
        inside = iter(offer.inline)
        missing: dict[int, str] = {}
        for part in offer.parts:
            if part.number:
                if part.digest in self.blobs:
                    sender.finished[part.number] = None
                    sender.blobs[part.number] = None
                else:
                    missing[part.number] = part.digest
                    sender.finished.pop(part.number, None)
                    if part.number not in sender.assemblies:
                        sender.assemblies[part.number] = Assembly(part, now)
                continue
            content = next(inside)
            if part.digest in self.blobs:
                continue
            if frames.is_hash(part.digest) and blake3(content).hexdigest() != part.digest:
                raise WireError(f"blob {part.digest[:12]} in its letter has another hash", "wrong_hash")
            self.blobs.put(part.digest, bytes(content))
        metas = tuple(BlobMeta(part.digest, part.size) for part in offer.parts)
        letter = Letter(
            content=Content(offer.sender, offer.to, offer.body, metas),
            view=offer.view,
            incarnation=offer.origin.incarnation,
            root_saved=offer.root_saved,
            node=route.sender,
            site=offer.origin.site,
            tier=offer.origin.tier,
            id=(offer.origin.kind, offer.stream, offer.seq),
            cast=route.plane == "cast",
        )
        incoming = sender.incoming[at] = Incoming(offer, letter, missing)
        if missing:
            if offer.ask:
                sender.blobs.update(dict.fromkeys(missing))
            if offer.ask or sender.blobs:
                self._due(sender)
        else:
            self._whole(incoming)

    def _whole(self, incoming: Incoming) -> None:
        if not incoming.told:
            incoming.told = True
            self._outputs.append(Arrived(incoming.letter))

    def _on_chunk(self, now: float, node: str, payload: bytes) -> None:
        chunk = frames.decode_chunk(payload)
        sender = self._senders.get((node, chunk.origin))
        if sender is None or sender.origin.incarnation < chunk.incarnation:
            self._reject("unknown_blob")
            return
        if sender.origin.incarnation > chunk.incarnation:
            self._reject("dead_incarnation")
            return
        sender.window = max(1, chunk.window)
        assembly = sender.assemblies.get(chunk.number)
        if assembly is None:
            if chunk.number in sender.finished:
                self._count("repeated_chunks")
                sender.since_ack += 1
                if sender.since_ack * 2 >= sender.window:
                    sender.blobs[chunk.number] = None
                    self._due(sender)
            else:
                self._reject("unknown_blob")
            return
        if chunk.count != assembly.count or chunk.index >= chunk.count:
            raise WireError(f"chunk {chunk.index} of {chunk.count}, announced were {assembly.count}")
        assembly.last_at = now
        if not assembly.add(chunk.index, frames.chunk_content(payload)):
            self._count("repeated_chunks")
        sender.since_ack += 1
        if assembly.complete:
            self._assembled(now, sender, chunk.number, assembly)
        elif sender.since_ack * 2 >= min(sender.window, self._grant()) or assembly.gap:
            assembly.gap = False
            sender.blobs[chunk.number] = None
            self._due(sender)

    def _assembled(self, now: float, sender: Sender, number: int, assembly: Assembly) -> None:
        if not assembly.genuine:
            self._reject("wrong_hash")
            part = Part(assembly.digest, assembly.size, number, assembly.chunk)
            sender.assemblies[number] = Assembly(part, now)  # from the beginning
            sender.blobs[number] = None
            self._due(sender)
            return
        del sender.assemblies[number]
        sender.finished[number] = None
        while len(sender.finished) > 4 * MAX_PARKED:
            del sender.finished[next(iter(sender.finished))]
        self.blobs.put(assembly.digest, assembly.buffer)
        sender.blobs[number] = None
        self._due(sender)
        for other in self._senders.values():
            for at in [at for at, incoming in other.incoming.items() if assembly.digest in incoming.missing.values()]:
                incoming = other.incoming[at]
                incoming.missing = {n: digest for n, digest in incoming.missing.items() if digest != assembly.digest}
                if not incoming.missing:
                    self._whole(incoming)

    def _on_probe(self, node: str, probe: Probe) -> None:
        sender = self._sender(node, probe.origin)
        if sender is None:
            return
        sender.window = max(1, probe.window)
        sender.echo = probe.number
        for stream, base in probe.bases:
            self._below(sender, stream, base)
        for stream, seq in probe.letters:
            taken = stream in sender.taken and seq in sender.taken[stream]
            self._tell(sender, (stream, seq), DONE if taken else KNOWN if (stream, seq) in sender.incoming else UNKNOWN)
        sender.blobs.update(dict.fromkeys(probe.blobs))
        self._due(sender)

    def _below(self, sender: Sender, stream: str, base: int) -> None:
        """The sender has nothing outstanding below `base`: forget it."""
        if stream in sender.taken:
            sender.taken[stream].drop_below(base)
        for at in [at for at in sender.incoming if at[0] == stream and at[1] < base and not sender.incoming[at].told]:
            del sender.incoming[at]

    def accept(self, letter: Letter) -> None:
        """The host took it."""
        sender, at = self._of(letter)
        if sender is None:
            return
        sender.incoming.pop(at, None)
        sender.taken.setdefault(at[0], Ranges()).add(at[1])
        self._tell(sender, at, DONE)

    def refuse(self, letter: Letter, reason: str) -> None:
        """The host does not take it under the view it was offered with; the same letter may come again under another."""
        sender, at = self._of(letter)
        if sender is None:
            return
        sender.incoming.pop(at, None)
        sender.letters[at] = LetterState(*at, REFUSED, letter.view, reason)
        self._due(sender)

    def _of(self, letter: Letter) -> tuple[Sender | None, tuple[str, int]]:
        kind, stream, seq = letter.id
        sender = self._senders.get((letter.node, frames.origin_code(kind)))
        if sender is not None and sender.origin.incarnation != letter.incarnation:
            sender = None
        return sender, (stream, seq)

    # -- acknowledging ---------------------------------------------------------------------

    def _tell(self, sender: Sender, at: tuple[str, int], status: int) -> None:
        sender.letters[at] = LetterState(*at, status)
        self._due(sender)

    def _due(self, sender: Sender) -> None:
        self._acks_due[sender.node, frames.origin_code(sender.origin.kind)] = None

    def _grant(self) -> int:
        active = sum(1 for sender in self._senders.values() if sender.assemblies)
        return max(1, min(65_535, self.limits.inbox_messages // max(1, active)))

    def _acknowledge(self, sender: Sender) -> None:
        blobs = []
        for number in sender.blobs:
            assembly = sender.assemblies.get(number)
            if assembly is not None:
                blobs.append(assembly.state(number))
            else:
                blobs.append(BlobState(number, DONE if number in sender.finished else UNKNOWN))
        sender.acks += 1
        ack = Ack(
            origin=self._origin,
            of=sender.origin.incarnation,
            number=sender.acks,
            echo=sender.echo,
            grant=self._grant(),
            letters=tuple(sender.letters.values()),
            blobs=tuple(blobs),
        )
        sender.letters, sender.blobs, sender.since_ack = {}, {}, 0
        origin = sender.origin
        self._to(Address(sender.node, origin.site, origin.tier, origin.kind), frames.encode(ack))

    # -- out -------------------------------------------------------------------------------

    def take(self) -> list[Output]:
        """What is to be done, in order; asked once."""
        while self._acks_due:
            due, self._acks_due = self._acks_due, {}
            for at in due:
                if (sender := self._senders.get(at)) is not None:
                    self._acknowledge(sender)
        outputs, self._outputs = self._outputs, []
        return outputs

    def digests(self) -> Iterator[str]:
        """Blobs that must stay in the table: what is owed to others, and what letters here are made of."""
        for outgoing in self._letters.values():
            for meta in outgoing.content.blobs:
                yield meta.digest
        for sender in self._senders.values():
            for incoming in sender.incoming.values():
                for part in incoming.offer.parts:
                    yield part.digest

    def pending(self) -> list[tuple[Hashable, str, int, float]]:
        """(key, node, bytes that it has not acknowledged, since) of every letter on its way."""
        found = []
        for outgoing in self._letters.values():
            for node in outgoing.targets:
                flows = self._remotes[node].flows
                left = sum((flow.source.count - flow.acked.bit_count()) * flow.source.chunk for d in outgoing.sources if (flow := flows.get(d)))
                found.append((outgoing.key, node, left, outgoing.began))
        return found

    def _to(self, address: Address, payload: bytes | bytearray) -> None:
        topic = topics.inbox(self.fleet, address.site, address.node, self.me.node, self.me.site, address.kind)
        self._publish(topic, payload, self._plane(address))

    def _plane(self, address: Address) -> str:
        if address.site == self.me.site and address.node != COORDINATOR:
            return "d2d"
        return "up" if TIERS.index(address.tier) >= TIERS.index(self.me.tier) else "down"

    def _publish(self, topic: str, payload: bytes | bytearray, plane: str) -> None:
        self._outputs.append(Publish(topic, payload, plane))

    def _sweep(self, now: float) -> None:
        """What was begun and not continued is dropped; its sender will offer it again if it still wants to."""
        for sender in self._senders.values():
            for number in [number for number, assembly in sender.assemblies.items() if now - assembly.last_at > self.limits.idle_s]:
                del sender.assemblies[number]
                for at in [at for at, incoming in sender.incoming.items() if number in incoming.missing]:
                    del sender.incoming[at]

    def _reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def _count(self, name: str, n: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + n
