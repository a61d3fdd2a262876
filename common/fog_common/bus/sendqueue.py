"""What waits to be sent on one connection, bounded in messages and bytes. Pure: no thread, socket or clock.

QoS 1 (control) goes before QoS 0 (bulk): a state report does not wait behind a model. Order holds within each of the two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

MAX_CONTROL: Final = 1000
"""QoS 1 messages that are kept; the oldest goes first."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Payload bytes that are kept, both kinds together. Only a sender that does not look at `queued_bytes` gets there."""
MAX_TRIES: Final = 5
"""Connections that a QoS 1 message may see without being acknowledged. One that makes the broker hang up would otherwise
be sent again for ever."""


class Queued(Struct, eq=False):
    """One publish on its way."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    tries: int = 0


class SendQueue:
    """Not thread-safe: the owner locks."""

    def __init__(self, max_control: int = MAX_CONTROL, max_bytes: int = MAX_BYTES) -> None:
        self._max_control, self._max_bytes = max_control, max_bytes
        self._control: deque[Queued] = deque()
        self._bulk: deque[Queued] = deque()
        self.bytes = 0
        """Payload bytes that wait."""
        self.dropped = 0
        """Messages thrown away since the beginning: offline, over a bound, or too often tried."""

    def __len__(self) -> int:
        return len(self._control) + len(self._bulk)

    def put(self, letter: Queued, connected: bool) -> None:
        """Keep it. While not connected a QoS 0 message is dropped; over a bound the oldest goes, bulk before control."""
        if letter.qos == 0 and not connected:
            self.dropped += 1
            return
        (self._control if letter.qos else self._bulk).append(letter)
        self.bytes += len(letter.payload)
        self._keep_bounds()

    def take(self, window: int) -> Queued | None:
        """The next one to send; None if there is none. window: how many more QoS 1 messages the broker may be sent now."""
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
        """take() would return something."""
        return bool(self._bulk) or (bool(self._control) and window > 0)

    def put_back(self, unacknowledged: Iterable[Queued]) -> list[Queued]:
        """After a lost connection: these QoS 1 letters go to the front, in their order. Returns those that were given up."""
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
        """The connection is gone, and QoS 0 with it."""
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
