"""Rows that a process keeps: the coordinator all of them, a gate those that it followed and those it was sent since.

A journal can be rebuilt from them (`recovery`). They lie in the store under `row 00000012`, the rows' canonical bytes.
A row that is taken back leaves an empty value, which a store drops; it is done from the end backwards, so that whatever
is left of it at any moment is a chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .canonical import decode, digest, encode
from .effects import Effects, Store
from .errors import Refused
from .journal import GENESIS, Planned, Row

ROW = "row "  # how the keys of rows begin
PAGE_ROWS, PAGE_BYTES = 256, 4 << 20  # of one message


def key_of(number: int) -> str:
    """Where a row lies in a store."""
    return f"{ROW}{number:08d}"


class Kept:
    """Rows by number, as bytes.

    Attributes:
        whole: how many there are from the first one on without a gap. end: the number after the last one.
    """

    def __init__(self) -> None:
        self._rows: dict[int, bytes] = {}
        self.whole = self.end = 0

    @classmethod
    def stored(cls, stored: Mapping[str, bytes]) -> Kept:
        """Those in a store."""
        kept = cls()
        for key, value in stored.items():
            if key.startswith(ROW) and value:
                kept._put(int(key.removeprefix(ROW)), value)
        return kept

    def digest_before(self, number: int) -> bytes | None:
        """What the row of this number must name as its predecessor; None if that is not here."""
        if number == 0:
            return GENESIS
        before = self._rows.get(number - 1)
        return None if before is None else digest("interlock/row-hash", before)

    def page(self, first: int, *, before: int | None = None) -> tuple[Row, ...]:
        """The rows from `first` on, as many as one message may carry; none if that one is not here."""
        rows: list[Row] = []
        size_bytes, number = 0, first
        while number in self._rows and number != before and len(rows) < PAGE_ROWS:
            size_bytes += len(self._rows[number])
            if rows and size_bytes > PAGE_BYTES:
                break
            rows.append(decode(self._rows[number], Row, whose=key_of(number)))
            number += 1
        return tuple(rows)

    def verify_fits(self, rows: tuple[Row, ...]) -> None:
        """Check that rows, which follow one another, follow from what opened plans made final here.

        Raises:
            Refused: E337, the coordinator signed two rows of one number, and the earlier was final.
        """
        before = self.digest_before(rows[0].number) if rows else None
        if before is not None and before != rows[0].previous and rows[0].number <= self._final():
            raise Refused(
                337,
                f"the coordinator signed another row {rows[0].number - 1} than the one kept here",
                expected=before.hex()[:16],
                actual=rows[0].previous.hex()[:16],
            )

    def follow(self, rows: tuple[Row, ...]) -> Effects:
        """Keep rows that follow one another, and nothing that does not lead to them or comes from elsewhere.

        Raises:
            Refused: E337.
        """
        self.verify_fits(rows)
        if not rows:
            return []
        first = rows[0].number
        effects: Effects = []
        if self.digest_before(first) not in (None, rows[0].previous):
            effects += self.cut(self._final())
        kept = next((row.number for row in rows if self._rows.get(row.number) != encode(row)), rows[-1].number + 1)
        effects += self.cut(max(kept, first))
        return effects + self.add(rows)

    def fill(self, rows: tuple[Row, ...]) -> Effects:
        """Keep rows of the past that follow the last one before the gap.

        Raises:
            Refused: E337, they contradict what is kept. What is not final here is taken back instead.
        """
        if not rows or rows[0].number != self.whole:
            return []
        if self.digest_before(self.whole) != rows[0].previous:
            self.verify_fits(rows)
            return self.cut(self._final(), until=self.whole)
        for row in rows:
            known = self._rows.get(row.number)
            after = self._rows.get(row.number + 1)
            link = row.digest
            if known is not None and known != encode(row):
                raise Refused(337, f"the coordinator signed another row {row.number} than the one kept here")
            if after is not None and decode(after, Row, whose=key_of(row.number + 1)).previous != link:
                raise Refused(337, f"row {row.number} does not lead to the one that this gate followed")
        return self.add(rows)

    def become(self, rows: tuple[Row, ...]) -> Effects:
        """Keep exactly these rows, which begin with the first one."""
        same = next((row.number for row in rows if self._rows.get(row.number) != encode(row)), len(rows))
        return [*self.cut(same), *self.add(rows[same:])]

    def rows(self) -> tuple[Row, ...]:
        """All rows without a gap."""
        return tuple(decode(self._rows[number], Row, whose=key_of(number)) for number in range(self.whole))

    def add(self, rows: Iterable[Row]) -> Effects:
        """Keep rows under their numbers."""
        effects: Effects = []
        for row in rows:
            value = encode(row)
            if self._rows.get(row.number) != value:
                self._put(row.number, value)
                effects.append(Store(key_of(row.number), value))
        return effects

    def cut(self, number: int, *, until: int | None = None) -> Effects:
        """Take back the rows from this number on (those before `until`), the last one first."""
        gone = sorted((n for n in self._rows if n >= number and (until is None or n < until)), reverse=True)
        for each in gone:
            del self._rows[each]
        self.whole = min(self.whole, number)
        self.end = max(self._rows, default=-1) + 1
        return [Store(key_of(each), b"") for each in gone]

    def _final(self) -> int:
        """How many of the rows without a gap no recovery can change: those up to the last plan among them."""
        number = self.whole
        while number and not isinstance(decode(self._rows[number - 1], Row, whose="kept row").body, Planned):
            number -= 1
        return number

    def _put(self, number: int, value: bytes) -> None:
        self._rows[number] = value
        self.end = max(self.end, number + 1)
        while self.whole in self._rows:
            self.whole += 1
