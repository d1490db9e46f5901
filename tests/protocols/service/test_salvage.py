"""A journal cut or changed anywhere: what is whole is kept, the rest stays beside it, and nothing stands twice."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.runs import identity, manifest

from interlock.protocols.canonical import encode
from interlock.protocols.errors import Failed, Misused
from interlock.protocols.journal import GENESIS, Row, Voided, make_row
from interlock.protocols.kept import key_of
from interlock.protocols.service import salvage as module
from interlock.protocols.service.coordinator import left_out
from interlock.protocols.service.salvage import salvage
from interlock.protocols.service.store import SQLiteStore, read_rows

MADE = manifest()
ROWS = 60


def chain(count: int) -> list[Row]:
    rows: list[Row] = []
    for number in range(count):
        previous = rows[-1].digest if rows else GENESIS
        body = Voided(tick=number, number=401, reason="a value is not finite" * 8)
        rows.append(make_row(identity("coordinator"), MADE.run, number, previous, body))
    return rows


FORGED = encode(chain(21)[20])[:-64] + bytes(64)  # nobody's signature


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal that its coordinator closed."""
    file = tmp_path / "store.sqlite"
    store = SQLiteStore(file)
    store.put({key_of(row.number): encode(row) for row in chain(ROWS)})
    store.close()
    return file


def test_a_whole_journal_is_left_alone(path: Path) -> None:
    before = path.read_bytes()
    assert salvage(path, MADE) is None
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*damaged*"))


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert salvage(tmp_path / "store.sqlite", MADE) is None


def test_a_file_cut_at_any_byte_gives_whole_rows_or_none_and_is_kept(path: Path, tmp_path: Path) -> None:
    whole, wanted = path.read_bytes(), chain(ROWS)
    found = set()
    for size in [*range(0, len(whole), 997), 1, 100, len(whole) - 1]:
        folder = tmp_path / f"cut {size}"
        folder.mkdir()
        cut = folder / "store.sqlite"
        cut.write_bytes(whole[:size])
        with_damage = salvage(cut, MADE)
        assert with_damage is not None
        assert with_damage.number == 732
        rows = read_rows(cut) if cut.stat().st_size else []
        assert rows == wanted[: len(rows)]
        assert (folder / "store-damaged-1.sqlite").read_bytes() == whole[:size]
        found.add(len(rows))
        store = SQLiteStore(cut)  # it can be gone on from
        store.put({key_of(len(rows)): encode(wanted[min(len(rows), ROWS - 1)])})
        store.close()
    assert len(found) > 1


def statement(text: str, *values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as database:
            assert database.execute(text, values).rowcount == 1
        database.close()

    return change


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (statement("DELETE FROM stored WHERE key = ?", key_of(17)), 17),
        (statement("DELETE FROM stored WHERE key = ?", key_of(0)), 0),
        (statement("UPDATE stored SET value = ? WHERE key = ?", b"\x90", key_of(20)), 20),
        (
            statement("UPDATE stored SET value = ? WHERE key = ?", encode(chain(21)[20])[:-64] + bytes(64), key_of(20)),
            20,
        ),
        (statement("UPDATE stored SET key = 'row 00000099' WHERE key = ?", key_of(59)), 59),
    ],
    ids=["missing", "first missing", "malformed", "signature", "renumbered"],
)
def test_rows_before_the_first_damage_are_kept(path: Path, change: Callable[[Path], None], left: int) -> None:
    change(path)
    damage = salvage(path, MADE)
    assert damage is not None
    assert f"after {left} rows" in damage.what
    assert read_rows(path) == chain(ROWS)[:left]
    assert salvage(path, MADE) is None


def test_rows_missing_at_the_end_are_no_damage_that_a_file_shows(path: Path) -> None:
    statement("DELETE FROM stored WHERE key = ?", key_of(ROWS - 1))(path)
    assert salvage(path, MADE) is None


def test_it_may_end_between_any_two_files_and_begin_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement("DELETE FROM stored WHERE key = ?", key_of(17))(path)
    rename = Path.rename
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        damaged = folder / "store.sqlite"
        shutil.copy(path, damaged)
        left = [number]

        def interrupted(self: Path, target: Path, left: list[int] = left) -> Path:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            salvage(damaged, MADE)
        monkeypatch.setattr(Path, "rename", rename)
        salvage(damaged, MADE)
        assert read_rows(damaged) == chain(17)


def test_a_full_disk_leaves_the_damaged_file_where_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statement("DELETE FROM stored WHERE key = ?", key_of(17))(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.SQLiteStore, "put", full)
    with pytest.raises(Failed, match="E731"):
        salvage(path, MADE)
    assert path.read_bytes() == before


def test_only_keyholders_can_be_left_out_and_not_so_many_that_nothing_opens() -> None:
    assert left_out(MADE, ["cleo"]) == left_out(MADE, ["cleo", "cleo"]) == {"cleo": identity("cleo").public}
    for names in (["dora"], ["cleo", "bela"]):
        with pytest.raises(Misused, match="E733"):
            left_out(MADE, names)
