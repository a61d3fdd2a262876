"""State that the callers and the thread of one connection share under a lock: subscriptions, the send queue, the bell."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from typing import Final

from fog_common.bus.base import BusEvent, OnEvent
from fog_common.bus.bell import Bell
from fog_common.bus.sendqueue import Queued, SendQueue
from fog_common.errors import TooLarge

log = logging.getLogger(__name__)
MAX_TOPIC: Final = 512
Change = tuple[str, int | None]
"""(filter, QoS to subscribe with, or None to unsubscribe)."""


class BusLine:
    def __init__(self, on_event: OnEvent, queue: SendQueue, max_payload: int) -> None:
        self._on_event, self._queue = on_event, queue
        self._lock = threading.Lock()
        self._filters: dict[str, int] = {}
        self._changes: deque[Change] = deque()
        self._up = False
        self._handed_bytes = 0
        self.bell = Bell()
        self.max_payload = max_payload
        self.handler_errors = 0

    # -- callers ---------------------------------------------------------------------------

    def subscribe(self, filters: Iterable[str], qos: int) -> None:
        with self._lock:
            for one in filters:
                self._filters[one] = qos
                self._changes.append((one, qos))
        self.bell.ring()

    def unsubscribe(self, filters: Iterable[str]) -> None:
        with self._lock:
            self._changes.extend((one, None) for one in filters if self._filters.pop(one, None) is not None)
        self.bell.ring()

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int, retain: bool) -> None:
        """Queue a message. TooLarge, or ValueError if the topic cannot be published on; nothing is queued then."""
        if not topic or "+" in topic or "#" in topic or len(topic) > MAX_TOPIC:
            raise ValueError(f"not a topic to publish on: {topic[:80]!r}")
        size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
        if size > self.max_payload:
            raise TooLarge(size, self.max_payload, f"message on {topic}")
        letter = Queued(topic, bytes(payload), qos, retain)
        with self._lock:
            self._queue.put(letter, self._up)
        self.bell.ring()

    @property
    def queued_bytes(self) -> int:
        """Payload bytes that wait to be sent, or to be acknowledged (QoS 1)."""
        return self._queue.bytes + self._handed_bytes

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    # -- the thread ------------------------------------------------------------------------

    def renew(self) -> None:
        """Subscribe to all filters again, because a new connection has no subscriptions."""
        with self._lock:
            self._changes.clear()
            self._changes.extend(self._filters.items())

    def changes(self, limit: int) -> list[Change]:
        """The next changes of one kind (all to add, or all to leave), at most `limit`."""
        batch: list[Change] = []
        with self._lock:
            while self._changes and len(batch) < limit and (not batch or (self._changes[0][1] is None) == (batch[0][1] is None)):
                batch.append(self._changes.popleft())
        return batch

    def take(self, window: int) -> Queued | None:
        """The next message to send. None while a change waits, so that a subscription precedes messages published after it."""
        with self._lock:
            letter = None if self._changes else self._queue.take(window)
            if letter is not None and letter.qos:
                self._handed_bytes += len(letter.payload)
            return letter

    def more(self, window: int) -> bool:
        """Whether a change or a message could be sent at once."""
        with self._lock:
            return bool(self._changes) or self._queue.ready(window)

    def acknowledged(self, letter: Queued) -> None:
        self._handed_bytes -= len(letter.payload)

    def opened(self) -> None:
        with self._lock:
            self._up = True

    def lost(self, unacknowledged: list[Queued]) -> None:
        """Keep QoS 1 messages for the next connection and drop the others."""
        with self._lock:
            self._up = False
            given_up = self._queue.put_back(unacknowledged)
            self._queue.drop_bulk()
            self._handed_bytes = 0
        for letter in given_up:
            log.error("gave up a message that no connection survived topic=%s size=%d", letter.topic, len(letter.payload))

    def forget(self, letter: Queued, why: str) -> None:
        with self._lock:
            self._queue.dropped += 1
            if letter.qos:
                self._handed_bytes -= len(letter.payload)
        log.error("dropped a message: %s topic=%s size=%d", why, letter.topic, len(letter.payload))

    def emit(self, event: BusEvent) -> None:
        """Hand an event to the handler; log and count its exceptions."""
        try:
            self._on_event(event)
        except Exception:
            self.handler_errors += 1
            log.exception("handler failed on %s", type(event).__name__)
