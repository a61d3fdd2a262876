"""Control messages as payloads of a bounded size, and back. Pure.

A message that is longer than a part travels as several `MessagePart` messages, in order, on the topic of the message. The receiver puts them
together; a message of which a part was lost is given up when the sender's next message begins. What is repeated until it is confirmed
(Desired, Request) comes again whole, what is not (Heartbeat) is replaced by the next one.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from fog_common.errors import TooLarge, WireError
from fog_common.wire import messages
from fog_common.wire.messages import Control, MessagePart

PART_BYTES: Final = 100_000
"""Payload of a part, in bytes, also where the sender's own broker takes more: a broker on the way may take only 128 KB (AWS IoT)."""
MAX_MESSAGE_BYTES: Final = 16_000_000
"""Of a message in parts."""
MAX_WAITING_BYTES: Final = 64_000_000
"""Of all unfinished messages of a receiver; the oldest are given up first."""
MAX_SENDERS: Final = 10_000
"""Senders whose last message is remembered, so that a repeated part of it is known."""
ENVELOPE_BYTES: Final = 200
"""Most that a MessagePart adds to its data: tag, field names, id, numbers."""
SMALLEST_PART_BYTES: Final = 1000
"""Of data, but for the last part of a message."""
MAX_ID: Final = 100


@dataclasses.dataclass(slots=True)
class _Unfinished:
    """A message of which parts are missing; `count` is 0 once it is finished."""

    id: str
    count: int
    parts: dict[int, bytes] = dataclasses.field(default_factory=dict)
    size: int = 0


class ControlCodec:
    """Control messages of one connection. name: of the process, unique among its lives; the ids of messages in parts begin with it."""

    def __init__(self, name: str) -> None:
        self._name = name[: MAX_ID // 2]
        self._sent = 0
        self._limit = PART_BYTES
        self._unfinished: dict[tuple[str, str], _Unfinished] = {}
        self._waiting = 0

    # -- out ---------------------------------------------------------------------------------

    def connected(self, max_payload: int) -> None:
        """max_payload: largest payload that the broker takes, in bytes; 0 = unknown."""
        self._limit = min(PART_BYTES, max_payload or PART_BYTES)

    def payloads(self, message: Control) -> list[bytes]:
        """The message as payloads to publish in this order on one topic. TooLarge for a message over MAX_MESSAGE_BYTES."""
        whole = messages.encode(message)
        if len(whole) <= self._limit:
            return [whole]
        if len(whole) > MAX_MESSAGE_BYTES:
            raise TooLarge(len(whole), MAX_MESSAGE_BYTES, f"{type(message).__name__} message")
        self._sent += 1
        step = max(SMALLEST_PART_BYTES, self._limit - ENVELOPE_BYTES)
        data = [whole[begin : begin + step] for begin in range(0, len(whole), step)]
        id = f"{self._name}.{self._sent}"
        return [messages.encode(MessagePart(id, index, len(data), piece)) for index, piece in enumerate(data)]

    # -- in ----------------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """Of unfinished messages."""
        return self._waiting

    def message(self, sender: str, kind: str, payload: bytes) -> Control | None:
        """The message that `payload` is or completes; None while parts of it are missing, and for a part that came before.

        sender, kind: of the topic; each pair has at most one unfinished message. WireError for a payload that is dropped, with the
        reason; the parts that came before it are dropped as well if it contradicts them.
        """
        message = messages.decode(payload)
        if not isinstance(message, MessagePart):
            return message
        whole = self._add((sender, kind), message)
        if whole is None:
            return None
        inner = messages.decode(whole, MAX_MESSAGE_BYTES)
        if isinstance(inner, MessagePart):
            raise WireError("a part within a part", "bad_part")
        return inner

    def forget(self, sender: str, kind: str) -> None:
        """Give up what is unfinished of this sender."""
        if (gone := self._unfinished.pop((sender, kind), None)) is not None:
            self._waiting -= gone.size

    def _add(self, key: tuple[str, str], part: MessagePart) -> bytes | None:
        """The encoding of the message, if this part completes it."""
        _check(part)
        known = self._unfinished.get(key)
        if known is None or known.id != part.id:
            self.forget(*key)
            known = _Unfinished(part.id, part.count)
        elif not known.count or known.parts.get(part.index) == part.data:
            return None  # a repeated part
        elif known.count != part.count or part.index in known.parts:
            self.forget(*key)
            raise WireError(f"part {part.index} of {part.count} contradicts another part of the same message", "bad_part")
        if (size := known.size + len(part.data)) > MAX_MESSAGE_BYTES:
            self.forget(*key)
            raise TooLarge(size, MAX_MESSAGE_BYTES, "control message in parts")
        known.parts[part.index], known.size = part.data, size
        self._waiting += len(part.data)
        self._unfinished.pop(key, None)
        self._unfinished[key] = known  # the newest is the last
        whole = None
        if len(known.parts) == known.count:
            whole = b"".join(known.parts[index] for index in range(known.count))
            self._waiting -= size
            self._unfinished[key] = _Unfinished(part.id, 0)
        self._make_room()
        return whole

    def _make_room(self) -> None:
        """Over a bound, the sender with the most bytes loses its oldest message, so that a flood harms only its sender."""
        while self._waiting > MAX_WAITING_BYTES or len(self._unfinished) > MAX_SENDERS:
            held: dict[str, int] = {}
            for (sender, _), message in self._unfinished.items():
                held[sender] = held.get(sender, 0) + message.size + 1
            most = max(held, key=held.__getitem__)
            self.forget(*next(key for key in self._unfinished if key[0] == most))


def _check(part: MessagePart) -> None:
    """WireError for numbers, an id or data that no sender of ours writes."""
    most = -(-MAX_MESSAGE_BYTES // SMALLEST_PART_BYTES)
    if not 1 < part.count <= most or not 0 <= part.index < part.count or not 0 < len(part.id) <= MAX_ID:
        raise WireError(f"part {part.index} of {part.count}, its id has {len(part.id)} characters", "bad_part")
    if len(part.data) < (1 if part.index == part.count - 1 else SMALLEST_PART_BYTES):
        raise WireError(f"part {part.index} of {part.count} holds {len(part.data)} B", "bad_part")
