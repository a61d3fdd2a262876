"""Messages that wait to be sent on one connection, bounded in number and bytes. Pure: no thread, socket or clock.

QoS 1 (control) goes before QoS 0 (bulk): a state report does not wait behind a model. Order holds within each QoS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

MAX_CONTROL: Final = 1000
"""QoS 1 messages that are kept; the oldest is dropped first."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Payload bytes of both kinds that are kept. Only a sender that ignores `queued_bytes` reaches the bound."""
MAX_TRIES: Final = 5
"""Connections on which a QoS 1 message is tried: one that makes the broker hang up must not be sent for ever."""


class Queued(Struct, eq=False):
    """One publish on its way."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    tries: int = 0


class SendQueue:
    """A queue for each QoS. Not thread-safe: the owner locks."""

    def __init__(self, max_control: int = MAX_CONTROL, max_bytes: int = MAX_BYTES) -> None:
        self._max_control, self._max_bytes = max_control, max_bytes
        self._control: deque[Queued] = deque()
        self._bulk: deque[Queued] = deque()
        self.bytes = 0
        """Waiting payload bytes."""
        self.dropped = 0
        """Messages dropped so far: offline, over a bound, or tried too often."""

    def __len__(self) -> int:
        return len(self._control) + len(self._bulk)

    def put(self, letter: Queued, connected: bool) -> None:
        """Queue a message. Without a connection a QoS 0 message is dropped; over a bound the oldest is, bulk before control."""
        if letter.qos == 0 and not connected:
            self.dropped += 1
            return
        (self._control if letter.qos else self._bulk).append(letter)
        self.bytes += len(letter.payload)
        self._keep_bounds()

    def take(self, window: int) -> Queued | None:
        """The next message to send, or None. window: QoS 1 messages that may still be sent before an acknowledgement."""
        if self._control and window > 0:
            queue = self._control
        elif self._bulk:
            queue = self._bulk
        else:
            return None
        letter = queue.popleft()
        self.bytes -= len(letter.payload)
        return letter

    def ready(self, window: int) -> bool:
        """Whether take() would return a message."""
        return bool(self._bulk) or (bool(self._control) and window > 0)

    def put_back(self, unacknowledged: Iterable[Queued]) -> list[Queued]:
        """After a lost connection: put unacknowledged QoS 1 messages to the front, in their order. Returns those that are given up."""
        given_up: list[Queued] = []
        kept: list[Queued] = []
        for letter in unacknowledged:
            letter.tries += 1
            (given_up if letter.tries >= MAX_TRIES else kept).append(letter)
        self._control.extendleft(reversed(kept))
        self.bytes += sum(len(letter.payload) for letter in kept)
        self.dropped += len(given_up)
        self._keep_bounds()
        return given_up

    def drop_bulk(self) -> None:
        """Drop all QoS 0 messages, because the connection is gone."""
        while self._bulk:
            self._drop(self._bulk)

    def _keep_bounds(self) -> None:
        while len(self._control) > self._max_control:
            self._drop(self._control)
        while self.bytes > self._max_bytes and len(self) > 1:
            self._drop(self._bulk or self._control)

    def _drop(self, queue: deque[Queued]) -> None:
        self.bytes -= len(queue.popleft().payload)
        self.dropped += 1
