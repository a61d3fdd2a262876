"""A broker and its connections in virtual time: rates, latency, loss, freezes, restarts. Same topics, same filters, real payloads."""

from __future__ import annotations

import random
from collections.abc import Callable

from fog_common.bus.base import BusEvent, Connected, Disconnected, Received, Will
from fog_sim.kernel import Kernel
from fog_sim.links import Link


class Trie:
    """MQTT topic filters with '+' (no '#': we use none) and who wants what matches."""

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
        """Each connection once, in the order of subscription."""
        found: dict[Connection, None] = {}
        nodes = [self._root]
        for level in topic.split("/"):
            nodes = [node[key] for node in nodes for key in (level, "+") if key in node]  # type: ignore[misc]
        for node in nodes:
            found.update(node.get("", {}))  # type: ignore[call-overload]
        return list(found)


class Port:
    """A node's one network interface: all its connections share it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.up_free = 0.0
        self.down_free = 0.0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.cut = False


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
        """The process died: the broker notices at once (RST) and publishes the will."""
        self.open = False
        self.broker.drop(self, "killed", with_will=True)


class SimBroker:
    def __init__(self, kernel: Kernel, seed: int) -> None:
        self.kernel = kernel
        self.trie = Trie()
        self.up = True
        self.connections: dict[Connection, None] = {}
        self.retained: dict[str, bytes] = {}
        self.frames = 0
        self.lost = 0
        self._random = random.Random(f"broker-{seed}")

    def connect(self, connection: Connection, delay: float | None = None) -> None:
        """Comes online after a round trip, or tries again with jitter while the broker is away or the link is cut."""
        link = connection.port.link
        wait = 2 * link.latency_s if delay is None else delay

        def attempt() -> None:
            if not connection.open or connection.online:
                return
            if not self.up or connection.port.cut:
                self.connect(connection, self._random.uniform(0.2, 2.0))
                return
            connection.online = True
            self.connections[connection] = None
            for filter_ in connection.filters:
                self.subscribe(connection, filter_)
            connection.on_event(Connected())

        self.kernel.after(wait, attempt)

    def subscribe(self, connection: Connection, filter_: str) -> None:
        self.trie.add(filter_, connection)
        for topic, payload in list(self.retained.items()):
            if _matches(filter_, topic):
                self._deliver(connection, topic, payload, retain=True)

    def publish(self, sender: Connection, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        """Through the sender's uplink, the broker, and each subscriber's downlink; order per connection is kept."""
        port, now = sender.port, self.kernel.now
        size = len(payload) + len(topic) + 8
        port.up_free = max(port.up_free, now) + size / port.link.up_bytes_s
        port.sent_bytes += size
        if qos == 0 and port.link.loss and self._random.random() < port.link.loss:
            self.lost += 1
            return

        def arrive() -> None:
            if self.up and not port.cut:
                self._route(topic, payload, qos, retain)

        self.kernel.at(port.up_free + port.link.latency_s, arrive)

    def _route(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        self.frames += 1
        if retain:
            self.retained[topic] = payload
        for connection in self.trie.match(topic):
            self._deliver(connection, topic, payload)

    def _deliver(self, connection: Connection, topic: str, payload: bytes, retain: bool = False) -> None:
        port = connection.port
        size = len(payload) + len(topic) + 8
        port.down_free = max(port.down_free, self.kernel.now) + size / port.link.down_bytes_s
        port.received_bytes += size

        def arrive() -> None:
            if connection.online and not port.cut:
                connection.on_event(Received(topic, payload, retain))

        self.kernel.at(port.down_free + port.link.latency_s, arrive)

    def drop(self, connection: Connection, why: str, with_will: bool) -> None:
        was_online, connection.online = connection.online, False
        self.connections.pop(connection, None)
        for filter_ in connection.filters:
            self.trie.discard(filter_, connection)
        if with_will and was_online and self.up and connection.will is not None:
            will = connection.will
            self.kernel.after(0.0, lambda: self._route(will.topic, will.payload, will.qos, will.retain))
        if connection.open:
            connection.on_event(Disconnected(why))
            self.connect(connection, self._random.uniform(0.2, 2.0))

    def restart(self, away_s: float) -> None:
        """Down for `away_s`; nothing is remembered, not even retained messages."""
        self.up = False
        self.retained.clear()
        for connection in list(self.connections):
            self.drop(connection, "broker restarted", with_will=False)

        def back() -> None:
            self.up = True

        self.kernel.after(away_s, back)

    def cut(self, port: Port, seconds: float) -> None:
        """The node's link is dead for a while; its connections notice when their keepalive would."""
        port.cut = True
        for connection in [c for c in self.connections if c.port is port]:
            self.drop(connection, "link cut", with_will=True)

        def back() -> None:
            port.cut = False

        self.kernel.after(seconds, back)


def _matches(filter_: str, topic: str) -> bool:
    wanted, levels = filter_.split("/"), topic.split("/")
    return len(wanted) == len(levels) and all(want in ("+", level) for want, level in zip(wanted, levels, strict=True))
