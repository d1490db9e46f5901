"""Durable values of one process in one SQLite file, and the journal's rows read from it while its owner writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Column, LargeBinary, MetaData, String, Table, create_engine, delete, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from ..canonical import decode
from ..errors import Failed, Misused
from ..journal import Row
from ..kept import ROW

_VALUES = Table(
    "stored",
    MetaData(),
    Column("key", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
_DAMAGED = "Is the disk full, or the file damaged? A coordinator's journal comes back with: --recover"


class SQLiteStore:
    """A runner's `Store`. With a write-ahead log and full synchronisation, `put` returns when the disk has it.

    Raises:
        Failed: E722, the file is no store or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)

        @event.listens_for(self._engine, "connect")
        def durable(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.close()

        try:
            self._connection: Connection = self._engine.connect()
            _VALUES.metadata.create_all(self._connection)
            self._connection.commit()
        except DatabaseError as error:
            raise _broken(path, error) from None

    def load(self) -> dict[str, bytes]:
        """All values, by key.

        Raises:
            Failed: E722.
        """
        try:
            with self._connection.begin():
                return {row.key: row.value for row in self._connection.execute(select(_VALUES))}
        except DatabaseError as error:
            raise _broken(self._path, error) from None

    def put(self, values: Mapping[str, bytes]) -> None:
        """Replace these values, all or none; an empty one is dropped. They are durable when this returns.

        Raises:
            Failed: E722; nothing was changed.
        """
        kept = [{"key": key, "value": value} for key, value in values.items() if value]
        gone = [key for key, value in values.items() if not value]
        statement = insert(_VALUES)
        replace = statement.on_conflict_do_update(index_elements=["key"], set_={"value": statement.excluded.value})
        try:
            with self._connection.begin():
                if kept:
                    self._connection.execute(replace, kept)
                for key in gone:
                    self._connection.execute(delete(_VALUES).where(_VALUES.c.key == key))
        except DatabaseError as error:
            raise _broken(self._path, error) from None

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        self._engine.dispose()


def read_value(path: Path, key: str) -> bytes | None:
    """One value of a process's store, also while its owner writes; None if there is none.

    Raises:
        Failed: E722.
    """
    engine = create_engine(_read_only(path), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            found = connection.execute(select(_VALUES.c.value).where(_VALUES.c.key == key)).scalar()
    except DatabaseError as error:
        if "no such table" in str(error):
            return None  # its owner has just begun
        raise _broken(path, error) from None
    return None if found is None else bytes(found)


def _read_only(path: Path) -> URL:
    return URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})


class JournalFile:
    """Reads the rows that a coordinator has stored, also while it runs; never writes.

    Args:
        first: number of the first row to read.

    Raises:
        Misused: E705, there is no such file.
    """

    def __init__(self, path: Path, *, first: int = 0) -> None:
        if not path.is_file():
            raise Misused(705, f"there is no journal at {path}", todo="Start the run first: interlock up DIR")
        self._path = path
        self._engine: Engine = create_engine(_read_only(path), poolclass=NullPool)
        self._last = f"{ROW}{first - 1:08d}" if first else ROW

    def news(self) -> list[Row]:
        """The rows since the last call, in order.

        Raises:
            Failed: E722. Refused: E201, a row's bytes are not canonical.
        """
        statement = select(_VALUES).where(_VALUES.c.key.startswith(ROW), _VALUES.c.key > self._last)
        try:
            with self._engine.connect() as connection:
                found = list(connection.execute(statement.order_by(_VALUES.c.key)))
        except DatabaseError as error:
            if "no such table" in str(error):
                return []  # its owner has just begun
            raise _broken(self._path, error) from None
        if found:
            self._last = found[-1].key
        return [decode(value, Row, whose=key) for key, value in found]

    def each(self) -> Iterator[tuple[str, Row]]:
        """One key and row after the other, as far as the file can be read.

        Raises:
            Failed: E722. Refused: E201, a row's bytes are not canonical.
        """
        statement = select(_VALUES).where(_VALUES.c.key.startswith(ROW)).order_by(_VALUES.c.key)
        try:
            with self._engine.connect() as connection:
                for key, value in connection.execution_options(yield_per=100).execute(statement):
                    yield key, decode(value, Row, whose=key)
        except DatabaseError as error:
            raise _broken(self._path, error) from None

    def check(self) -> None:
        """Have SQLite look at every page of the file.

        Raises:
            Failed: E722, with what it finds first.
        """
        try:
            with self._engine.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
        except DatabaseError as error:
            raise _broken(self._path, error) from None
        if found != "ok":
            raise Failed(722, f"the store {self._path} is damaged: {found}", todo=_DAMAGED)


def read_rows(path: Path) -> list[Row]:
    """All rows of a journal.

    Raises:
        Misused: E705. Failed: E722. Refused: E201.
    """
    return JournalFile(path).news()


def _broken(path: Path, error: DatabaseError) -> Failed:
    return Failed(722, f"the store {path} cannot be used: {error.orig}", todo=_DAMAGED)
