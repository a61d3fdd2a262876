"""Effects of the core. Its shell (fog_coordinator.shell, the simulator) performs them one after another, in order."""

from __future__ import annotations

from msgspec import Struct

from fog_common.wire.messages import Control, Reply


class Row(Struct, frozen=True):
    """One row of the journal. key: the table's key columns; body: msgpack; None deletes every row whose key begins with `key`."""

    table: str
    key: tuple[str | int, ...]
    body: bytes | None


class JournalRecord(Struct, frozen=True):
    """Rows to make durable in one transaction before the next effect."""

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
    """Weights of a finished job for Address(user, 'cloud', 'cloud', f'bulk~{session}')."""

    job: str
    user: str
    session: str
    digest: str


Effect = JournalRecord | Tell | Answer | SendResult

Tables = dict[str, list[tuple[tuple[str | int, ...], bytes]]]
"""A loaded journal: table -> rows (key, body), sorted by key."""


class EffectQueue:
    """Collects effects. Written rows are recorded before the next emitted effect."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []
        self._rows: dict[tuple[str, tuple[str | int, ...]], Row] = {}

    def write(self, row: Row) -> None:
        self._rows[row.table, row.key] = row

    def emit(self, effect: Effect) -> None:
        self._flush()
        self._effects.append(effect)

    def take(self) -> list[Effect]:
        self._flush()
        effects, self._effects = self._effects, []
        return effects

    def _flush(self) -> None:
        if self._rows:
            self._effects.append(JournalRecord(tuple(self._rows.values())))
            self._rows = {}
