"""The journal: a chain of signed rows, each naming its predecessor, each stored before it is sent.

    join, plan, opening, close, commit, change, measured, answered, void, order

A row's canonical bytes are what is hashed and signed, so that rows can become leaves of a log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from interlock.vault import Identity, VaultError, verify_signature

from .canonical import Count, Hash, Plain, PublicKey, Signature, digest, encode
from .change import Prepared
from .errors import Refused
from .members import Join
from .obeying import Text
from .release import Plan, Release
from .round import Answer, Bits, Commitment, Measurement, Place, Report

GENESIS = bytes(32)  # predecessor of the first row
DIED = 332  # number of a void for which only somebody's death is to blame
LOST = 333  # of one for which only a coordinator that lost rows is
ORDERED = 350  # of one for which an order is


class Entry(Plain, frozen=True, array_like=True, kw_only=True, tag=True):
    """What a row says; the class's name is its tag."""


class Joined(Entry, frozen=True, array_like=True, kw_only=True):
    """A process was admitted."""

    join: Join


class Planned(Entry, frozen=True, array_like=True, kw_only=True):
    """A plan that gates may be asked for."""

    plan: Plan


class Opened(Entry, frozen=True, array_like=True, kw_only=True):
    """The plan of the row before was opened by these releases."""

    tick: Count
    plan: Hash
    releases: Annotated[tuple[Release, ...], msgspec.Meta(max_length=64)]


class Closed(Entry, frozen=True, array_like=True, kw_only=True):
    """All commitments of a tick (`round.Close`)."""

    tick: Count
    opening: Hash
    commitments: Annotated[tuple[Commitment, ...], msgspec.Meta(max_length=1024)]


class Committed(Entry, frozen=True, array_like=True, kw_only=True):
    """All replicas reported, equal within each stage. round: optimizer steps taken after this row."""

    tick: Count
    round: Count
    reports: Annotated[tuple[Report, ...], msgspec.Meta(max_length=1024)]


class Changed(Entry, frozen=True, array_like=True, kw_only=True):
    """All members prepared the change. members: who holds each stage from now on."""

    tick: Count
    members: tuple[tuple[PublicKey, ...], ...]
    prepared: Annotated[tuple[Prepared, ...], msgspec.Meta(max_length=1024)]


class Measured(Entry, frozen=True, array_like=True, kw_only=True):
    """An evaluation's losses; the base stays what it was."""

    tick: Count
    measurements: Annotated[tuple[Measurement, ...], msgspec.Meta(max_length=64)]


class Answered(Entry, frozen=True, array_like=True, kw_only=True):
    """A session is over; the base stays what it was."""

    tick: Count
    answers: Annotated[tuple[Answer, ...], msgspec.Meta(max_length=64)]


class Voided(Entry, frozen=True, array_like=True, kw_only=True):
    """The open tick moved nothing, and why.

    where, bits: what did not fit and by how much (`round.Trouble`). members: of a change of members, whom it would have
    given each stage: shards may have moved.
    """

    tick: Count
    number: Count
    reason: Annotated[str, msgspec.Meta(max_length=300)]
    where: Place = 0
    bits: Bits = 0
    members: tuple[tuple[PublicKey, ...], ...] = ()


class Ordered(Entry, frozen=True, array_like=True, kw_only=True):
    """An order took effect (`orders`). It may stand between any two rows, and moves nothing by itself."""

    text: Text


Body = Joined | Planned | Opened | Closed | Committed | Changed | Measured | Answered | Voided | Ordered


class Row(Plain, frozen=True, array_like=True, kw_only=True):
    """One row of the chain, signed by the coordinator."""

    run: Hash
    number: Count
    previous: Hash
    body: Body
    signature: Signature

    def signed(self) -> bytes:
        """What the signature covers."""
        return digest("interlock/row", encode([self.run, self.number, self.previous, self.body]))

    @property
    def digest(self) -> bytes:
        """The row's hash, which the next row names."""
        return digest("interlock/row-hash", encode(self))


def make_row(coordinator: Identity, run: bytes, number: int, previous: bytes, body: Body) -> Row:
    """A signed row."""
    draft = Row(run=run, number=number, previous=previous, body=body, signature=bytes(64))
    return msgspec.structs.replace(draft, signature=coordinator.sign(draft.signed()))


def verify_row(row: Row, *, run: bytes, coordinator: bytes) -> None:
    """Check one row by itself.

    Raises:
        Refused: E204 another run, E206 bad signature.
    """
    if row.run != run:
        raise Refused(204, f"row {row.number} is of another run")
    try:
        verify_signature(coordinator, row.signed(), row.signature, whose=f"row {row.number}")
    except VaultError as error:
        raise Refused(206, error.what) from None


def verify_chain(rows: Iterable[Row], *, run: bytes, coordinator: bytes, previous: bytes, number: int) -> bytes:
    """Check that rows follow `previous` one by one, numbered from `number`; return the hash of the last.

    Raises:
        Refused: E204 another run, E310 a gap or fork, E206 bad signature.
    """
    for row in rows:
        if row.number != number or row.previous != previous:
            raise Refused(
                310,
                "the journal's rows do not follow one another",
                expected=f"row {number}",
                actual=f"row {row.number}",
            )
        verify_row(row, run=run, coordinator=coordinator)
        previous, number = row.digest, number + 1
    return previous
