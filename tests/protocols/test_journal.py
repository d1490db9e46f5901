"""A chain of rows is the coordinator's, of this run, without a gap or a fork."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.world import World, number_of
from tests.runs import identity

from interlock.protocols.canonical import decode, encode
from interlock.protocols.journal import GENESIS, Row, Voided, make_row, verify_chain

COORDINATOR = identity("coordinator")
RUN = b"r" * 32
replace = msgspec.structs.replace


def chain(length: int, *, number: int = 0, previous: bytes = GENESIS) -> list[Row]:
    """Rows that follow one another."""
    rows: list[Row] = []
    for n in range(number, number + length):
        rows.append(make_row(COORDINATOR, RUN, n, previous, Voided(tick=n, number=402, reason="clamped")))
        previous = rows[-1].digest
    return rows


ROWS = chain(6)


def refusal(rows: list[Row], *, previous: bytes = GENESIS, number: int = 0) -> int:
    """By which number rows are refused."""
    return number_of(
        lambda: verify_chain(rows, run=RUN, coordinator=COORDINATOR.public, previous=previous, number=number)
    )


def test_a_chain_verifies_from_any_of_its_rows() -> None:
    for start in range(len(ROWS)):
        previous = ROWS[start - 1].digest if start else GENESIS
        head = verify_chain(ROWS[start:], run=RUN, coordinator=COORDINATOR.public, previous=previous, number=start)
        assert head == ROWS[-1].digest
    assert verify_chain([], run=RUN, coordinator=COORDINATOR.public, previous=b"p" * 32, number=9) == b"p" * 32


@given(st.lists(st.integers(0, 5), max_size=8))
def test_any_other_choice_of_rows_is_refused(chosen: list[int]) -> None:
    expected = 0 if chosen == list(range(len(chosen))) else 310
    assert refusal([ROWS[i] for i in chosen]) == expected


def test_a_fork_is_refused() -> None:
    fork = make_row(COORDINATOR, RUN, 3, ROWS[1].digest, Voided(tick=9, number=402, reason="other"))
    assert refusal([*ROWS[:3], fork]) == 310
    assert refusal([*ROWS[:2], fork]) == 310
    fork = make_row(COORDINATOR, RUN, 2, ROWS[1].digest, Voided(tick=9, number=402, reason="other"))
    assert refusal([*ROWS[:2], fork]) == 0
    assert refusal([*ROWS[:2], fork, *ROWS[3:]]) == 310


CHANGES: dict[str, tuple[Any, int]] = dict(
    run=(b"s" * 32, 204),
    number=(3, 310),
    previous=(b"p" * 32, 310),
    body=(Voided(tick=2, number=402, reason="changed"), 206),
    signature=(bytes(64), 206),
)


@pytest.mark.parametrize("field", CHANGES)
def test_a_row_changed_in_any_field_is_refused(field: str) -> None:
    assert set(CHANGES) == set(Row.__struct_fields__)
    value, number = CHANGES[field]
    assert refusal([*ROWS[:2], replace(ROWS[2], **{field: value}), *ROWS[3:]]) == number


def test_only_the_coordinator_writes_rows() -> None:
    rows = [*ROWS[:2], make_row(identity("eve"), RUN, 2, ROWS[1].digest, ROWS[2].body)]
    assert refusal(rows) == 206


def test_the_rows_of_a_run_read_back_from_their_bytes(world: World) -> None:
    rows = world.rows()
    stored = world.stores["coordinator"]
    assert [encode(row) for row in rows] == [stored[key] for key in sorted(stored)]
    assert all(decode(encode(row), Row) == row for row in rows)
    verify_chain(rows, run=world.manifest.run, coordinator=COORDINATOR.public, previous=GENESIS, number=0)
