"""The exact step equals an oracle in Python integers, stays in range, and is Muon up to rounding."""

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.kernels import exact, muon
from interlock.kernels.errors import NonFinite, OutOfRange
from interlock.kernels.initial import initial_state
from interlock.kernels.state import Int64, StageShape, StageState, TensorShape, TensorState

SMALL = StageShape(width=4, heads=1, layers=1, hidden=6, first=True, last=True)
WIDE = StageShape(width=32, heads=2, layers=1, hidden=48, first=True, last=True)
SEED = bytes(range(32))
Grid = list[list[int]]


def random_sums(shape: StageShape, rng: np.random.Generator, bits: int = 21) -> dict[str, Int64]:
    top = 2**bits - 1
    return {s.name: rng.integers(-top, top, (s.rows, s.columns), endpoint=True) for s in shape.tensors()}


def exponents(shape: StageShape, value: int) -> dict[str, int]:
    return {s.name: value for s in shape.tensors()}


# The oracle: no arrays, no float64 but for a row's scalars.


def rounded(x: Fraction) -> int:
    """Half to even, as `R`."""
    return round(x)


def power(k: int) -> Fraction:
    return Fraction(2**k) if k >= 0 else Fraction(1, 2**-k)


def significant(x: float, bits: int) -> Fraction:
    mantissa, exponent = math.frexp(x)
    whole: int = round(Fraction(mantissa) * 2**bits)
    return whole * power(exponent - bits)


def norm_bound(flat: list[int], shift: int) -> int:
    if not any(flat):
        return 0
    squares = sum(rounded(x / power(shift)) ** 2 for x in flat)
    return (1 << shift) * (math.isqrt(squares) + 2 + math.isqrt(len(flat)))


def product(a: Grid, b: Grid) -> Grid:
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


def shifted(a: Grid, k: int) -> Grid:
    return [[rounded(Fraction(x, 2**k)) for x in row] for row in a]


def transposed(a: Grid) -> Grid:
    return [list(column) for column in zip(*a, strict=True)]


def oracle_newton_schulz(m: Grid) -> Grid:
    if len(m) > len(m[0]):
        return transposed(oracle_newton_schulz(transposed(m)))
    bound = norm_bound([x for row in m for x in row], 4)
    if bound == 0:
        return [[0] * len(m[0]) for _ in m]
    ratio = Fraction(2**25, bound)
    k = 0  # floor to 22 bits: the largest whole number below 2**22, times a power of two
    while ratio * power(k) < 2**21:
        k += 1
    start = math.floor(ratio * power(k)) / power(k)
    x = [[rounded(entry * start) for entry in row] for row in m]
    for _ in range(5):
        a = shifted(product(x, transposed(x)), 25)
        a2 = shifted(product(a, a), 25)
        q = [
            [
                rounded(Fraction(-5006950 * a[i][j] + 2130182 * a2[i][j], 2**20)) + (i == j) * 3611820 * 32
                for j in range(len(a))
            ]
            for i in range(len(a))
        ]
        x = shifted(product(q, x), 25)
    return x


def row_square(row: list[int]) -> int:
    shift = 0
    while 4 ** (max(map(abs, row)).bit_length() - shift) * 2 ** (len(row) - 1).bit_length() > 2**52:
        shift += 1
    return sum(rounded(Fraction(x, 2**shift)) ** 2 for x in row) << 2 * shift


def oracle_tensor(spec: TensorShape, t: TensorState, total: Int64, eg: int, rate: float) -> TensorState:
    m, g, w = t.momentum.tolist(), total.tolist(), t.weight.tolist()
    flat_g = [x for row in g for x in row]
    top = max(map(abs, flat_g))
    shift = 0
    while Fraction(4) ** (top.bit_length() - shift) * 2 ** (total.size - 1).bit_length() > 2**52:
        shift += 1
    need = Fraction(943718 * norm_bound([x for row in m for x in row], 4), 2**20) * power(t.momentum_exponent)
    need += norm_bound(flat_g, shift) * power(eg)
    e = -256
    if need:
        e = max(e, math.floor(math.log2(need)) - 35)
        while need > power(30 + e):
            e += 1
    m = [
        [
            rounded(Fraction(943718 * x, 2**20) * power(t.momentum_exponent - e)) + rounded(y * power(eg - e))
            for x, y in zip(row_m, row_g, strict=True)
        ]
        for row_m, row_g in zip(m, g, strict=True)
    ]
    second = None
    if spec.kind == "matrix":
        k = significant(rate * math.sqrt(max(1.0, spec.rows / spec.columns)), 22) * power(t.grid - 25)
        change = [[rounded(x * k) for x in row] for row in oracle_newton_schulz(m)]
    else:
        assert t.second is not None
        second, change = [], []
        size = 10.0 * rate if spec.kind == "embedding" else 4.0 * rate / math.sqrt(spec.columns)
        for old, row in zip(t.second.tolist(), g, strict=True):
            mean = significant(float(row_square(row) * power(2 * eg)) / spec.columns, 32)
            new = float(Fraction(996147, 2**20) * Fraction(old) + Fraction(2**20 - 996147, 2**20) * mean)
            second.append(float(significant(new, 32)))
        for v, row in zip(second, m, strict=True):
            floor = max(second) * 2.0**-24
            k_row = Fraction(0)
            if floor:
                k_row = significant((1 - 943718 / 2**20) * size / math.sqrt(max(v, floor)), 22)
            change.append([rounded(x * k_row * power(t.grid + e)) for x in row])
    return TensorState(
        weight=np.array(w, np.int32) - np.array(change, np.int32),
        grid=t.grid,
        momentum=np.array(m, np.int32),
        momentum_exponent=e,
        second=None if second is None else np.array(second),
        sum_exponent=eg if top == 0 else eg + top.bit_length() - 21,
    )


@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
@pytest.mark.parametrize("seed", range(3))
def test_step_equals_the_oracle_in_python_integers(seed: int, mlp: str) -> None:
    shape = replace(SMALL, mlp=mlp)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    state = expected = initial_state(shape, SEED, bridge=None)
    for exponent, bits in ((-30, 21), (-31, 27), (-20, 2), (-44, 21)):
        sums = random_sums(shape, rng, bits)
        sums["head"][::3] = 0
        given_exponents = exponents(shape, exponent)
        state = muon.step(state, sums, given_exponents, rate=0.013)
        tensors = {
            s.name: oracle_tensor(s, expected.tensors[s.name], sums[s.name], exponent, 0.013) for s in shape.tensors()
        }
        expected = StageState(shape, expected.round + 1, tensors, None)
        for name, t in tensors.items():
            got = state.tensors[name]
            assert (got.weight == t.weight).all(), name
            assert (got.momentum == t.momentum).all(), name
            assert t.second is None or np.array_equal(got.second, t.second)  # type: ignore[arg-type]
        assert state.digest() == expected.digest()


# Gradient sums


@given(st.floats(-(2.0**26), 2.0**26), st.integers(-10, 10))
def test_encoding_rounds_half_to_even(value: float, exponent: int) -> None:
    gradient = np.array([value * 2.0**exponent])
    whole = Fraction(float(gradient[0])) / power(exponent)
    assert muon.encode_sum(gradient, exponent)[0] == round(whole)


def test_encoding_refuses_what_a_sum_cannot_hold() -> None:
    limit = np.array([2.0**27 - 1, 1 - 2.0**27])
    assert muon.encode_sum(limit, 0).tolist() == [2**27 - 1, 1 - 2**27]
    for bad in (2.0**27 - 0.5, -(2.0**27), 1e300):
        with pytest.raises(OutOfRange):
            muon.encode_sum(np.array([bad]), 0)
    with pytest.raises(OutOfRange):
        muon.encode_sum(np.array([1e300]), -256)
    for bad in (np.nan, np.inf):
        with pytest.raises(NonFinite):
            muon.encode_sum(np.array([bad], np.float32), 0)
    with pytest.raises(OutOfRange):
        muon.encode_sum(limit, 257)


@given(st.integers(1, 2**31 - 1), st.integers(-100, 100))
def test_the_next_exponent_puts_the_largest_value_between_20_and_21_bits(largest: int, exponent: int) -> None:
    scaled = largest * power(exponent - muon.next_exponent(largest, exponent))
    assert 2**20 <= scaled < 2**21


def test_a_sum_of_zeros_keeps_its_exponent() -> None:
    assert muon.next_exponent(0, -33) == -33


@given(st.integers(1, 15), st.integers(0, 2**32 - 1))
def test_replicas_sums_add_up_whatever_their_order(replicas: int, seed: int) -> None:
    limit = (2**31 - 1) // replicas
    rng = np.random.default_rng(seed)
    parts = [rng.integers(-limit, limit, (3, 2), np.int32, endpoint=True) for _ in range(replicas)]
    parts[0][0, 0] = limit
    total = muon.add_sums(parts)
    assert total.tolist() == [[sum(int(p[i, j]) for p in parts) for j in range(2)] for i in range(3)]
    assert (total == muon.add_sums(parts[::-1])).all()
    assert np.abs(total).max() < 2**31


def test_sums_that_could_overflow_are_refused() -> None:
    for bad in (2**31 // 2, -(2**31)):
        with pytest.raises(OutOfRange):
            muon.add_sums([np.zeros((1, 1), np.int32), np.array([[bad]], np.int32)])
    with pytest.raises(OutOfRange):
        muon.add_sums([np.zeros((1, 1), np.int32), np.zeros((1, 2), np.int32)])
    with pytest.raises(OutOfRange):
        muon.add_sums([])


def test_measuring_sets_exponents_and_nothing_else() -> None:
    state = initial_state(SMALL, SEED, bridge=None)
    sums = random_sums(SMALL, np.random.default_rng(0), 24)
    sums["layer0.up"][...] = 0
    measured = muon.measure(state, sums, exponents(SMALL, muon.FIRST_EXPONENT))
    assert measured.tensors["layer0.up"].sum_exponent == -24
    assert measured.tensors["layer0.down"].sum_exponent == -21
    cleared = {n: replace(t, sum_exponent=None) for n, t in measured.tensors.items()}
    assert replace(measured, tensors=cleared).digest() == state.digest()


def test_a_step_refuses_what_is_not_a_sum_of_every_tensor() -> None:
    state = initial_state(SMALL, SEED, bridge=None)
    good, at = random_sums(SMALL, np.random.default_rng(0)), exponents(SMALL, -30)
    too_large = good["head"].copy()
    too_large[0, 0] = 2**31
    for bad in (too_large, good["head"][1:], good["head"].astype(np.float64)):
        with pytest.raises(OutOfRange, match="head"):
            muon.step(state, good | {"head": bad}, at, rate=0.01)  # type: ignore[arg-type]
    with pytest.raises(OutOfRange, match="head"):
        muon.step(state, {n: s for n, s in good.items() if n != "head"}, at, rate=0.01)
    with pytest.raises(OutOfRange, match="exponent"):
        muon.step(state, good, at | {"head": 300}, rate=0.01)
    for rate in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(OutOfRange, match="rate"):
            muon.step(state, good, at, rate=rate)


# Ranges


def adversarial(rng: np.random.Generator, size: tuple[int, int]) -> Iterator[Int64]:
    """Sums that strain a bound: empty, full, one entry, one row, rank one, tiny, ordinary."""
    top = 2**31 - 1
    yield np.zeros(size, np.int64)
    yield np.full(size, top)
    yield rng.choice([-top, top], size)
    one = np.zeros(size, np.int64)
    one[0, 0] = -top
    yield one
    row = np.zeros(size, np.int64)
    row[-1] = top
    yield row
    yield np.outer(rng.integers(-100, 100, size[0]), rng.integers(-100, 100, size[1]))
    yield rng.integers(-1, 2, size)
    yield rng.integers(-(2**20), 2**20, size)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(-256, 256)), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_no_gradient_breaks_a_bound(rounds: list[tuple[int, int]], seed: int) -> None:
    """Momentum fits its 2**30, follows the real recursion, and every product keeps below 2**53."""
    shape = replace(SMALL, width=8, hidden=12)
    rng = np.random.default_rng(seed)
    state = initial_state(shape, SEED, bridge=None)
    for kind, exponent in rounds:
        sums = {s.name: list(adversarial(rng, (s.rows, s.columns)))[kind] for s in shape.tensors()}
        before = state
        state = muon.step(state, sums, exponents(shape, exponent), rate=0.01, product=exact.matmul)
        for name, t in state.tensors.items():
            old = before.tensors[name]
            norm = np.linalg.norm(t.momentum.astype(np.float64))
            assert norm <= 2**30 + t.momentum.size**0.5
            expected = np.ldexp(0.9 * old.momentum, old.momentum_exponent - t.momentum_exponent)
            expected += np.ldexp(sums[name].astype(np.float64), exponent - t.momentum_exponent)
            assert np.abs(t.momentum - expected).max() <= 1.0 + 2.0**31 * 2.0**-20
            assert np.abs(t.weight.astype(np.int64) - old.weight).max() < 2**24


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(8, 8), (24, 8), (8, 24), (1, 5), (33, 33)]),
    st.integers(1, 33),
    st.integers(0, 30),
    st.integers(0, 2**32 - 1),
)
def test_spectral_norm_of_newton_schulz_stays_below_5_4(size: tuple[int, int], rank: int, bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = min(rank, *size)
    m = rng.normal(size=(size[0], k)) * rng.exponential(size=k) ** 4 @ rng.normal(size=(k, size[1]))
    m = np.rint(m * 2.0**bits / np.linalg.norm(m))
    seen: list[float] = []

    def watched(a: muon.Float64, b: muon.Float64) -> muon.Float64:
        seen.append(float(np.linalg.norm(b, 2)))
        return exact.matmul(a, b)

    x = muon.newton_schulz(m, watched)
    starts = [*seen[::3], float(np.linalg.norm(x, 2))]
    assert max(starts, default=0.0) <= 1.25 * 2**25
    assert not seen or starts[0] <= (1 + 2.0**-14) * 2**25


def test_the_polynomial_keeps_singular_values_below_5_4() -> None:
    a, b, c = (x * 2.0**-20 for x in muon.COEFFICIENTS)
    s = np.linspace(0, 1.25, 1_000_001)
    image = a * s + b * s**3 + c * s**5
    assert image.min() >= 0
    assert image.max() < 1.2025 < 1.25 - 2.0**-10
    assert np.abs(a + b * s**2 + c * s**4).max() < 3.4446


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_row_squares_are_exact_or_within_their_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**31), 2**31, (5, 100)) >> rng.integers(0, 31, (5, 1))
    got = muon.row_squares(x.astype(np.float64))
    for row, squares in zip(x.tolist(), got.tolist(), strict=True):
        true = sum(v * v for v in row)
        assert squares == true if max(map(abs, row)) < 2**22 else squares == pytest.approx(true, rel=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 31), st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_norm_bounds_are_above_the_norm_and_close_to_it(bits: int, size: int, seed: int) -> None:
    """Equal to Python's integers, so no sum of squares rounded; 0 for nothing at all."""
    top = 2**bits - 1
    x = np.random.default_rng(seed).integers(-top, top, (1, size), endpoint=True)
    x[0, 0] = top
    shift = 0
    while Fraction(4) ** (bits - shift) * 2 ** (size - 1).bit_length() > 2**52:
        shift += 1
    exact_norm = math.isqrt(sum(v * v for v in x[0].tolist()))
    bound = muon.sum_bound(x.astype(np.float64), top)
    assert bound == norm_bound(x[0].tolist(), shift)
    assert (bound > exact_norm) == (top > 0)
    assert bound <= exact_norm + (3 + 2 * math.isqrt(size)) * 2**shift
    scaled = np.rint(x * (2**30 / max(1, exact_norm)))
    assert muon.momentum_bound(scaled) == norm_bound(scaled[0].astype(int).tolist(), 4)


def test_a_row_moves_at_most_1_17_times_its_rate() -> None:
    """The bound of Cauchy-Schwarz, at gradients that grow as fast as makes it worst, and after a long absence."""
    state = initial_state(WIDE, SEED, bridge=None)
    growth = 0.95 / 0.9
    limit = {"embedding": 1.17 * 10 * 0.01 * 2**22, "head": 1.17 * 4 * 0.01 / 32**0.5 * 2**22}
    largest = dict.fromkeys(limit, 0.0)
    for i in range(90):
        sums = random_sums(WIDE, np.random.default_rng(0), 20 if i < 60 else 0)
        for name in limit:
            steady = sums[name] if i < 60 else np.full_like(sums[name], 3000)
            steady[3] = steady[3] * growth ** (i - 59) if i < 60 or i == 89 else 0
            sums[name] = steady
        before = state
        state = muon.step(state, sums, exponents(WIDE, -30), rate=0.01)
        for name, top in limit.items():
            moved = (state.tensors[name].weight.astype(np.float64) - before.tensors[name].weight)[3]
            largest[name] = max(largest[name], float(np.sqrt(np.mean(moved**2))) / top)
    assert all(0.85 < x <= 1.0 for x in largest.values()), largest


def test_a_row_that_is_never_seen_again_comes_to_rest() -> None:
    state = initial_state(SMALL, SEED, bridge=None)
    rng = np.random.default_rng(0)
    state = muon.step(state, random_sums(SMALL, rng), exponents(SMALL, -30), rate=0.01)
    for _ in range(900):
        sums = random_sums(SMALL, rng)
        sums["embedding"][7] = 0
        before = state
        state = muon.step(state, sums, exponents(SMALL, -30), rate=0.01)
    old, new = before.tensors["embedding"], state.tensors["embedding"]
    assert old.second is not None
    assert old.second[7] < 2.0**-60 * old.second.max()
    assert np.abs(new.weight[7] - old.weight[7]).max() <= 2.0**-10 * 10 * 0.01 * 2**22


def test_a_weight_beyond_its_grid_is_refused() -> None:
    state = initial_state(SMALL, SEED, bridge=None)
    name = "layer0.query"
    full = np.full((4, 4), muon.WEIGHT_MAX, np.int32) * np.array([[1], [-1], [1], [-1]], np.int32)
    tensors = dict(state.tensors) | {name: replace(state.tensors[name], weight=full)}
    with pytest.raises(OutOfRange, match=name):
        muon.step(
            replace(state, tensors=tensors),
            random_sums(SMALL, np.random.default_rng(0)),
            exponents(SMALL, -30),
            rate=0.01,
        )


def test_a_grid_grows_with_the_longest_vector_that_a_turn_contracts() -> None:
    state = initial_state(SMALL, SEED, bridge=None)
    below, above = math.isqrt(2**61 // 4), math.isqrt(2**61 // 4) + 2**12
    for name, vector in (("layer0.up", np.s_[0, :]), ("layer0.down", np.s_[:, 0]), ("embedding", np.s_[0, :])):
        for value, grown in ((below, 0), (above, 1)):
            w = np.zeros_like(state.tensors[name].weight)
            w[vector] = value
            w[-1, -1] = 3
            t = replace(state.tensors[name], weight=w)
            got = muon.grow_grids(replace(state, tensors=dict(state.tensors) | {name: t})).tensors[name]
            assert got.grid == t.grid - grown
            assert got.weight[-1, -1] == (2 if grown else 3)
            assert got.weight[vector].tolist() == [value // 2 if grown else value] * 4


def test_weights_are_the_nearest_float32() -> None:
    state = initial_state(WIDE, SEED, bridge=None)
    for name, w in muon.weights(state).items():
        t = state.tensors[name]
        assert w.dtype == np.float32
        assert (w == (t.weight.astype(np.float64) * 2.0**-t.grid).astype(np.float32)).all()


# It is Muon


def float_newton_schulz(m: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x = m / np.linalg.norm(m)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.parametrize("size", [(64, 64), (64, 160), (160, 64)])
def test_newton_schulz_is_muons_up_to_rounding(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    m = rng.normal(size=size)
    whole = np.rint(m * 2**29.9 / np.linalg.norm(m))
    expected = float_newton_schulz(m)
    assert np.abs(muon.newton_schulz(whole) * 2.0**-25 - expected).max() < 2e-5


def test_ten_rounds_are_those_of_float_muon() -> None:
    """Weights after ten rounds on one sequence of gradients; momentum and second moments from first principles."""
    rng = np.random.default_rng(3)
    state = initial_state(WIDE, SEED, bridge=None)
    w = {n: t.weight * 2.0**-t.grid for n, t in state.tensors.items()}
    start = dict(w)
    m = {n: np.zeros_like(x) for n, x in w.items()}
    v = {n: np.zeros((len(x), 1)) for n, x in w.items()}
    for _ in range(10):
        g = {n: rng.normal(size=x.shape) * 2.0**-10 for n, x in w.items()}
        sums = {n: muon.add_sums([muon.encode_sum(x, -28)]) for n, x in g.items()}
        state = muon.step(state, sums, exponents(WIDE, -28), rate=0.02)
        for s in WIDE.tensors():
            n = s.name
            m[n] = 0.9 * m[n] + g[n]
            if s.kind == "matrix":
                w[n] = w[n] - 0.02 * max(1, s.rows / s.columns) ** 0.5 * float_newton_schulz(m[n])
            else:
                v[n] = 0.95 * v[n] + 0.05 * (g[n] ** 2).mean(axis=1, keepdims=True)
                scale = 10 * 0.02 if s.kind == "embedding" else 4 * 0.02 / 32**0.5
                w[n] = w[n] - scale * 0.1 * m[n] / v[n] ** 0.5
    for n, t in state.tensors.items():
        moved = np.abs(w[n] - start[n]).max()
        assert np.abs(t.weight * 2.0**-t.grid - w[n]).max() < 1e-4 * moved, n
