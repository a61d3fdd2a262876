"""A broker and its connections in memory, without threads, for tests.

    broker = MemoryBroker()
    bus = MemoryBus(broker, "ada", events.append)
    bus.start()

Events are delivered within the call that causes them (never nested), or with `manual=True` when `deliver()` is called.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from fog_common.bus.base import BusEvent, Connected, Disconnected, OnEvent, Received, Will
from fog_common.bus.sendqueue import MAX_BYTES, MAX_CONTROL, Queued, SendQueue
from fog_common.errors import TooLarge

HELD_FOR_FROZEN: Final = 1000
"""Messages that the broker holds for a subscriber that does not read; later ones are lost, as with mosquitto."""


def matches(pattern: str, topic: str) -> bool:
    """Whether a filter matches a topic (MQTT 5, 4.7): '+' is one level, '#' the level above and all below; neither matches a first '$…'."""
    wanted, levels = pattern.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


class MemoryBroker:
    """max_payload: bytes, 0 = no limit. drop: (sender's client id, topic) -> whether to lose the message. manual: see the module text."""

    def __init__(self, *, manual: bool = False, max_payload: int = 0, drop: Callable[[str, str], bool] | None = None) -> None:
        self.max_payload, self.drop, self._manual = max_payload, drop, manual
        self.running = True
        self.retained: dict[str, bytes] = {}
        self.lost = 0
        """Messages lost because their subscriber was frozen."""
        self._buses: dict[str, MemoryBus] = {}
        self._away: list[MemoryBus] = []
        self._frozen: dict[str, deque[Received]] = {}
        self._events: deque[tuple[MemoryBus, BusEvent]] = deque()
        self._delivering = False

    # -- knobs -----------------------------------------------------------------------------

    def deliver(self, limit: int | None = None) -> int:
        """Deliver waiting events, at most `limit`; returns their number."""
        count, self._delivering = 0, True
        try:
            while self._events and (limit is None or count < limit):
                bus, event = self._events.popleft()
                count += 1
                bus.hand_over(event)
        finally:
            self._delivering = False
        return count

    def freeze(self, client_id: str) -> None:
        """Stop a client's reading; its connection stays open."""
        self._frozen.setdefault(client_id, deque())

    def thaw(self, client_id: str) -> None:
        for message in self._frozen.pop(client_id, ()):
            self._post(self._buses[client_id], message)
        self._settle()

    def disconnect(self, client_id: str, why: str = "connection lost", back: bool = True) -> None:
        """Cut a client's connection and publish its will. back: the client connects again at once."""
        bus = self._buses.get(client_id)
        if bus is not None:
            self._part(bus, why)
            if back:
                self.connect(bus)
        self._settle()

    def stop(self) -> None:
        """End all connections without their wills and forget retained messages, as mosquitto does without persistence."""
        self.running = False
        self.retained.clear()
        for bus in list(self._buses.values()):
            self._away.append(bus)
            self._part(bus, "the broker is gone", will=False)
        self._settle()

    def start(self) -> None:
        self.running = True
        away, self._away = self._away, []
        for bus in away:
            self.connect(bus)
        self._settle()

    # -- called by connections -------------------------------------------------------------

    def connect(self, bus: MemoryBus) -> None:
        if not self.running:
            self._away.append(bus)
            return
        older = self._buses.get(bus.client_id)
        if older is not None and older is not bus:
            self._part(older, f"another client took over the id {bus.client_id!r}: do two nodes have the same name?")
        self._buses[bus.client_id] = bus
        bus.max_payload = self.max_payload
        self._post(bus, Connected(self.max_payload))
        for pattern in bus.filters:
            self.recall(bus, pattern)
        bus.up = True
        bus.flush()
        self._settle()

    def recall(self, bus: MemoryBus, pattern: str) -> None:
        """Send the retained messages to a new subscription."""
        for topic, payload in self.retained.items():
            if matches(pattern, topic):
                self._post(bus, Received(topic, payload, True))
        self._settle()

    def route(self, sender: str, letter: Queued) -> None:
        if letter.retain:
            if letter.payload:
                self.retained[letter.topic] = letter.payload
            else:
                self.retained.pop(letter.topic, None)
        if self.drop is not None and self.drop(sender, letter.topic):
            return
        for bus in list(self._buses.values()):
            if any(matches(pattern, letter.topic) for pattern in bus.filters):
                self._post(bus, Received(letter.topic, letter.payload))
        self._settle()

    def leave(self, bus: MemoryBus, in_order: bool) -> None:
        if bus in self._away:
            self._away.remove(bus)
        if self._buses.get(bus.client_id) is bus:
            self._part(bus, "closed", will=not in_order)
        self._settle()

    # -- within ----------------------------------------------------------------------------

    def _part(self, bus: MemoryBus, why: str, will: bool = True) -> None:
        del self._buses[bus.client_id]
        self._frozen.pop(bus.client_id, None)
        bus.up = False
        self._post(bus, Disconnected(why))
        if will and bus.will is not None:
            self.route(bus.client_id, Queued(bus.will.topic, bus.will.payload, bus.will.qos, bus.will.retain))

    def _post(self, bus: MemoryBus, event: BusEvent) -> None:
        held = self._frozen.get(bus.client_id)
        if held is None or not isinstance(event, Received):
            self._events.append((bus, event))
        elif len(held) < HELD_FOR_FROZEN:
            held.append(event)
        else:
            self.lost += 1

    def _settle(self) -> None:
        if not self._manual and not self._delivering:
            self.deliver()


class MemoryBus:
    """See fog_common.bus.base.Bus."""

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        on_event: OnEvent,
        will: Will | None = None,
        *,
        max_control: int = MAX_CONTROL,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.client_id, self.will = client_id, will
        self.filters: dict[str, int] = {}
        self.up = False
        self.max_payload = broker.max_payload
        self.handler_errors = 0
        self._broker, self._on_event = broker, on_event
        self._queue = SendQueue(max_control, max_bytes)
        self._state = "new"

    @property
    def queued_bytes(self) -> int:
        return self._queue.bytes

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    def start(self) -> None:
        if self._state == "new":
            self._state = "started"
            self._broker.connect(self)

    def subscribe(self, *filters: str, qos: int = 0) -> None:
        for one in filters:
            self.filters[one] = qos
            if self.up:
                self._broker.recall(self, one)

    def unsubscribe(self, *filters: str) -> None:
        for one in filters:
            self.filters.pop(one, None)

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int = 0, retain: bool = False) -> None:
        if not topic or "+" in topic or "#" in topic:
            raise ValueError(f"not a topic to publish on: {topic[:80]!r}")
        size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
        if self.max_payload and size > self.max_payload:
            raise TooLarge(size, self.max_payload, f"message on {topic}")
        self._queue.put(Queued(topic, bytes(payload), qos, retain), self.up)
        self.flush()

    def close(self, farewell: Will | None = None) -> None:
        if self._state != "closed":
            started, self._state = self._state == "started", "closed"
            if started:
                if farewell is not None and self.up:
                    self.publish(farewell.topic, farewell.payload, farewell.qos, farewell.retain)
                self._broker.leave(self, in_order=True)

    def abandon(self) -> None:
        """End as in a crash: the broker publishes the will."""
        if self._state != "closed":
            self._state = "closed"
            self._broker.leave(self, in_order=False)

    # -- called by the broker --------------------------------------------------------------

    def flush(self) -> None:
        while self.up and (letter := self._queue.take(1)) is not None:
            self._broker.route(self.client_id, letter)

    def hand_over(self, event: BusEvent) -> None:
        try:
            self._on_event(event)
        except Exception:  # as on the wire: a handler cannot break the connection
            self.handler_errors += 1
