"""Custody: one stage an operator over a run's life, none for a keyholder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.vault import CustodyRefused, verify_grants

WHO = st.sampled_from([bytes([n]) * 32 for n in range(5)])
PLANS = st.dictionaries(WHO, st.integers(0, 3))


@given(PLANS, PLANS, st.frozensets(WHO))
def test_grants_pass_exactly_if_nobody_gets_a_second_stage_and_no_keyholder_any(
    grants: dict[bytes, int], held: dict[bytes, int], keyholders: frozenset[bytes]
) -> None:
    # Over a run's life: the stages that each would have held after this plan.
    stages = {who: {stage for plan in (grants, held) for w, stage in plan.items() if w == who} for who in grants}
    allowed = all(len(s) == 1 for s in stages.values()) and not keyholders & grants.keys()
    if allowed:
        verify_grants(grants, held=held, keyholders=keyholders)
    else:
        with pytest.raises(CustodyRefused):
            verify_grants(grants, held=held, keyholders=keyholders)


A, B = b"\xaa" * 32, b"\xbb" * 32


def test_stage_0_counts_like_any_other() -> None:
    with pytest.raises(CustodyRefused, match="E105 bbbbbbbbbbbb has held stage 0 and may not hold stage 1"):
        verify_grants({A: 0, B: 1}, held={B: 0}, keyholders=[])
    with pytest.raises(CustodyRefused, match="has held stage 1 and may not hold stage 0"):
        verify_grants({B: 0}, held={B: 1}, keyholders=[])


def test_a_member_that_returns_to_its_own_stage_is_let_in() -> None:
    verify_grants({A: 2}, held={A: 2, B: 0}, keyholders=[])


def test_a_keyholder_is_refused_even_the_stage_it_has_held() -> None:
    with pytest.raises(CustodyRefused, match="E105 aaaaaaaaaaaa is a keyholder"):
        verify_grants({A: 2}, held={A: 2}, keyholders=[A])
