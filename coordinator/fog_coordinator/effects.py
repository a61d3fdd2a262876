"""What the core asks of its shell, in this order. A shell (fog_coordinator.app, the simulator) performs them one after another."""

from __future__ import annotations

from msgspec import Struct

from fog_common.wire.messages import Control, Reply


class Row(Struct, frozen=True):
    """One row of the journal. key: the table's key columns; body: msgpack, None deletes every row whose key begins like this."""

    table: str
    key: tuple[str | int, ...]
    body: bytes | None


class Record(Struct, frozen=True):
    """Make these rows durable, in one transaction, before the next effect is performed."""

    rows: tuple[Row, ...]


class Tell(Struct, frozen=True):
    """A control message to the agent of a node."""

    node: str
    site: str
    message: Control


class Answer(Struct, frozen=True):
    """The reply to a request of one session of a user."""

    user: str
    session: str
    reply: Reply


class SendResult(Struct, frozen=True):
    """Send the weights of a finished job to Address(user, 'cloud', 'cloud', f'bulk~{session}')."""

    job: str
    user: str
    session: str
    digest: str


Effect = Record | Tell | Answer | SendResult

Tables = dict[str, list[tuple[tuple[str | int, ...], bytes]]]
"""A loaded journal: table -> rows (key, body), sorted by key."""
