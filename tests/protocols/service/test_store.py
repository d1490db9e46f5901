"""A store keeps the last value of each key; a journal can be read while its owner writes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.protocols.canonical import encode
from interlock.protocols.errors import Failed, Misused, Refused
from interlock.protocols.journal import GENESIS, Row, Voided, make_row
from interlock.protocols.service.store import JournalFile, SQLiteStore, read_rows
from interlock.vault import Identity, Secret

COORDINATOR = Identity(Secret(bytes(range(32))))
RUN = bytes(32)


def row(number: int) -> Row:
    return make_row(COORDINATOR, RUN, number, GENESIS, Voided(tick=1, number=320, reason="a test"))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=20)), max_size=6))
def test_the_last_value_of_each_key_outlives_the_process(puts: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.sqlite")
        store = SQLiteStore(path)
        for key, value in puts:
            store.put({key: value})
            assert store.load().get(key, b"") == value  # an empty value is none
        store.close()
        again = SQLiteStore(path)
        assert again.load() == {key: value for key, value in dict(puts).items() if value}
        again.close()


def test_rows_are_read_in_order_while_their_owner_writes_and_each_once(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.sqlite")
    journal = JournalFile(tmp_path / "store.sqlite")
    assert journal.news() == []
    store.put({"known": b"not a row"})
    for number in (0, 1):
        store.put({f"row {number:08d}": encode(row(number))})
    assert [r.number for r in journal.news()] == [0, 1]
    store.put({"row 00000010": encode(row(10))})
    store.put({"row 00000009": encode(row(9))})
    assert [r.number for r in journal.news()] == [9, 10]
    assert journal.news() == []
    store.close()
    assert [r.number for r in read_rows(tmp_path / "store.sqlite")] == [0, 1, 9, 10]


def test_changed_bytes_of_a_row_are_refused(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.sqlite")
    store.put({"row 00000000": encode(row(0)) + b"\0"})
    store.close()
    with pytest.raises(Refused, match="E201"):
        read_rows(tmp_path / "store.sqlite")


def test_a_missing_journal_and_a_file_that_is_no_store_are_numbered_errors(tmp_path: Path) -> None:
    with pytest.raises(Misused, match="E705"):
        read_rows(tmp_path / "store.sqlite")
    (tmp_path / "store.sqlite").write_bytes(b"no database, but long enough to look like one" * 100)
    with pytest.raises(Failed, match="E722"):
        read_rows(tmp_path / "store.sqlite")
    with pytest.raises(Failed, match="E722"):
        SQLiteStore(tmp_path / "store.sqlite")


def test_every_put_is_synchronised_with_the_disk(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.sqlite")
    connection = store._connection
    assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    store.close()


def test_a_path_may_hold_what_a_url_may_not(tmp_path: Path) -> None:
    folder = tmp_path / "a b#c?d%20e&f"
    folder.mkdir()
    store = SQLiteStore(folder / "store.sqlite")
    store.put({"row 00000000": encode(row(0))})
    assert [r.number for r in JournalFile(folder / "store.sqlite").news()] == [0]
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_full_disk_is_a_numbered_error_and_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.sqlite")
    store.put({"known": b"first"})
    pages = store._connection.exec_driver_sql("PRAGMA page_count").scalar()
    store._connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # SQLite's own "disk is full"
    store._connection.commit()
    with pytest.raises(Failed, match=r"E722 the store .* cannot be used: database or disk is full") as caught:
        store.put({"known": bytes(1 << 20)})
    assert "full" in caught.value.todo
    assert store.load() == {"known": b"first"}
    store.close()
