"""Only exactly k_e gates open exactly one plan, and what is drawn from an opening nobody knew before."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.world import number_of
from tests.runs import identity, manifest

from interlock.protocols.release import (
    Base,
    Opening,
    Plan,
    Session,
    beacon,
    draw_members,
    lead,
    make_release,
    order_key,
    tick_key,
    verify_opening,
)

MADE = manifest()
NODES = tuple(sorted(identity(f"node{i}").public for i in range(6)))
replace = msgspec.structs.replace


def a_plan(**changes: Any) -> Plan:
    """A start."""
    fields: dict[str, Any] = dict(
        run=MADE.run,
        tick=1,
        head=bytes(32),
        base=None,
        kind="change",
        change="start",
        round=0,
        epoch=0,
        epoch_tick=0,
        attempt=0,
        relays=(identity("relay0").public,),
        candidates=NODES,
        members=(),
        exponents=(0, 0),
        lifts=(0, 0, 0),
        work=(),
    )
    return Plan(**(fields | changes))


def opened(plan: Plan, *gates: str, contributions: tuple[bytes, ...] = (b"a" * 32, b"b" * 32, b"c" * 32)) -> Opening:
    """Released by these gates."""
    releases = zip(gates or ("ada", "bela"), contributions, strict=False)
    return Opening(plan=plan, releases=tuple(make_release(identity(g), plan, c) for g, c in releases))


PLAN = a_plan()
OPENING = opened(PLAN)


def refusal(opening: Opening) -> int:
    """By which number an opening is refused."""
    return number_of(lambda: verify_opening(opening, MADE))


@pytest.mark.parametrize("gates", [("ada", "bela"), ("ada", "cleo"), ("bela", "cleo")])
def test_any_k_e_gates_in_roster_order_open(gates: tuple[str, ...]) -> None:
    verify_opening(opened(PLAN, *gates), MADE)


@pytest.mark.parametrize(
    "gates",
    [("ada",), ("ada", "bela", "cleo"), ("ada", "ada"), ("bela", "ada"), ("ada", "dora")],
    ids=["too-few", "too-many", "one-twice", "out-of-order", "foreign"],
)
def test_other_lists_of_gates_open_nothing(gates: tuple[str, ...]) -> None:
    assert refusal(opened(PLAN, *gates)) == 301


def test_no_release_opens_nothing() -> None:
    assert refusal(Opening(plan=PLAN, releases=())) == 301


def test_an_opening_of_another_run_is_refused() -> None:
    assert refusal(opened(a_plan(run=bytes(32)))) == 204


OTHERS: dict[str, Any] = dict(
    tick=2,
    head=b"h" * 32,
    base=Base(row=bytes(32), made=(1, 1, 1)),
    kind="train",
    change="turn",
    round=1,
    epoch=1,
    epoch_tick=1,
    attempt=1,
    relays=(),
    candidates=NODES[:5],
    members=(NODES[:2], NODES[2:4], NODES[4:]),
    exponents=(0, 1),
    lifts=(0, 0, 4),
    work=((0, 0, 0),),
    session=Session(asker=bytes(32), number=1, shapes=((1, 1),), length=1, seconds=1),
    bound=(1,),
    leaving=NODES[:1],
)


@pytest.mark.parametrize("field", OTHERS)
def test_releases_open_no_plan_that_differs_in_any_field(field: str) -> None:
    assert set(OTHERS) == set(Plan.__struct_fields__) - {"run"}
    assert refusal(replace(OPENING, plan=replace(PLAN, **{field: OTHERS[field]}))) == 302


def test_releases_of_two_plans_open_neither() -> None:
    other = opened(a_plan(attempt=1))
    mixed = (OPENING.releases[0], other.releases[1])
    assert refusal(Opening(plan=PLAN, releases=mixed)) == 302
    assert refusal(Opening(plan=other.plan, releases=mixed)) == 302


@pytest.mark.parametrize("field", ["contribution", "signature"])
@given(bit=st.integers(0, 255))
def test_a_changed_bit_of_a_release_is_refused(field: str, bit: int) -> None:
    first, second = OPENING.releases
    data = bytearray(getattr(second, field))
    data[bit // 8] ^= 1 << bit % 8
    assert refusal(replace(OPENING, releases=(first, replace(second, **{field: bytes(data)})))) == 206


def test_a_gate_cannot_sign_for_another() -> None:
    forged = replace(make_release(identity("cleo"), PLAN, b"b" * 32), gate=identity("bela").public)
    assert refusal(replace(OPENING, releases=(OPENING.releases[0], forged))) == 206


def test_a_release_of_another_tick_is_refused() -> None:
    first, second = OPENING.releases
    assert refusal(replace(OPENING, releases=(first, replace(second, tick=2)))) == 302


contributions = st.tuples(*2 * [st.binary(min_size=32, max_size=32)])


@given(contributions, contributions)
def test_another_contribution_gives_another_key(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> None:
    first, second = opened(PLAN, contributions=one), opened(PLAN, contributions=other)
    assert (tick_key(first) == tick_key(second)) == (one == other)
    assert (beacon(first) == beacon(second)) == (one == other)


def test_another_plan_gives_another_key() -> None:
    assert tick_key(OPENING) != tick_key(opened(a_plan(attempt=1)))


def test_keys_of_different_uses_differ() -> None:
    key = tick_key(OPENING)
    assert len({key, beacon(OPENING), order_key(key)}) == 3


def test_a_draw_that_does_not_bind_each_of_its_candidates_is_refused() -> None:
    plan = a_plan(change="members", candidates=NODES[:2], bound=(1,), members=((), (), ()))
    assert number_of(lambda: draw_members(opened(plan), MADE)) == 318


@given(contributions)
def test_the_draw_gives_everyone_one_place(drawn: tuple[bytes, ...]) -> None:
    members = draw_members(opened(PLAN, contributions=drawn), MADE)
    assert [len(stage) for stage in members] == [2, 2, 2]
    assert sorted(who for stage in members for who in stage) == sorted(NODES)
    assert all(list(stage) == sorted(stage) for stage in members)


def test_the_draw_depends_on_the_opening_and_not_on_the_order_of_candidates() -> None:
    draws = {draw_members(opened(PLAN, contributions=(bytes([i]) * 32, bytes(32))), MADE) for i in range(60)}
    assert len(draws) > 30  # of 90
    for who in NODES:
        stages = {next(i for i, stage in enumerate(members) if who in stage) for members in draws}
        assert stages == {0, 1, 2}


def test_later_plans_name_their_members() -> None:
    members = (NODES[:2], NODES[2:4], NODES[4:])
    plan = a_plan(change="turn", candidates=(), members=members)
    assert draw_members(opened(plan), MADE) == members


def test_the_lead_goes_round() -> None:
    group = NODES[:3]
    assert [lead(group, epoch, 0) for epoch in range(4)] == [*group, group[0]]
    assert [lead(group, 1, tries) for tries in range(3)] == [group[1], group[2], group[0]]
