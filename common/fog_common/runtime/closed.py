"""Closed rounds that the coordinator has not acknowledged, the part of a job's history that its root's node keeps. Pure.

Guarantees:

- rounds are reported in order, oldest first, until the coordinator acknowledges them; then they are forgotten;
- a Save of the root carries all rounds that were closed by then and are not acknowledged, so a root that is restarted, or moved to the
  node with the copy, reports them too;
- a Save stays small: of the rounds only the newest (fewer than `PAGE`) lie in the record. Every `PAGE` older ones are a page: an
  immutable blob beside the Saves, which becomes durable with the first Save that names it, travels with copies as any other
  blob, and is removed from the disk once no Save names it. Every `FAN` pages of one size become one larger page, so that a
  record names few: fewer than `FAN` of each size, with about 75 bytes each.
"""

from __future__ import annotations

from typing import Final

import msgspec
from blake3 import blake3
from msgspec import Struct

from fog_common.errors import WireError
from fog_common.runtime.machine import Blob, RoundRecord
from fog_common.transfer.blobs import Blobs

PAGE: Final = 64
"""Rounds of the smallest page."""
FAN: Final = 16
"""Pages of one size that become one."""
REPORT_ROUNDS: Final = 100
REPORT_BYTES: Final = 16 * 1024
"""Limits of one report, which always holds at least one round; a round has the size as in a page."""


class _Row(Struct, frozen=True, array_like=True):
    """A RoundRecord without the names of its numbers."""

    round: int
    closed_at: float
    updates: int
    examples: int
    names: int
    """Index into _Rows.names."""
    values: tuple[float, ...]


class _Rows(Struct, frozen=True, array_like=True):
    names: tuple[tuple[str, ...], ...]
    rows: tuple[_Row, ...]


class _Page(Struct, frozen=True, array_like=True):
    last: int
    """The newest round of the page."""
    blob: Blob
    size: int = 0
    """The page holds PAGE x FAN^size rounds."""


class _Kept(Struct, frozen=True, array_like=True):
    """The rounds of a Save's record."""

    pages: tuple[_Page, ...]
    recent: bytes


_encoder = msgspec.msgpack.Encoder()
_rows_decoder = msgspec.msgpack.Decoder(_Rows)
_kept_decoder = msgspec.msgpack.Decoder(_Kept)


class ClosedRounds:
    """Closed rounds of one root. blobs: table of the pages."""

    def __init__(self, blobs: Blobs, saved: bytes = b"") -> None:
        """saved: bytes from `save`, of the Save with which the root begins. WireError if they cannot be read."""
        self._blobs = blobs
        self._pages: tuple[_Page, ...] = ()
        self._recent: list[RoundRecord] = []
        self._seen = 0
        if saved:
            try:
                kept = _kept_decoder.decode(saved)
            except (msgspec.MsgspecError, ValueError) as error:
                raise WireError(f"rounds of a save: {error}") from None
            self._pages, self._recent = kept.pages, _unpacked(kept.recent)

    def close(self, record: RoundRecord) -> None:
        """Add a closed round; a round that is closed again replaces the older record."""
        while self._recent and self._recent[-1].round >= record.round:
            self._recent.pop()
        self._recent.append(record)

    def acknowledge(self, seen: int) -> None:
        """The coordinator has all rounds up to `seen` durably."""
        self._seen = max(self._seen, seen)
        self._pages = tuple(page for page in self._pages if page.last > self._seen)
        self._recent = [record for record in self._recent if record.round > self._seen]

    def save(self) -> tuple[bytes, tuple[Blob, ...]]:
        """(bytes for the Save's record, the pages that they name); the pages' bytes are in `blobs`."""
        while len(self._recent) >= PAGE:
            records, self._recent = self._recent[:PAGE], self._recent[PAGE:]
            self._pages = (*self._pages, self._page(records, 0))
            self._merge()
        if not self._pages and not self._recent:
            return b"", ()
        return _encoder.encode(_Kept(self._pages, _packed(self._recent))), self.pages

    def _page(self, records: list[RoundRecord], size: int) -> _Page:
        content = _packed(records)
        blob = Blob(str(blake3(content).hexdigest()), len(content))
        self._blobs.put(blob.digest, content)
        return _Page(records[-1].round, blob, size)

    def _merge(self) -> None:
        """Merge the newest FAN pages into one while they have the same size."""
        while len(newest := self._pages[-FAN:]) == FAN and newest[0].size == newest[-1].size:
            parts = [self._read(page) for page in newest]
            records = [record for part in parts for record in part or ()]
            if None in parts:
                return  # a page cannot be read now: all stay unmerged
            self._pages = (*self._pages[:-FAN], self._page(records, newest[0].size + 1))

    @property
    def pages(self) -> tuple[Blob, ...]:
        return tuple(page.blob for page in self._pages)

    def report(self, safe: int) -> tuple[tuple[RoundRecord, ...], bool]:
        """(the oldest unacknowledged rounds up to `safe`, whether there are more than one report holds)."""
        records: list[RoundRecord] = []
        size = 0
        parts: list[_Page | list[RoundRecord]] = [*self._pages, self._recent]
        for part in parts:
            rows = self._read(part) if isinstance(part, _Page) else part
            if rows is None:
                return tuple(records), True
            for record in rows:
                if record.round <= self._seen:
                    continue
                if record.round > safe:
                    return tuple(records), False
                size += _size(record)
                if records and (len(records) >= REPORT_ROUNDS or size > REPORT_BYTES):
                    return tuple(records), True
                records.append(record)
        return tuple(records), False

    def whole(self) -> tuple[RoundRecord, ...]:
        """All unacknowledged rounds."""
        pages = [record for page in self._pages for record in self._read(page) or ()]
        return tuple(record for record in (*pages, *self._recent) if record.round > self._seen)

    def _read(self, page: _Page) -> list[RoundRecord] | None:
        """Rounds of a page; None if its bytes cannot be read now, so that later rounds wait."""
        content = self._blobs.get(page.blob.digest)
        return None if content is None else _unpacked(bytes(content))


def _size(record: RoundRecord) -> int:
    return 24 + sum(9 + len(name) for name in record.numbers)


def _packed(records: list[RoundRecord]) -> bytes:
    names = sorted({tuple(record.numbers) for record in records})
    index = {each: number for number, each in enumerate(names)}
    rows = tuple(
        _Row(record.round, record.closed_at, record.updates, record.examples, index[tuple(record.numbers)], tuple(record.numbers.values()))
        for record in records
    )
    return _encoder.encode(_Rows(tuple(names), rows))


def _unpacked(content: bytes) -> list[RoundRecord]:
    """WireError if it cannot be read."""
    try:
        table = _rows_decoder.decode(content)
        return [
            RoundRecord(row.round, row.closed_at, row.updates, row.examples, dict(zip(table.names[row.names], row.values, strict=True)))
            for row in table.rows
        ]
    except (msgspec.MsgspecError, ValueError, IndexError) as error:
        raise WireError(f"closed rounds: {error}") from None
