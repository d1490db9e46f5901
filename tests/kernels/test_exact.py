"""Exact products against Python integers, up to the bound and in any order of summation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interlock.kernels import exact
from interlock.kernels.errors import NotExact, OutOfRange

PROPERTY = settings(deadline=None, derandomize=True)
BOUND = 2**106  # of the product of squared lengths


@pytest.fixture(params=["numpy", "torch", "jax"], scope="module")
def back_end(request):
    """Module of arrays, and how it takes a numpy array."""
    if request.param == "jax":
        with jax.enable_x64(True):
            yield jnp, jnp.asarray
    else:
        yield {"numpy": (np, np.asarray), "torch": (torch, torch.from_numpy)}[request.param]


def integers(array):
    return [[int(x) for x in row] for row in np.asarray(array)]


def oracle_product(a, b):
    columns = list(zip(*integers(b), strict=True))
    return [[sum(x * y for x, y in zip(r, c, strict=True)) for c in columns] for r in integers(a)]


def squared_length(vector):
    return sum(x * x for x in vector)


def longest(rows):
    return max(squared_length(r) for r in rows)


def fits(a, b):
    return longest(integers(a)) * longest(integers(np.asarray(b).T)) < BOUND


def whole(shape, bits):
    limit = 2.0**bits
    return hnp.arrays(np.float64, shape, elements=st.floats(-limit, limit).map(np.rint))


# Few shapes, because jax compiles anew for each.
SHAPES = st.sampled_from([(1, 1, 1), (1, 3, 1), (2, 5, 3)])
PAIRS = (
    st.tuples(SHAPES, st.integers(1, 53))
    .map(lambda s: (*s[0], s[1]))
    .flatmap(lambda s: st.tuples(whole((s[0], s[1]), s[3]), whole((s[1], s[2]), 53 - s[3])))
)


@PROPERTY
@given(PAIRS)
def test_what_is_accepted_is_exact_and_what_does_not_fit_is_refused(back_end, pair):
    xp, array = back_end
    a, b = pair
    if not fits(a, b):
        with pytest.raises(NotExact):
            exact.matmul(array(a), array(b), xp=xp)
        return
    try:
        found = exact.matmul(array(a), array(b), xp=xp)
    except NotExact:
        lengths = longest(integers(a)) * longest(integers(b.T))
        assert lengths * (1 + (a.shape[1] + 2) * 2.0**-50) >= BOUND, "refused far from the bound"
    else:
        assert integers(found) == oracle_product(a, b)


@st.composite
def near_the_bound(draw):
    """A row and a column, nearly parallel, with lengths whose product is just below or above 2**53."""
    terms = draw(st.sampled_from([1, 2, 7, 40]))
    row = draw(st.lists(st.integers(-(2**24), 2**24), min_size=terms, max_size=terms))
    assume(any(row))
    lengths = math.isqrt(squared_length(row)) + 1
    scale = 2**53 // lengths + draw(st.integers(-2, 2))
    column = [(x * scale) // lengths + draw(st.integers(-1, 1)) for x in row]
    return np.array([row], float), np.array([column], float).T


@PROPERTY
@given(near_the_bound())
def test_near_the_bound_nothing_inexact_is_accepted(back_end, pair):
    xp, array = back_end
    a, b = pair
    try:
        found = exact.matmul(array(a), array(b), xp=xp)
    except NotExact:
        return
    assert fits(a, b)
    assert integers(found) == oracle_product(a, b)


@pytest.mark.parametrize(
    ("a", "b", "accepted"),
    [
        ([[2**52]], [[1]], True),
        ([[2**53 - 8]], [[1]], True),
        ([[2**53]], [[1]], False),
        ([[2**27, 0]], [[2**26], [0]], False),
        ([[2**27 - 1, 0]], [[2**26], [0]], True),
        ([[2**26, 2**26]], [[2**26], [2**26]], False),  # 2**53 itself, reached by two terms
        ([[2**60, 0]], [[0], [0]], True),
        ([[2**600, 0]], [[1], [0]], False),  # the squares overflow
        ([[2**600, 0]], [[0], [0]], False),  # infinity times zero is no bound
    ],
)
def test_the_bound_stands_where_it_should(back_end, a, b, accepted):
    xp, array = back_end
    a, b = np.array(a, float), np.array(b, float)
    if accepted:
        assert integers(exact.matmul(array(a), array(b), xp=xp)) == oracle_product(a, b)
    else:
        with pytest.raises(NotExact):
            exact.matmul(array(a), array(b), xp=xp)


def test_a_norm_that_rounds_down_lets_no_bad_case_through(back_end):
    """The square of one large entry swallows those of many small ones, added one after the other."""
    xp, array = back_end
    terms = 2**16
    b = np.full((terms, 2), 2.0**13 - 1)  # squares just below half of what the large one's last place is worth
    b[0] = 2.0**40 - 1
    a = np.zeros((1, terms))
    a[0, 0] = 2.0**13
    assert (b * b).sum(0).max() < 2.0**80 < squared_length(map(int, b[:, 0]))
    with pytest.raises(NotExact):
        exact.matmul(array(a), array(b), xp=xp)
    a[0, 0] = 2.0**13 - 1
    assert integers(exact.matmul(array(a), array(b), xp=xp)) == oracle_product(a, b)


@pytest.mark.parametrize("shape", [(20, 300, 15), (3, 1031, 2)])
def test_every_order_of_summation_gives_the_same_product(back_end, shape):
    xp, array = back_end
    n, k, m = shape
    draw = np.random.default_rng(k)
    a, b = draw.normal(size=(n, k)), draw.normal(size=(k, m))
    a = np.rint(a / np.linalg.norm(a, axis=1).max() * 2.0**27)
    b = np.rint(b / np.linalg.norm(b, axis=0).max() * 2.0**26 * (1 - 2.0**-15))
    expected = np.array(oracle_product(a, b), float)
    for order in (np.arange(k), np.arange(k)[::-1], draw.permutation(k), np.argsort(a[0])):
        found = exact.matmul(array(a[:, order].copy()), array(b[order].copy()), xp=xp)
        np.testing.assert_array_equal(np.asarray(found), expected)
    for cut in (0, 1, k // 2):  # partial sums over any part are exact, too
        parts = [exact.matmul(array(a[:, s].copy()), array(b[s].copy()), xp=xp) for s in (slice(0, cut), slice(cut, k))]
        np.testing.assert_array_equal(np.asarray(parts[0]) + np.asarray(parts[1]), expected)


@PROPERTY
@given(st.sampled_from([(1, 2), (3, 4)]).flatmap(lambda s: whole(s, 27)))
@example(np.array([[2.0**26, 2.0**26 - 1]]))
@example(np.array([[2.0**26, 2.0**26]]))
def test_gram_is_the_product_with_the_transpose(back_end, a):
    xp, array = back_end
    if longest(integers(a)) >= 2**53:
        with pytest.raises(NotExact):
            exact.gram(array(a), xp=xp)
        return
    assert integers(exact.gram(array(a), xp=xp)) == oracle_product(a, a.T)


def test_a_large_gram_matrix_is_exact_and_symmetric(back_end):
    xp, array = back_end
    a = np.random.default_rng(5).normal(size=(150, 70))
    a = np.rint(a / np.linalg.norm(a, axis=1).max() * 2.0**26.49)
    found = np.asarray(exact.gram(array(a), xp=xp))
    assert integers(found) == oracle_product(a, a.T)


@PROPERTY
@given(
    hnp.arrays(np.float64, 6, elements=st.one_of(st.integers(-(2**53), 2**53), st.integers(-99, 99)).map(float)),
    st.integers(-3, 60),
)
@example(np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5]) * 2**25, 25)
@example(np.array([2.0**53 - 1, 1 - 2.0**53, 3, 1, -1, -3]), 1)
def test_round_shift_is_rounding_division_half_to_even(back_end, x, bits):
    xp, array = back_end
    before = x.copy()
    found = exact.round_shift(array(x), bits, xp=xp)
    expected = []
    for i in map(int, x):
        if bits <= 0:
            expected.append(i << -bits)
            continue
        quotient, rest = divmod(i, 2**bits)
        half = 2 ** (bits - 1)
        expected.append(quotient + (rest > half or (rest == half and quotient % 2 == 1)))
    assert [int(v) for v in np.asarray(found)] == expected
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("bad", [0.5, math.nan, math.inf, -math.inf])
def test_what_is_visibly_not_whole_is_refused(back_end, bad):
    xp, array = back_end
    good, wrong = np.ones((2, 3)), np.ones((3, 2))
    wrong[1, 1] = bad
    with pytest.raises(NotExact):
        exact.matmul(array(good), array(wrong), xp=xp)
    with pytest.raises(NotExact):
        exact.matmul(array(wrong), array(good), xp=xp)
    with pytest.raises(NotExact):
        exact.gram(array(wrong), xp=xp)


def test_other_types_and_shapes_are_refused(back_end):
    xp, array = back_end
    square = np.ones((2, 2))
    for other in (square.astype(np.float32), square.astype(np.int32), np.ones((3, 2)), np.ones(2)):
        with pytest.raises(OutOfRange):
            exact.matmul(array(square), array(other), xp=xp)
    with pytest.raises(OutOfRange):
        exact.gram(array(square.astype(np.float32)), xp=xp)
    with pytest.raises(OutOfRange):
        exact.gram(array(np.ones(2)), xp=xp)


def test_jax_without_x64_is_refused():
    with jax.enable_x64(False), pytest.raises(OutOfRange):
        exact.matmul(jnp.ones((2, 2)), jnp.ones((2, 2)), xp=jnp)


def test_empty_matrices_have_empty_products(back_end):
    xp, array = back_end
    assert exact.matmul(array(np.ones((0, 3))), array(np.ones((3, 2))), xp=xp).shape == (0, 2)
    np.testing.assert_array_equal(
        np.asarray(exact.matmul(array(np.ones((2, 0))), array(np.ones((0, 2))), xp=xp)), np.zeros((2, 2))
    )
    assert exact.gram(array(np.ones((0, 3))), xp=xp).shape == (0, 0)
