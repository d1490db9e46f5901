"""Micro-batches to replicas by their pace."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols.sharing import ALIKE, share_out

PACES = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=6)


@given(st.integers(0, 64), PACES, st.integers(0, 5))
def test_each_micro_batch_has_one_replica_and_each_replica_its_share(
    count: int, paces: list[float], first: int
) -> None:
    order = share_out(count, paces, first=first)
    done = Counter(order)
    assert len(order) == count and set(done) <= set(range(len(paces)))
    if count >= len(paces):
        assert set(done) == set(range(len(paces)))
    if max(paces) >= ALIKE * min(paces):
        for replica, pace in enumerate(paces):
            ideal = count * pace / sum(paces)
            assert ideal - len(paces) <= done[replica] <= ideal + len(paces)


@given(st.integers(1, 64), st.integers(1, 6), st.integers(0, 5), st.floats(1.0, 1.2))
def test_replicas_that_are_alike_take_turns(count: int, size: int, first: int, factor: float) -> None:
    paces = [1.0] * (size - 1) + [factor]
    assert share_out(count, paces, first=first) == tuple((first + m) % size for m in range(count))
    assert share_out(count, [0.0] * size) == tuple(m % size for m in range(count))


def test_one_that_nobody_knows_counts_as_the_mean_of_the_others() -> None:
    assert Counter(share_out(12, [1.0, 0.0, 3.0])) == {0: 2, 1: 4, 2: 6}


def test_a_share_does_not_come_in_one_block() -> None:
    order = share_out(16, [1.0, 3.0])
    assert Counter(order) == {0: 4, 1: 12}
    assert all(0 in order[at : at + 5] for at in range(12))
