"""A damaged journal: the rows that are whole are kept, the damaged file stays beside the new one.

A SQLite file may be cut at any byte, and rows may be missing or changed in it. What can be read in order, follows one
another and is signed goes into a new file; the rest comes from the gates (`protocols.recovery`).
"""

from __future__ import annotations

from pathlib import Path

from ..canonical import encode
from ..errors import Failed, InterlockError, Refused, Warned
from ..journal import GENESIS, Row, verify_row
from ..kept import key_of
from ..manifest import Manifest
from .rundir import DISK
from .store import JournalFile, SQLiteStore

BATCH = 1000  # rows of one transaction
SIDES = ("", "-wal", "-shm")  # SQLite's files of one database


def salvage(path: Path, manifest: Manifest) -> Warned | None:
    """Make a journal that can be gone on from of whatever lies at `path`; nothing at all is an empty one.

    Returns:
        What to tell the operator if the file was damaged.

    Raises:
        Failed: E731, the new file cannot be written; the damaged one is where it was.
    """
    draft = path.with_name(path.name + ".salvaged")
    try:
        if not path.exists():
            if draft.exists():  # the damaged file was moved aside, and then this ended
                draft.rename(path)
            return None
        rows, damage = _whole_rows(path, manifest)
        if damage is None:
            return None
        for side in SIDES:
            draft.with_name(draft.name + side).unlink(missing_ok=True)
        store = SQLiteStore(draft)
        for first in range(0, len(rows), BATCH):
            store.put({key_of(row.number): encode(row) for row in rows[first : first + BATCH]})
        store.close()
        aside = _free(path)
        for side in ("-wal", "-shm", ""):  # the database last: until then this can begin again
            part = path.with_name(path.name + side)
            if part.exists():
                part.rename(aside.with_name(aside.name + side))
        draft.rename(path)
    except (OSError, Failed) as error:
        what = error.what if isinstance(error, Failed) else f"{path} cannot be replaced: {error.strerror}"
        raise Failed(731, what, todo=DISK) from None
    return Warned(
        732,
        f"the journal was damaged after {len(rows)} rows: {damage}",
        todo=f"The damaged file is {aside}. Rows that were in it alone are lost; all others come from the gates.",
    )


def _whole_rows(path: Path, manifest: Manifest) -> tuple[list[Row], str | None]:
    """The rows before the first damage, and what it is; None if there is none."""
    rows: list[Row] = []
    previous = GENESIS
    try:
        for key, row in JournalFile(path).each():
            if key != key_of(len(rows)) or row.number != len(rows) or row.previous != previous:
                raise Refused(310, "the journal's rows do not follow one another", expected=f"row {len(rows)}")
            verify_row(row, run=manifest.run, coordinator=manifest.coordinator)
            rows.append(row)
            previous = row.digest
        JournalFile(path).check()
    except InterlockError as error:
        return rows, error.text
    return rows, None


def _free(path: Path) -> Path:
    """A name beside `path` that nobody uses."""
    number = 1
    while (aside := path.with_name(f"{path.stem}-damaged-{number}{path.suffix}")).exists():
        number += 1
    return aside
