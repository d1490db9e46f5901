"""Coverage: the smallest covering set, and how likely some draw of holders covers, against counting them all."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.vault import Cover, chance, chance_by_formula, coverage, smallest_cover

NAMES = [f"operator {n}" for n in range(7)]
HOLDINGS = st.dictionaries(st.sampled_from(NAMES), st.frozensets(st.integers(0, 4), max_size=4))


def covers(holdings: dict[str, frozenset[int]], who: tuple[str, ...], stages: int) -> bool:
    return set(range(stages)) <= {stage for name in who for stage in holdings[name]}


@given(HOLDINGS, st.integers(1, 5))
def test_no_smaller_set_of_operators_covers(holdings: dict[str, frozenset[int]], stages: int) -> None:
    by_size = (sorted(who) for size in range(len(holdings) + 1) for who in combinations(sorted(holdings), size))
    smallest = next((tuple(who) for who in by_size if covers(holdings, tuple(who), stages)), None)
    found = smallest_cover(holdings, stages)
    if smallest is None:
        assert found is None
    else:
        assert found is not None
        assert found.exact
        assert len(found.operators) == len(smallest)
        assert covers(holdings, found.operators, stages)


def test_who_takes_most_at_first_may_need_one_more_in_the_end() -> None:
    holdings = {"greedy": [0, 1, 2, 3], "left": [0, 1, 4], "right": [2, 3, 5]}
    assert smallest_cover(holdings, 6) == Cover(("left", "right"), exact=True)


def test_where_everybody_holds_one_stage_the_search_is_over_at_once() -> None:
    holdings = {f"{stage} {replica}": [stage] for stage in range(64) for replica in range(15)}
    found = smallest_cover(holdings, 64)
    assert found == Cover(tuple(sorted(f"{stage} 0" for stage in range(64))), exact=True)


def test_a_search_that_ends_at_its_bound_says_so_and_still_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "SEARCH_MAX", 50)
    draw = random.Random(1)
    holdings = {f"operator {n}": frozenset(draw.sample(range(40), 4)) for n in range(60)}
    found = smallest_cover(holdings, 40)
    assert found is not None
    assert not found.exact
    assert covers(holdings, found.operators, 40)
    monkeypatch.setattr(coverage, "SEARCH_MAX", 5)
    less = smallest_cover(holdings, 40)
    assert less is not None
    assert len(less.operators) >= len(found.operators)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.data())
def test_the_chance_is_the_share_of_draws_that_cover(holders: list[int], data: st.DataObject) -> None:
    everyone = [(stage, replica) for stage, r in enumerate(holders) for replica in range(r)]
    bad = data.draw(st.integers(0, len(everyone)))
    draws = [len({stage for stage, _ in drawn}) for drawn in combinations(everyone, bad)]
    for missing in (0, 1, 2):
        wanted = sum(stages >= len(holders) - missing for stages in draws)
        assert chance(bad, holders, missing=missing) == Fraction(wanted, len(draws))


def test_the_chance_where_it_is_known() -> None:
    assert chance(2, [1, 1]) == 1
    assert chance(3, [2, 2]) == 1
    assert chance(1, [2, 2]) == 0
    assert chance(3, [1, 1, 1, 1], missing=1) == 1


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.fractions(0, 1, max_denominator=20))
def test_the_formula_is_the_mean_of_exact_values_over_how_many_are_bad(holders: list[int], fraction: Fraction) -> None:
    total = sum(holders)
    mean = sum(
        math.comb(total, bad) * fraction**bad * (1 - fraction) ** (total - bad) * chance(bad, holders)
        for bad in range(total + 1)
    )
    assert chance_by_formula(float(fraction), holders) == pytest.approx(float(mean), abs=1e-12)


def test_the_formula_is_the_one_of_the_threat_model() -> None:
    assert chance_by_formula(0.25, [2] * 3) == pytest.approx((1 - (1 - 0.25) ** 2) ** 3)


def test_a_large_run_is_exact_and_quick() -> None:
    value = chance(480, [15] * 64)
    assert 0 < value < 1
    assert value.denominator > 10**100
