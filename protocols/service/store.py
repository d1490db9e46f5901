"""Durable values of one process in one SQLite file, and the journal's rows read from it while its owner writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Column, LargeBinary, MetaData, String, Table, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from ..canonical import decode
from ..errors import Failed, Misused
from ..journal import Row

_VALUES = Table(
    "stored",
    MetaData(),
    Column("key", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
ROW = "row "  # keys of journal rows: "row 00000012"


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
        """All values, by key."""
        with self._connection.begin():
            return {row.key: row.value for row in self._connection.execute(select(_VALUES))}

    def put(self, key: str, value: bytes) -> None:
        """Replace one value. It is durable when this returns."""
        statement = insert(_VALUES).values(key=key, value=value)
        try:
            with self._connection.begin():
                self._connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
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


def read_rows(path: Path) -> list[Row]:
    """All rows of a journal.

    Raises:
        Misused: E705. Failed: E722. Refused: E201.
    """
    return JournalFile(path).news()


def _broken(path: Path, error: DatabaseError) -> Failed:
    return Failed(722, f"the store {path} cannot be used: {error.orig}", todo="Is the disk full, or the file damaged?")
