"""Custody: one stage an operator over a run's life, none for a keyholder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.vault import CustodyRefused, verify_grants

PEOPLE = [bytes([n]) * 32 for n in range(6)]
OWNERS = {who: "abcdee"[n] for n, who in enumerate(PEOPLE)}  # the last two are one operator's
PLANS = st.dictionaries(st.sampled_from(PEOPLE), st.integers(0, 3))
HELD = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 3))


@given(PLANS, HELD, st.frozensets(st.sampled_from(PEOPLE)))
def test_grants_pass_exactly_if_nobody_gets_a_second_stage_or_replica_and_no_keyholder_any(
    grants: dict[bytes, int], held: dict[str, int], keyholders: frozenset[bytes]
) -> None:
    # Over a run's life: the stages that each operator would have held after this plan.
    stages = {
        its: {s for who, s in grants.items() if OWNERS[who] == its} | ({held[its]} if its in held else set())
        for its in {OWNERS[who] for who in grants}
    }
    once = len({OWNERS[who] for who in grants}) == len(grants)
    allowed = once and all(len(s) == 1 for s in stages.values()) and not keyholders & grants.keys()
    if allowed:
        verify_grants(grants, owners=OWNERS, held=held, keyholders=keyholders)
    else:
        with pytest.raises(CustodyRefused):
            verify_grants(grants, owners=OWNERS, held=held, keyholders=keyholders)


A, B = b"\xaa" * 32, b"\xbb" * 32
NAMES = {A: "ada", B: "bob"}


def test_stage_0_counts_like_any_other() -> None:
    with pytest.raises(CustodyRefused, match="E105 bob has held stage 0 and may not hold stage 1"):
        verify_grants({A: 0, B: 1}, owners=NAMES, held={"bob": 0}, keyholders=[])
    with pytest.raises(CustodyRefused, match="has held stage 1 and may not hold stage 0"):
        verify_grants({B: 0}, owners=NAMES, held={"bob": 1}, keyholders=[])


def test_two_keys_of_one_operator_are_one_operator() -> None:
    with pytest.raises(CustodyRefused, match="E105 ada may hold one replica, but was granted two"):
        verify_grants({A: 1, B: 1}, owners={A: "ada", B: "ada"}, held={}, keyholders=[])


def test_a_member_that_returns_to_its_own_stage_is_let_in() -> None:
    verify_grants({A: 2}, owners=NAMES, held={"ada": 2, "bob": 0}, keyholders=[])


def test_a_keyholder_is_refused_even_the_stage_it_has_held() -> None:
    with pytest.raises(CustodyRefused, match="E105 aaaaaaaaaaaa is a keyholder"):
        verify_grants({A: 2}, owners=NAMES, held={"ada": 2}, keyholders=[A])
