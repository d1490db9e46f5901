"""What a node itself checks before it hands its stage's state over."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runs import identity, manifest

from interlock.protocols.errors import Refused
from interlock.protocols.granting import Granted
from interlock.protocols.members import Join, Roster, make_invitation, make_record
from interlock.protocols.release import Plan

MADE = manifest()
KEYS = [identity(f"node{i}").public for i in range(7)]


def a_join(name: str, label: str = "") -> Join:
    """A node's join with an invitation."""
    invitation = make_invitation(
        identity("ada"), run=MADE.run, role="node", label=label or name, nonce=name.encode().rjust(16, b"-")
    )
    return Join(record=make_record(identity(name), "node", name), invitation=invitation)


def a_plan(change: Any) -> Plan:
    """A plan of which only the change counts here."""
    return Plan(
        run=MADE.run,
        tick=3,
        head=bytes(32),
        base=None,
        kind="change" if change else "train",
        change=change,
        round=0,
        epoch=0,
        epoch_tick=0,
        attempt=0,
        relays=(),
        candidates=(),
        members=(),
        exponents=(),
        lifts=(),
        work=(),
    )


@pytest.fixture
def granted() -> Granted:
    """Of somebody who has seen the first six nodes at work."""
    made = Granted(MADE)
    made.learn(Roster(joins=tuple(a_join(f"node{i}") for i in range(7))))
    made.verify(a_plan(""), (tuple(KEYS[:2]), tuple(KEYS[2:4]), tuple(KEYS[4:6])))
    return made


def refusal(granted: Granted, members: Any, change: str = "members") -> str:
    """What is said of these members."""
    with pytest.raises(Refused) as caught:
        granted.verify(a_plan(change), members)
    assert caught.value.number == 316
    return caught.value.what


def test_whoever_has_held_a_stage_may_hold_that_and_no_other(granted: Granted) -> None:
    granted.verify(a_plan("members"), ((KEYS[6], KEYS[0]), (KEYS[2],), (KEYS[4],)))
    assert "node1 has held stage 0" in refusal(granted, ((KEYS[0],), (KEYS[2], KEYS[1]), (KEYS[4],)))
    granted.verify(a_plan("members"), ((KEYS[0], KEYS[1]), (KEYS[2],), (KEYS[4],)))


def test_what_a_void_change_would_have_given_counts_too(granted: Granted) -> None:
    granted.verify(a_plan("members"), ((KEYS[0],), (KEYS[2], KEYS[6]), (KEYS[4],)))
    assert "node6 has held stage 1" in refusal(granted, ((KEYS[0], KEYS[6]), (KEYS[2],), (KEYS[4],)))


def test_a_keyholder_gets_nothing(granted: Granted) -> None:
    assert "keyholder" in refusal(granted, ((KEYS[0], identity("ada").public), (KEYS[2],), (KEYS[4],)))


def test_two_keys_of_one_operator_are_one(granted: Granted) -> None:
    granted.learn(Roster(joins=(a_join("other", label="node0"),)))
    assert "node0 has held stage 0" in refusal(granted, ((KEYS[1],), (identity("other").public,), (KEYS[4],)))


def test_a_start_that_comes_to_nothing_binds_nobody() -> None:
    made = Granted(MADE)
    made.learn(Roster(joins=tuple(a_join(f"node{i}") for i in range(6))))
    made.verify(a_plan("start"), (tuple(KEYS[:2]), tuple(KEYS[2:4]), tuple(KEYS[4:6])))
    made.verify(a_plan("start"), (tuple(KEYS[4:6]), tuple(KEYS[:2]), tuple(KEYS[2:4])))


def test_a_join_that_is_not_in_order_is_refused() -> None:
    join = a_join("node0")
    forged = Join(record=join.record, invitation=None)
    with pytest.raises(Refused):
        Granted(MADE).learn(Roster(joins=(forged,)))
