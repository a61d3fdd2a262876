"""Brokers and connections in virtual time: rates, latency, loss, freezes, restarts. Topics, filters and payloads are the real ones.

Without site brokers every message goes through its sender's uplink, one broker, its receivers' downlinks. A node with a `local` lane is
at a site with a broker of its own: messages inside the site (`d2d`, casts of the site) go through local lanes only. Messages that leave
the site go through the node's own uplink, or, if the site has a bridge, through the local lane and once through the bridge.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from msgspec.structs import replace

from fog_common.bus.base import BusEvent, Connected, Disconnected, Received, Will
from fog_common.ids import CLOUD_SITE
from fog_common.wire.topics import ALL_SITES
from fog_sim.faults import KEEPALIVE_S, SLOW_LATENCY_S, SLOW_RATE_BYTES_S
from fog_sim.kernel import Kernel
from fog_sim.links import LinkModel


class Trie:
    """MQTT topic filters with '+' and their subscribers ('#' is not used)."""

    def __init__(self) -> None:
        self._root: dict[str, object] = {}

    def add(self, filter_: str, who: Connection) -> None:
        node = self._root
        for level in filter_.split("/"):
            node = node.setdefault(level, {})  # type: ignore[assignment]
        node.setdefault("", {})[who] = None  # type: ignore[index]

    def discard(self, filter_: str, who: Connection) -> None:
        node = self._root
        for level in filter_.split("/"):
            if level not in node:
                return
            node = node[level]  # type: ignore[assignment]
        node.get("", {}).pop(who, None)  # type: ignore[attr-defined]

    def match(self, topic: str) -> list[Connection]:
        """Connections with a matching filter, each once, in the order of subscription."""
        subscribers: dict[Connection, None] = {}
        nodes = [self._root]
        for level in topic.split("/"):
            nodes = [node[key] for node in nodes for key in (level, "+") if key in node]  # type: ignore[misc]
        for node in nodes:
            subscribers.update(node.get("", {}))  # type: ignore[call-overload]
        return list(subscribers)


class Lane:
    """One interface, full duplex: each direction is a queue, first in, first out."""

    def __init__(self, link: LinkModel) -> None:
        self.link = self.usual = link
        self.up_free = 0.0
        self.down_free = 0.0
        self.sent_bytes = 0
        self.received_bytes = 0

    def send(self, now: float, size: int) -> float:
        """Send bytes; returns the time at which the last one is at the other end."""
        self.up_free = max(self.up_free, now) + size / self.link.up_bytes_s
        self.sent_bytes += size
        return self.up_free + self.link.latency_s

    def receive(self, now: float, size: int) -> float:
        self.down_free = max(self.down_free, now) + size / self.link.down_bytes_s
        self.received_bytes += size
        return self.down_free + self.link.latency_s

    @property
    def joules(self) -> float:
        return (self.sent_bytes + self.received_bytes) * self.link.joules_per_byte


class Port(Lane):
    """A node's network interface, shared by all its connections; with `local`, a second one to the broker of its site."""

    def __init__(self, link: LinkModel, local: LinkModel | None = None, site: str = "") -> None:
        super().__init__(link)
        self.local = Lane(local) if local is not None else None
        self.site = site if local is not None else ""
        self.cut = False
        self.dark_until = 0.0
        """Time until which frames are held back without notice to either end."""


class Connection:
    """One client of the simulated broker; the simulator's `Bus`."""

    def __init__(self, broker: SimBroker, port: Port, on_event: Callable[[BusEvent], None], will: Will | None = None) -> None:
        self.broker = broker
        self.port = port
        self.on_event = on_event
        self.will = will
        self.filters: dict[str, None] = {}
        self.online = False
        self.open = False
        self.session = 0
        """Number of times that the connection came online."""

    def start(self) -> None:
        self.open = True
        self.broker.connect(self)

    def subscribe(self, *filters: str, qos: int = 0) -> None:
        for filter_ in filters:
            if filter_ not in self.filters:
                self.filters[filter_] = None
                if self.online:
                    self.broker.subscribe(self, filter_)

    def unsubscribe(self, *filters: str) -> None:
        for filter_ in filters:
            self.filters.pop(filter_, None)
            self.broker.trie.discard(filter_, self)

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int = 0, retain: bool = False) -> None:
        if self.online:
            self.broker.publish(self, topic, bytes(payload), qos, retain)

    def close(self, farewell: Will | None = None) -> None:
        if farewell is not None:
            self.publish(farewell.topic, farewell.payload, farewell.qos, farewell.retain)
        self.open = False
        self.broker.drop(self, "closed", with_will=False)

    def kill(self) -> None:
        """The process dies: the broker notices at once (RST) and publishes the will."""
        self.open = False
        self.broker.drop(self, "killed", with_will=True)

    def vanish(self) -> None:
        """The machine loses power: the broker notices by the keepalive, or when the machine is back."""
        self.open = False
        self.on_event = lambda event: None
        session = self.session
        self.broker.kernel.after(KEEPALIVE_S, lambda: self.broker.expire(self, session))


class SimBroker:
    """The cloud's broker and those of the sites."""

    def __init__(self, kernel: Kernel, seed: int) -> None:
        self.kernel = kernel
        self.trie = Trie()
        self.up = True
        self.connections: dict[Connection, None] = {}
        self.retained: dict[str, bytes] = {}
        self.frames = 0
        self.lost = 0
        self.bridges: dict[str, Lane] = {}
        """site -> lane between its broker and the cloud's. Nodes of a site without one have uplinks of their own."""
        self.severed: set[str] = set()
        """Sites that are cut off from the cloud, and go on inside."""
        self.bytes: dict[str, dict[str, int]] = {}
        """broker (a site, or `cloud`) -> plane -> payload bytes received."""
        self.on_message: Callable[[str, bytes], None] = lambda topic, payload: None
        """Called with every message that a broker receives."""
        self._random = random.Random(f"broker-{seed}")

    def connect(self, connection: Connection, delay: float | None = None) -> None:
        """Bring a connection online after a round trip; it tries again with jitter while the broker is away or the link is cut."""
        link = connection.port.link
        wait = 2 * link.latency_s if delay is None else delay

        def attempt() -> None:
            if not connection.open or connection.online:
                return
            away = not (self.up or connection.port.site in self.bridges)
            if away or connection.port.cut or self.kernel.now < connection.port.dark_until:
                self.connect(connection, self._random.uniform(0.2, 2.0))
                return
            connection.online = True
            connection.session += 1
            self.connections[connection] = None
            for filter_ in connection.filters:
                self.subscribe(connection, filter_)
            connection.on_event(Connected())

        self.kernel.after(wait, attempt)

    def subscribe(self, connection: Connection, filter_: str) -> None:
        self.trie.add(filter_, connection)
        start = filter_.split("+", 1)[0]
        for topic, payload in [item for item in self.retained.items() if item[0].startswith(start)]:
            if _matches(filter_, topic) and connection.port.site not in self.severed:
                if connection.port.site in self.bridges:
                    self._cross(connection.port.site, [connection], topic, payload, retain=True)
                else:
                    self._deliver(connection, topic, payload, retain=True)

    def publish(self, sender: Connection, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        """Send a message through the sender's link, one or two brokers, and each subscriber's link, in order per connection."""
        port, now = sender.port, self.kernel.now
        size = len(payload) + len(topic) + 8
        plane, stays = _plane(topic)
        near = port.local if stays or port.site in self.bridges else None
        lane = near or port
        at = lane.send(now, size)
        if qos == 0 and lane.link.loss and self._random.random() < lane.link.loss:
            self.lost += 1
            return
        session = sender.session

        def arrive() -> None:
            if self.kernel.now < port.dark_until:
                self.kernel.at(port.dark_until, again)
                return
            if not self.up and not (near is not None and port.site):
                return
            if port.cut:
                return
            if near is None:
                if port.site not in self.severed:
                    self._route(topic, payload, qos, retain)
                return
            self.frames += 1
            self.on_message(topic, payload)
            self._count(port.site, plane, len(payload))
            for connection in self.trie.match(topic):
                if connection.port.site == port.site:
                    self._deliver(connection, topic, payload)
            if not stays and port.site not in self.severed:
                crossed = self.bridges[port.site].send(self.kernel.now, size)

                def cross() -> None:
                    if self.up:
                        self._route(topic, payload, qos, retain, port.site)

                self.kernel.at(crossed, cross)

        def again() -> None:
            if sender.online and sender.session == session:  # TCP repeats the message on its own connection only
                arrive()

        self.kernel.at(at, arrive)

    def _route(self, topic: str, payload: bytes, qos: int, retain: bool, origin: str = "") -> None:
        """Route a message at the cloud's broker. origin: site whose bridge it came through, and whose nodes have it already."""
        self.frames += 1
        self.on_message(topic, payload)
        self._count(CLOUD_SITE, _plane(topic)[0], len(payload))
        if retain:
            self.retained[topic] = payload
        beyond: dict[str, list[Connection]] = {}
        for connection in self.trie.match(topic):
            site = connection.port.site
            if site in self.bridges:
                if site != origin:
                    beyond.setdefault(site, []).append(connection)
            elif site not in self.severed:
                self._deliver(connection, topic, payload)
        for site, connections in beyond.items():
            if site not in self.severed:
                self._cross(site, connections, topic, payload)

    def _cross(self, site: str, connections: list[Connection], topic: str, payload: bytes, retain: bool = False) -> None:
        """Send a message down a site's bridge once, then to each of its connections."""
        at = self.bridges[site].receive(self.kernel.now, len(payload) + len(topic) + 8)

        def arrive() -> None:
            self._count(site, _plane(topic)[0], len(payload))
            for connection in connections:
                self._deliver(connection, topic, payload, retain)

        self.kernel.at(at, arrive)

    def _deliver(self, connection: Connection, topic: str, payload: bytes, retain: bool = False) -> None:
        port = connection.port
        near = port.local if port.site in self.bridges or _plane(topic)[1] else None
        at = (near or port).receive(self.kernel.now, len(payload) + len(topic) + 8)
        session = connection.session

        def arrive() -> None:
            if self.kernel.now < port.dark_until:
                self.kernel.at(port.dark_until, arrive)
            elif connection.online and connection.session == session and not port.cut:
                connection.on_event(Received(topic, payload, retain))

        self.kernel.at(at, arrive)

    def _count(self, broker: str, plane: str, size: int) -> None:
        planes = self.bytes.setdefault(broker, {})
        planes[plane] = planes.get(plane, 0) + size

    def drop(self, connection: Connection, why: str, with_will: bool) -> None:
        """End a connection for both sides; an open one connects again."""
        self._forget(connection, with_will)
        if connection.open:
            connection.on_event(Disconnected(why))
            self.connect(connection, self._random.uniform(0.2, 2.0))

    def _forget(self, connection: Connection, with_will: bool) -> None:
        was_online, connection.online = connection.online, False
        self.connections.pop(connection, None)
        for filter_ in connection.filters:
            self.trie.discard(filter_, connection)
        if with_will and was_online and self.up and connection.will is not None and connection.port.site not in self.severed:
            will = connection.will
            self.kernel.after(0.0, lambda: self._route(will.topic, will.payload, will.qos, will.retain))

    def restart(self, away_s: float) -> None:
        """Take the cloud's broker down for `away_s`; it forgets all, including retained messages. Brokers of sites stay up."""
        self.up = False
        self.retained.clear()
        for connection in [each for each in self.connections if each.port.site not in self.bridges]:
            self.drop(connection, "broker restarted", with_will=False)

        def back() -> None:
            self.up = True

        self.kernel.after(away_s, back)

    def sever(self, site: str, seconds: float) -> None:
        """Cut a site off from the cloud for a while; messages that would cross are lost, and its own broker goes on."""
        self.severed.add(site)
        self.kernel.after(seconds, lambda: self.severed.discard(site))

    def cut(self, port: Port, seconds: float) -> None:
        """Cut a node's link for a while; both ends of its connections notice at once."""
        port.cut = True
        for connection in [c for c in self.connections if c.port is port]:
            self.drop(connection, "link cut", with_will=True)

        def back() -> None:
            port.cut = False

        self.kernel.after(seconds, back)

    def black_hole(self, port: Port, seconds: float) -> None:
        """Hold back all frames of a node for a while; the broker drops its connections after their keepalive."""
        port.dark_until = max(port.dark_until, self.kernel.now + seconds)
        if seconds > KEEPALIVE_S:
            for connection, session in [(c, c.session) for c in self.connections if c.port is port]:
                self.kernel.after(KEEPALIVE_S, lambda c=connection, s=session: self.expire(c, s))  # type: ignore[misc]

    def expire(self, connection: Connection, session: int) -> None:
        if connection.online and connection.session == session:
            self.drop(connection, "keepalive", with_will=True)

    def half_open(self, port: Port, seconds: float) -> None:
        """The broker loses a node's connections and publishes their wills; the node notices later, at the latest by its keepalive."""
        for connection, session in [(c, c.session) for c in self.connections if c.port is port]:
            self._forget(connection, with_will=True)
            learn = lambda c=connection, s=session: self.drop(c, "half open", with_will=False) if c.open and c.session == s else None  # noqa: E731
            self.kernel.after(min(seconds, KEEPALIVE_S), learn)

    def reset(self, port: Port) -> None:
        for connection in [c for c in self.connections if c.port is port]:
            self.drop(connection, "reset", with_will=True)

    def slow(self, port: Port, seconds: float) -> None:
        link = port.link = replace(port.usual, up_bytes_s=SLOW_RATE_BYTES_S, down_bytes_s=SLOW_RATE_BYTES_S, latency_s=SLOW_LATENCY_S)

        def back() -> None:
            if port.link is link:  # otherwise it was slowed again meanwhile
                port.link = port.usual

        self.kernel.after(seconds, back)


def _plane(topic: str) -> tuple[str, bool]:
    """(plane: d2d, to, cast, node or ctl; whether the message stays in the sender's site)."""
    parts = topic.split("/", 5)
    plane = parts[3] if len(parts) > 4 else ""
    return plane, plane == "d2d" or (plane == "cast" and parts[4] != ALL_SITES)


def _matches(filter_: str, topic: str) -> bool:
    wanted, levels = filter_.split("/"), topic.split("/")
    return len(wanted) == len(levels) and all(want in ("+", level) for want, level in zip(wanted, levels, strict=True))
