"""The coordinator's tables, durable: SQLAlchemy Core, SQLite by default. Rows are keys and a msgpack body; the core knows what is in them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fog_common.errors import ConfigError, FogError
from fog_coordinator.state.effects import Row, Tables

FORMAT: Final = "1"
_metadata = sql.MetaData()


def _table(name: str, *keys: sql.Column[Any]) -> sql.Table:
    return sql.Table(name, _metadata, *keys, sql.Column("body", sql.LargeBinary, nullable=False))


def _text(name: str) -> sql.Column[Any]:
    return sql.Column(name, sql.String(128), primary_key=True)


def _integer(name: str) -> sql.Column[Any]:
    return sql.Column(name, sql.Integer, primary_key=True, autoincrement=False)


NODES = _table("nodes", _text("node"))
JOBS = _table("jobs", _text("job"))
ROUNDS = _table("rounds", _text("job"), _integer("round"))
LOG = _table("log", _text("job"), _integer("number"))
COUNTS = _table("counts", _text("job"))
TABLES: Final = {table.name: table for table in (NODES, JOBS, ROUNDS, LOG, COUNTS)}
_META = sql.Table("meta", _metadata, _text("name"), sql.Column("value", sql.String(128), nullable=False))


class JournalError(FogError):
    """The journal cannot be written now (a full disk); nothing of the transaction is in it. Try again."""


class Journal:
    """One writer. boots: how often a coordinator began with it. clock: the latest time that was ever recorded in it."""

    def __init__(self, url: str) -> None:
        """url: of SQLAlchemy; ConfigError if it cannot be opened, or is of a newer version of the program."""
        try:
            self._engine: Engine = sql.create_engine(url)
            if self._engine.dialect.name == "sqlite":
                sql.event.listen(self._engine, "connect", _durable)
            with self._engine.begin() as connection:
                _metadata.create_all(connection)
                meta = {row.name: row.value for row in connection.execute(sql.select(_META))}
                if meta.get("format", FORMAT) != FORMAT:
                    raise ConfigError(f"journal {url}: format {meta['format']}, this version knows {FORMAT}; run the version that wrote it")
                self.boots = int(meta.get("boots", "0")) + 1
                self.clock = float(meta.get("clock", "0"))
                _set(connection, "format", FORMAT)
                _set(connection, "boots", str(self.boots))
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise ConfigError(f"journal {url}: {_reason(error)}; check state_dir (or `journal`) of the coordinator's configuration") from None

    @classmethod
    def in_folder(cls, folder: Path) -> Journal:
        return cls(f"sqlite:///{folder / 'journal.sqlite'}")

    def load(self) -> Tables:
        with self._engine.connect() as connection:
            tables: Tables = {}
            for name, table in TABLES.items():
                rows = connection.execute(sql.select(table).order_by(*table.primary_key.columns))
                tables[name] = [(tuple(row[:-1]), bytes(row[-1])) for row in rows]
            return tables

    def write(self, rows: tuple[Row, ...], clock: float) -> None:
        """All of them or none; durable when it returns. JournalError if that is not possible now."""
        try:
            with self._engine.begin() as connection:
                for (name, length, removed), group in itertools.groupby(rows, key=lambda row: (row.table, len(row.key), row.body is None)):
                    table, alike = TABLES[name], list(group)
                    keys = list(table.primary_key.columns)[:length]
                    values = [{f"key_{key.name}": value for key, value in zip(keys, row.key, strict=True)} for row in alike]
                    connection.execute(sql.delete(table).where(*(key == sql.bindparam(f"key_{key.name}") for key in keys)), values)
                    if not removed:
                        bodies = [{key.name: value for key, value in zip(keys, row.key, strict=True)} | {"body": row.body} for row in alike]
                        connection.execute(sql.insert(table), bodies)
                _set(connection, "clock", repr(max(clock, self.clock)))
        except SQLAlchemyError as error:
            raise JournalError(f"the journal cannot be written: {_reason(error)}") from None
        self.clock = max(clock, self.clock)

    def close(self) -> None:
        self._engine.dispose()


def _set(connection: Connection, name: str, value: str) -> None:
    connection.execute(sql.delete(_META).where(_META.c.name == name))
    connection.execute(sql.insert(_META).values(name=name, value=value))


def _durable(connection: Any, _: Any) -> None:
    """A view that was told must be in the file after a power cut: write-ahead log, synced at every commit."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=2000")
    cursor.close()


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).split("\n", maxsplit=1)[0]
