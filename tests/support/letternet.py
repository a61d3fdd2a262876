"""A network for endpoints in virtual time: it loses, repeats, reorders, corrupts, freezes and cuts as it is told."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import blake3

from fog_common.transfer.blobs import MemoryBlobs
from fog_common.transfer.endpoint import Acked, Address, Arrived, BlobMeta, Content, Endpoint, Letter, LetterRefused, PublishFrame, TransferLimits
from fog_common.wire import topics

JOB = "digits"
KIND = f"bulk~{JOB}"


def meta(content: bytes) -> BlobMeta:
    return BlobMeta(blake3.blake3(content).hexdigest(), len(content))


@dataclass(kw_only=True)
class Weather:
    """Chances per frame, until `until`; afterwards the network is ideal."""

    loss: float = 0.0
    repeat: float = 0.0
    corrupt: float = 0.0
    reorder: bool = False
    until: float = 60.0


@dataclass
class Site:
    """One host: an endpoint, its table of blobs, what it heard."""

    address: Address
    limits: TransferLimits
    incarnation: int = 1
    roles: frozenset[str] = frozenset()
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    arrived: list[Letter] = field(default_factory=list)
    """Of this incarnation."""
    acked: list[tuple[Any, str]] = field(default_factory=list)
    refused: list[tuple[Any, str, str]] = field(default_factory=list)
    frozen: bool = False
    online: bool = True
    backlog: list[tuple[topics.Route, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.endpoint = Endpoint(self.address, "main", JOB, self.incarnation, self.blobs, self.limits)

    def add(self, content: bytes, name: str = "") -> BlobMeta:
        named = BlobMeta(name, len(content)) if name else meta(content)
        self.blobs.put(named.digest, content)
        return named


class Net:
    def __init__(self, seed: int = 0, weather: Weather | None = None, delay_s: float = 0.01) -> None:
        self.now = 0.0
        self.sites: dict[str, Site] = {}
        self.weather = weather or Weather()
        self.delay_s = delay_s
        self.random = random.Random(seed)
        self.payload_bytes: dict[str, int] = {}
        """Published, by plane."""
        self.frames = 0
        self.decide: Callable[[Site, Letter], str] = lambda site, letter: "accept"
        """accept, park, or the reason of a refusal."""
        self.watch: Callable[[Net], None] = lambda net: None
        self.lose: Callable[[PublishFrame, str], bool] = lambda frame, receiver: False
        """Frames that are lost on purpose."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._last: dict[tuple[str, str], float] = {}
        self._timers: dict[str, float] = {}

    def site(self, node: str, site: str = "hall", tier: str = "edge", roles: Iterable[str] = (), limits: TransferLimits | None = None) -> Site:
        made = Site(Address(node, site, tier, KIND), limits or TransferLimits(), roles=frozenset(roles))
        self.sites[node] = made
        return made

    # -- what happens to them --------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), action))

    def restart(self, node: str) -> Site:
        """The host dies and comes back as a new incarnation that knows nothing, but has its blobs on disk if it was a sender."""
        old = self.sites[node]
        new = Site(old.address, old.limits, old.incarnation + 1, old.roles)
        self.sites[node] = new
        self._timers.pop(node, None)
        return new

    def cut(self, node: str, back_at: float) -> None:
        site = self.sites[node]
        site.online = False
        site.endpoint.disconnected(self.now)
        self.pump(site)

        def back() -> None:
            site.online = True
            site.endpoint.connected(self.now)
            self.pump(site)

        self.at(back_at, back)

    def freeze(self, node: str, until: float, keep: int = 1000) -> None:
        """It reads nothing; the broker keeps `keep` frames for it and drops the rest."""
        site = self.sites[node]
        site.frozen = True

        def thaw() -> None:
            site.frozen = False
            backlog, site.backlog = site.backlog[:keep], []
            for route, payload in backlog:
                site.endpoint.on_frame(self.now, route, payload)
                self.pump(site)

        self.at(until, thaw)

    # -- running ---------------------------------------------------------------------------

    def run(self, until: float = 3600.0) -> None:
        """Until nothing is to be done any more, or that time."""
        for site in list(self.sites.values()):
            self.pump(site)
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action = heapq.heappop(self._heap)
            action()
            self.watch(self)

    def pump(self, site: Site) -> None:
        if self.sites.get(site.address.node) is not site:
            return
        while outputs := site.endpoint.take():
            for output in outputs:
                match output:
                    case PublishFrame():
                        self._publish(site, output)
                    case Arrived(letter):
                        self._arrived(site, letter)
                    case Acked(key, node):
                        site.acked.append((key, node))
                    case LetterRefused(key, node, reason):
                        site.refused.append((key, node, reason))
        due = site.endpoint.next_timer()
        node = site.address.node
        if due is not None and self._timers.get(node, float("inf")) > due:
            self._timers[node] = due
            self.at(max(due, self.now), lambda: self._tick(site, due))

    def _tick(self, site: Site, due: float) -> None:
        if self.sites.get(site.address.node) is site and self._timers.get(site.address.node) == due:
            del self._timers[site.address.node]
            site.endpoint.on_timer(self.now)
            self.pump(site)

    def _arrived(self, site: Site, letter: Letter) -> None:
        site.arrived.append(letter)
        for blob in letter.content.blobs:
            content = site.blobs.get(blob.digest)
            assert content is not None
            assert len(content) == blob.size
            assert blob.digest.startswith("~") or blake3.blake3(content).hexdigest() == blob.digest
        match self.decide(site, letter):
            case "accept":
                site.endpoint.accept(letter)
            case "park":
                pass
            case reason:
                site.endpoint.refuse(letter, reason)

    def _publish(self, sender: Site, frame: PublishFrame) -> None:
        self.frames += 1
        self.payload_bytes[frame.plane] = self.payload_bytes.get(frame.plane, 0) + len(frame.payload)
        if not sender.online:
            return
        route = topics.parse(frame.topic)
        assert route.sender == sender.address.node
        for site in list(self.sites.values()):
            if route.plane == "cast":
                takes = route.target in {f"{JOB}~{role}" for role in site.roles} and route.scope in {site.address.site, "all"}
            else:
                takes = (route.target, route.scope) == (site.address.node, site.address.site)
            if takes and route.kind == site.address.kind:
                self._carry(sender, site, route, frame)

    def _carry(self, sender: Site, receiver: Site, route: topics.Route, frame: PublishFrame) -> None:
        weather, chance = self.weather, self.random.random
        stormy = self.now < weather.until
        payload = bytes(frame.payload)
        if self.lose(frame, receiver.address.node) or (stormy and chance() < weather.loss):
            return
        times = 2 if stormy and chance() < weather.repeat else 1
        for _ in range(times):
            carried = payload
            if stormy and chance() < weather.corrupt:
                at = self.random.randrange(len(payload))
                carried = payload[:at] + bytes([payload[at] ^ (1 << self.random.randrange(8))]) + payload[at + 1 :]
            pair = (sender.address.node, receiver.address.node)
            when = self.now + self.delay_s
            if stormy and weather.reorder:
                when += self.random.random() * 10 * self.delay_s
            else:
                when = max(when, self._last.get(pair, 0.0))
                self._last[pair] = when
            self.at(when, lambda carried=carried: self._deliver(receiver.address.node, route, carried))  # type: ignore[misc]

    def _deliver(self, node: str, route: topics.Route, payload: bytes) -> None:
        site = self.sites[node]
        if not site.online:
            return
        if site.frozen:
            site.backlog.append((route, payload))
            return
        site.endpoint.on_frame(self.now, route, payload)
        self.pump(site)


def content(sender: str, to: str, body: bytes, *blobs: BlobMeta) -> Content:
    return Content(sender, to, body, blobs)
