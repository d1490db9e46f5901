"""Who is let in: once, in the invited role, by a keyholder of this run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.world import number_of
from tests.runs import identity

from interlock.protocols.canonical import decode, encode
from interlock.protocols.members import Invitation, Join, Record, Roster, make_invitation, make_record, verify_join

RUN = b"r" * 32
KEYHOLDERS = frozenset(identity(name).public for name in ("ada", "bela"))
replace = msgspec.structs.replace


def invitation(by: str = "ada", **changes: Any) -> Invitation:
    """An invitation of a node."""
    fields: dict[str, Any] = dict(run=RUN, role="node", label="nora", nonce=b"n" * 16)
    return make_invitation(identity(by), **(fields | changes))


def join(who: str = "nora", role: Any = "node", invited: Invitation | None = None) -> Join:
    """Asks to take part."""
    return Join(record=make_record(identity(who), role, who), invitation=invited)


def refusal(asked: Join, *, open_admission: bool = False, used: frozenset[bytes] = frozenset()) -> int:
    """By which number it is refused."""
    return number_of(
        lambda: verify_join(asked, run=RUN, keyholders=KEYHOLDERS, open_admission=open_admission, used=used)
    )


def test_who_is_invited_is_let_in() -> None:
    assert refusal(join(invited=invitation())) == 0
    assert refusal(join("rolf", "relay", invitation(role="relay"))) == 0


def test_an_invitation_lets_in_one_role_of_one_run_once() -> None:
    assert refusal(join(invited=None)) == 209
    assert refusal(join(invited=invitation(run=b"s" * 32))) == 204
    assert refusal(join("rolf", "relay", invitation())) == 209
    assert refusal(join(invited=invitation(role="relay"))) == 209
    assert refusal(join(invited=invitation()), used=frozenset({b"n" * 16})) == 209
    assert refusal(join(invited=invitation()), used=frozenset({b"m" * 16})) == 0


def test_only_a_keyholder_invites() -> None:
    assert refusal(join(invited=invitation("nora"))) == 209
    claimed = replace(invitation("nora"), keyholder=identity("ada").public)
    assert refusal(join(invited=claimed)) == 206


@pytest.mark.parametrize(("field", "value"), [("label", "eve"), ("nonce", b"m" * 16)])
def test_an_invitation_that_was_changed_is_refused(field: str, value: object) -> None:
    assert refusal(join(invited=replace(invitation(), **{field: value}))) == 206


def test_a_keyholder_may_hold_no_stage_and_carry_no_frames() -> None:
    assert refusal(join("bela", "node", invitation())) == 211
    assert refusal(join("bela", "relay", invitation(role="relay"))) == 211
    assert refusal(join("bela", "node"), open_admission=True) == 211


def test_gates_are_the_keyholders_and_nobody_else() -> None:
    assert refusal(join("ada", "gate")) == 0
    assert refusal(join("nora", "gate", invitation())) == 209
    assert refusal(join("nora", "gate"), open_admission=True) == 209


def test_open_admission_asks_for_no_invitation_but_for_a_signature() -> None:
    assert refusal(join(), open_admission=True) == 0
    forged = replace(join(), record=replace(join().record, operator="eve"))
    assert refusal(forged, open_admission=True) == 206


CHANGES: dict[str, Any] = dict(
    role="relay",
    operator="eve",
    identity=identity("eve").public,
    curve=identity("eve").curve_public,
    address="tcp://127.0.0.1:1",
    signature=bytes(64),
)


@pytest.mark.parametrize("field", CHANGES)
def test_a_record_speaks_for_its_own_key_only(field: str) -> None:
    assert set(CHANGES) == set(Record.__struct_fields__)
    record = replace(make_record(identity("nora"), "node", "nora"), **{field: CHANGES[field]})
    assert number_of(record.verify) == 206


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"\xff" * 32], ids=["order-4", "neutral", "no-point"])
def test_a_weak_key_is_refused(key: bytes) -> None:
    assert number_of(replace(make_record(identity("nora"), "node", "nora"), identity=key).verify) == 206


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_moving_bytes_between_operator_and_address_does_not_verify(operator: str, address: str) -> None:
    record = make_record(identity("nora"), "node", operator, address)
    record.verify()
    moved = replace(record, operator=operator + address[:1], address=address[1:])
    assert number_of(moved.verify) == 206


def test_a_join_reads_back_from_its_bytes() -> None:
    asked = join(invited=invitation())
    assert decode(encode(asked), Join) == asked


def test_the_whole_roster_takes_the_place_of_what_was_known_and_a_part_is_added() -> None:
    first, second = (
        Join(record=make_record(identity(name), "node", name), invitation=None) for name in ("node0", "node1")
    )
    one, two = first.record.identity, second.record.identity
    assert Roster(joins=(first,)).known({two}) == {one}
    assert Roster(joins=(first,), whole=False).known({two}) == {one, two}
