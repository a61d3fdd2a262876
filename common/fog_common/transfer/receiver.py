"""The receiving half of an endpoint: offers and chunks in, letters to the host, acknowledgements out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from blake3 import blake3

from fog_common.errors import WireError
from fog_common.transfer import frames
from fog_common.transfer.assembly import Assembly
from fog_common.transfer.blobs import Blobs
from fog_common.transfer.frames import Ack, BlobPart, Offer, Origin, StateProbe, is_hash
from fog_common.transfer.incoming import MAX_ASSEMBLIES, MAX_LETTERS, MAX_STREAMS, LetterRefusal, Memory, PendingLetter, Source
from fog_common.transfer.letters import BODY, Address, Arrived, BlobMeta, Content, Letter, Output, PublishFrame, TransferLimits
from fog_common.wire.topics import Route

MAX_WRONG: Final = 3
"""Number of mismatches between bytes and name after which a blob is refused."""
MAX_SOURCES: Final = 10_000


class Receiver:
    def __init__(
        self,
        me: Origin,
        blobs: Blobs,
        limits: TransferLimits,
        counters: dict[str, int],
        reject: Callable[[str], None],
        way: Callable[[Address], tuple[str, str]],
    ) -> None:
        """reject: counts a dropped frame by reason; way: (topic, plane) to an address."""
        self._me, self._blobs, self.limits, self._counters, self._reject, self._way = me, blobs, limits, counters, reject, way
        self._sources: dict[tuple[str, str], Source] = {}
        self._codes: dict[tuple[str, int], Source] = {}
        self._flushing: dict[tuple[str, str], Source] = {}
        self._sweep_at = math.inf
        self.outputs: list[Output] = []

    # -- frames ----------------------------------------------------------------------------

    def on_offer(self, now: float, route: Route, offer: Offer) -> None:
        """WireError for an offer that must be dropped."""
        frames.check_offer(offer, self.limits.max_letter_bytes, self.limits.max_blob_bytes)
        source = self._source(now, route.sender, offer.origin)
        source.window = max(2, offer.window)
        source.heard()
        name, seq = (offer.stream, offer.seq), offer.seq
        memory = source.streams.get(offer.stream)
        if memory is None:
            if len(source.streams) >= MAX_STREAMS:
                raise WireError(f"{route.sender} has {MAX_STREAMS} streams", "full")
            memory = source.streams[offer.stream] = Memory()
        self._raise_base(source, offer.stream, memory, offer.base)
        if seq < memory.base:
            self._reject("overtaken")
            return
        source.news[name] = None
        source.flush = source.flush or offer.ask
        self._mark(source)
        refusal = memory.refused.get(seq)
        if seq in memory.accepted or seq in memory.parked or (refusal is not None and offer.view <= refusal.view):
            self._count("repeated_offers")
            source.flush = True
            for part in offer.parts:
                if part.number and part.number not in source.assemblies:
                    source.done(part.number)  # the letter is complete: its blobs are not needed any more
            return
        waiting = memory.waiting.get(seq)
        if waiting is not None and offer.view < waiting.letter.view:
            self._reject("overtaken")
            return
        new = sum(part.number > 0 and part.digest not in source.by_digest for part in offer.parts)
        if (waiting is None and source.letters >= MAX_LETTERS) or (new and len(source.assemblies) + new > MAX_ASSEMBLIES):
            self._reject("full")
            source.busy.add(name)
            source.flush = True
            return
        inside = self._inside(offer)
        memory.refused.pop(seq, None)
        letter = self._letter(route, offer)
        if waiting is None:
            waiting = memory.waiting[seq] = PendingLetter(letter, offer, now)
        else:
            source.flush = True
            waiting.letter, waiting.offer, waiting.touched = letter, offer, now
        waiting.content.update(inside)
        for part in offer.parts:
            if part.digest not in waiting.content:
                self._expect(now, source, name, waiting, part)
            elif part.number:
                source.done(part.number)
                source.flush = True
        for digest in [digest for digest in waiting.content if digest in source.by_digest]:
            self._settle_for_others(source, name, digest, waiting.content[digest])
        for digest in [digest for digest in waiting.missing if digest in waiting.content]:
            del waiting.missing[digest]
        self._sweep_at = min(self._sweep_at, now + self.limits.idle_s / 8)
        if not waiting.missing:
            self._arrive(memory, seq)

    def on_chunk(self, now: float, route: Route, payload: frames.Payload) -> None:
        """WireError for a chunk that must be dropped."""
        head = frames.decode_chunk(payload)
        source = self._codes.get((route.sender, head.origin))
        if source is None or source.origin.incarnation != head.incarnation:
            dead = source is not None and head.incarnation < source.origin.incarnation
            raise WireError(f"chunk of blob {head.number} that was not offered", "dead_incarnation" if dead else "unknown_blob")
        source.window = max(2, head.window)
        assembly = source.assemblies.get(head.number)
        if assembly is None:
            source.heard()
            self._mark(source)
            if head.number in source.finished:
                self._count("duplicate_chunks")
                source.dirty[head.number] = None
                return
            raise WireError(f"chunk of blob {head.number} that was not offered", "unknown_blob")
        if head.total != assembly.count or head.place >= head.total or len(payload) - frames.CHUNK_HEAD_BYTES != assembly.length(head.place):
            raise WireError(f"chunk {head.place} of {head.total} with {len(payload)} B does not fit blob {assembly.digest[:12]}", "misfit")
        content = frames.chunk_content(payload)
        source.heard()
        self._mark(source)
        assembly.touched = now
        if assembly.has(head.place):
            self._count("duplicate_chunks")
            return
        if assembly.ahead(head.place):
            self._count("chunks_far_ahead")
            source.flush = True
            return
        if assembly.add(head.place, content):
            source.flush = True
        if assembly.complete:
            self._finish(source, assembly)

    def on_probe(self, now: float, route: Route, probe: StateProbe) -> None:
        source = self._source(now, route.sender, probe.origin)
        source.window = max(2, probe.window)
        for stream, base in probe.bases:
            if (memory := source.streams.get(stream)) is not None:
                self._raise_base(source, stream, memory, base)
        source.news.update(dict.fromkeys(probe.letters))
        source.dirty.update(dict.fromkeys(probe.blobs))
        source.echo = max(source.echo, probe.number)
        source.flush = True
        self._mark(source)

    # -- the host --------------------------------------------------------------------------

    def accept(self, letter: Letter) -> None:
        if (found := self._parked(letter)) is not None:
            found[1].accepted.add(letter.id[2])
            self._tell(*found, letter)

    def refuse(self, letter: Letter, reason: str) -> None:
        if (found := self._parked(letter)) is not None:
            found[1].refused[letter.id[2]] = LetterRefusal(letter.view, reason)
            self._tell(*found, letter)

    def _parked(self, letter: Letter) -> tuple[Source, Memory] | None:
        source = self._sources.get((letter.node, letter.id[0]))
        if source is None or source.origin.incarnation != letter.incarnation:
            return None
        memory = source.streams.get(letter.id[1])
        return (source, memory) if memory is not None and letter.id[2] in memory.parked else None

    def _tell(self, source: Source, memory: Memory, letter: Letter) -> None:
        memory.parked.pop(letter.id[2], None)
        source.news[letter.id[1], letter.id[2]] = None
        source.flush = True
        self._mark(source)

    # -- time and output -------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Send an Ack to every peer that is due one."""
        flushing = [(key, source) for key, source in self._flushing.items() if source.flush]
        active = sum(1 for source in self._sources.values() if source.assemblies) if flushing else 0
        grant = max(2, min(self.limits.window_chunks, self.limits.inbox_messages // max(1, active)))
        for key, source in flushing:
            del self._flushing[key]
            letters, blobs = source.states()
            source.acks += 1
            source.told = (source.told[1], grant)
            ack = Ack(self._me, source.origin.incarnation, source.acks, source.echo, grant, letters, blobs)
            self.outputs.append(PublishFrame(source.topic, frames.encode(ack), source.plane))

    @property
    def waiting(self) -> bool:
        """Whether an Ack is due."""
        return any(source.flush for source in self._flushing.values())

    def next_timer(self) -> float:
        return self._sweep_at

    def on_timer(self, now: float) -> None:
        """Drop letters that made no progress for `idle_s`."""
        if now < self._sweep_at:
            return
        self._sweep_at = math.inf
        for source in self._sources.values():
            for name, memory in source.streams.items():
                for seq, waiting in list(memory.waiting.items()):
                    touched = max([waiting.touched, *(source.by_digest[digest].touched for digest in waiting.missing if digest in source.by_digest)])
                    if touched + self.limits.idle_s <= now:
                        self._count("idle_dropped")
                        source.drop(name, seq)
                    else:
                        self._sweep_at = now + self.limits.idle_s / 8

    def digests(self) -> set[str]:
        """Blobs received for letters that are not complete yet."""
        sources = self._sources.values()
        return {
            digest for source in sources for memory in source.streams.values() for waiting in memory.waiting.values() for digest in waiting.content
        }

    # -- inside ----------------------------------------------------------------------------

    def _count(self, name: str) -> None:
        self._counters[name] = self._counters.get(name, 0) + 1

    def _mark(self, source: Source) -> None:
        self._flushing[source.node, source.origin.kind] = source

    def _source(self, now: float, node: str, origin: Origin) -> Source:
        """The peer's entry, a new one for a newer incarnation. WireError for an older incarnation."""
        key = (node, origin.kind)
        source = self._sources.get(key)
        if source is not None and source.origin.incarnation == origin.incarnation:
            return source
        if source is not None and origin.incarnation < source.origin.incarnation:
            raise WireError(f"frame of {node}'s incarnation {origin.incarnation}, {source.origin.incarnation} is known", "dead_incarnation")
        frames.check_origin(origin)
        if source is None and len(self._sources) >= MAX_SOURCES:
            raise WireError(f"more than {MAX_SOURCES} peers", "full")
        topic, plane = self._way(Address(node, origin.site, origin.tier, origin.kind))
        source = Source(node, origin, topic, plane, acks=source.acks if source is not None else 0)
        self._sources[key] = self._codes[node, frames.origin_code(origin.kind)] = source
        self._flushing.pop(key, None)
        return source

    def _raise_base(self, source: Source, stream: str, memory: Memory, base: int) -> None:
        for seq in memory.raise_base(base):
            source.drop(stream, seq)

    def _letter(self, route: Route, offer: Offer) -> Letter:
        origin = offer.origin
        parts = offer.parts[:-1] if offer.long else offer.parts
        content = Content(offer.sender, offer.to, offer.body, tuple(BlobMeta(part.digest, part.size) for part in parts))
        return Letter(
            content=content,
            view=offer.view,
            incarnation=origin.incarnation,
            root_saved=offer.root_saved,
            node=route.sender,
            site=origin.site,
            tier=origin.tier,
            id=(origin.kind, offer.stream, offer.seq),
            cast=route.plane == "cast",
        )

    def _inside(self, offer: Offer) -> dict[str, memoryview]:
        """Checked bytes of the blobs inside an offer, by digest. WireError if a hash does not match."""
        inside: dict[str, memoryview] = {}
        if offer.inline:
            contents = iter(offer.inline)
            for part in offer.parts:
                if part.number == 0:
                    content = next(contents)
                    if is_hash(part.digest) and blake3(content).hexdigest() != part.digest:
                        raise WireError(f"blob {part.digest[:12]} does not match its name", "wrong_hash")
                    inside[part.digest] = content
        return inside

    def _expect(self, now: float, source: Source, name: tuple[str, int], waiting: PendingLetter, part: BlobPart) -> None:
        """Take a blob that a letter names from the table, or wait for its chunks."""
        here = None if part.digest.startswith(BODY) else self._blobs.get(part.digest)
        if here is not None and len(here) == part.size:
            waiting.content[part.digest] = here
            source.done(part.number)
            source.flush = True
            return
        assembly = source.by_digest.get(part.digest)
        if assembly is None or not assembly.matches(part):
            old = assembly
            assembly = Assembly(part, now)
            if old is not None:  # the sender cut the blob into smaller chunks
                source.finish(old)
                assembly.letters.update(old.letters)
            source.assemblies[part.number] = source.by_digest[part.digest] = assembly
            source.finished.pop(part.number, None)
        assembly.letters[name] = None
        waiting.missing[part.digest] = None

    def _finish(self, source: Source, assembly: Assembly) -> None:
        source.flush = True
        if not assembly.right:
            self._reject("wrong_hash")
            assembly.reset()
            assembly.wrong += 1
            if assembly.wrong >= MAX_WRONG:
                for stream, seq in list(assembly.letters):
                    memory = source.streams[stream]
                    memory.refused[seq] = LetterRefusal(memory.waiting[seq].letter.view, "wrong_hash")
                    source.news[stream, seq] = None
                    source.drop(stream, seq)
            return
        content = assembly.content()
        if not assembly.digest.startswith(BODY):
            self._blobs.put(assembly.digest, content)
        self._settle(source, assembly, content)
        if is_hash(assembly.digest):
            for other in self._sources.values():
                same = other.by_digest.get(assembly.digest)
                if same is not None and same.size == assembly.size:
                    other.flush = True
                    self._mark(other)
                    self._settle(other, same, content)

    def _settle_for_others(self, source: Source, name: tuple[str, int], digest: str, content: memoryview) -> None:
        """The blob came inside an offer while its chunks were expected."""
        assembly = source.by_digest[digest]
        assembly.letters.pop(name, None)
        self._settle(source, assembly, content)

    def _settle(self, source: Source, assembly: Assembly, content: memoryview) -> None:
        source.finish(assembly)
        source.done(assembly.number)
        for stream, seq in assembly.letters:
            memory = source.streams[stream]
            waiting = memory.waiting.get(seq)
            if waiting is not None:
                waiting.content[assembly.digest] = content
                waiting.missing.pop(assembly.digest, None)
                if not waiting.missing:
                    self._arrive(memory, seq)

    def _arrive(self, memory: Memory, seq: int) -> None:
        waiting = memory.waiting.pop(seq)
        memory.parked[seq] = None
        letter, parts = waiting.letter, waiting.offer.parts
        if waiting.offer.long:
            content = letter.content
            body = bytes(waiting.content[parts[-1].digest])
            letter = _with_body(letter, Content(content.sender, content.to, body, content.blobs))
        for meta in letter.content.blobs:
            if meta.digest not in self._blobs:
                self._blobs.put(meta.digest, waiting.content[meta.digest])
        self.outputs.append(Arrived(letter))


def _with_body(letter: Letter, content: Content) -> Letter:
    return Letter(content, letter.view, letter.incarnation, letter.root_saved, letter.node, letter.site, letter.tier, letter.id, letter.cast)
