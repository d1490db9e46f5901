"""Turns are orthogonal, exact, checked, and a step in a turned basis is the turned step."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.kernels import basis, muon
from interlock.kernels.errors import NotExact, OutOfRange
from interlock.kernels.initial import initial_state
from interlock.kernels.state import Int32, Int64, StageShape, StageState, TensorShape

SEED = bytes(range(32))
D = 32
FIRST = StageShape(width=D, heads=2, layers=1, hidden=48, mlp="swiglu", first=True)
LAST = StageShape(width=D, heads=2, layers=1, hidden=48, last=True)
Float64 = npt.NDArray[np.float64]


def drawn(number: int, d: int = D) -> Int32:
    return basis.quantise_turn(basis.haar(number.to_bytes(32, "big"), d))


def stage(shape: StageShape, number: int = 7) -> StageState:
    """A stage after one step, so that momentum and second moments are not empty."""
    g = None if shape.first else basis.quantise_bridge(basis.haar(number.to_bytes(32, "big"), shape.width))
    state = initial_state(shape, SEED, bridge=g)
    rng = np.random.default_rng(number)
    return muon.step(state, sums_of(gradients(shape, rng)), at(shape), rate=0.02)


def gradients(shape: StageShape, rng: np.random.Generator) -> dict[str, Float64]:
    return {s.name: rng.normal(size=(s.rows, s.columns)) * 2.0**-11 for s in shape.tensors()}


def sums_of(gradients: dict[str, Float64]) -> dict[str, Int64]:
    return {n: muon.add_sums([muon.encode_sum(g, -30)]) for n, g in gradients.items()}


def at(shape: StageShape) -> dict[str, int]:
    return {s.name: -30 for s in shape.tensors()}


def turned_float(spec: TensorShape, x: Float64, a: Float64) -> Float64:
    return x @ a.T if spec.side == "reads" else a @ x


# Drawing


@pytest.mark.parametrize("d", [1, 2, 33])
def test_a_drawn_matrix_is_orthogonal_and_its_seed_fixes_it(d: int) -> None:
    a = basis.haar(SEED, d)
    assert np.abs(a @ a.T - np.eye(d)).max() < 1e-13
    assert np.abs(a - basis.haar(SEED, d)).max() < 1e-12
    assert d == 1 or np.abs(a - basis.haar(bytes(32), d)).max() > 0.1


def test_draws_follow_haar_measure() -> None:
    """Of O(3): entries uniform in [-1, 1], traces with mean 0 and variance 1, either determinant alike."""
    n = 3000
    draws = np.array([basis.haar(i.to_bytes(32, "big"), 3) for i in range(n)])
    for entry in draws.reshape(n, 9).T:
        distance = np.abs(np.sort(entry) - np.linspace(-1, 1, n)).max() / 2
        assert distance < 1.95 / n**0.5  # Kolmogorov's, at 0.1 %
    trace = np.trace(draws, axis1=1, axis2=2)
    assert abs(trace.mean()) < 4 / n**0.5
    assert abs(trace.var() - 1) < 0.15
    assert abs(np.mean(np.linalg.det(draws))) < 4 / n**0.5


@pytest.mark.parametrize("d", [1, 16, 256])
def test_quantised_draws_pass_their_checks(d: int) -> None:
    a = drawn(3, d)
    basis.verify_turn(a)
    basis.verify_drawn(a, (3).to_bytes(32, "big"))


def test_a_draw_may_be_off_by_one_unit_and_not_by_two() -> None:
    a = drawn(3)
    for off, passes in ((1, True), (-1, True), (2, False), (-2, False)):
        b = a.copy()
        b[4, 5] += off
        if passes:
            basis.verify_drawn(b, (3).to_bytes(32, "big"))
        else:
            with pytest.raises(OutOfRange):
                basis.verify_drawn(b, (3).to_bytes(32, "big"))
    with pytest.raises(OutOfRange):
        basis.verify_drawn(a, (4).to_bytes(32, "big"))


def test_what_is_not_orthogonal_is_refused() -> None:
    eye = np.eye(D, dtype=np.int32) * 2**22
    basis.verify_turn(eye)
    shear, long, short, wrapped = eye.copy(), eye.copy(), eye.copy(), eye.copy()
    shear[0, 1] = 9  # (A A^T)_01 = 9 x 2**-22 > 2**-19 = 8 x 2**-22
    long[2, 2] += 5
    short[2, 2] -= 5
    wrapped[...] = 2**31 - 1
    for bad in (shear, long, short, wrapped, eye[1:], eye.astype(np.int64), np.zeros_like(eye)):
        with pytest.raises(OutOfRange):
            basis.verify_turn(bad)  # type: ignore[arg-type]
    shear[0, 1] = 8
    basis.verify_turn(shear)


# Turning


def test_turning_equals_python_integers() -> None:
    shape = StageShape(width=4, heads=1, layers=1, hidden=6, last=True)
    state = stage(shape)
    own, before = drawn(1, 4), drawn(2, 4)
    got = basis.turn(state, own, turn_before=before)

    def shifted(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
        def half_even(n: int) -> int:
            q, r = divmod(n, 2**22)
            return q + (r > 2**21 or (r == 2**21 and q % 2 == 1))

        return [[half_even(sum(x * y for x, y in zip(r, c, strict=True))) for c in zip(*b, strict=True)] for r in a]

    a = own.tolist()
    for spec in shape.tensors():
        for field in ("weight", "momentum"):
            x = getattr(state.tensors[spec.name], field).tolist()
            expected = shifted(x, own.T.tolist()) if spec.side == "reads" else shifted(a, x)
            assert getattr(got.tensors[spec.name], field).tolist() == expected
    assert state.bridge is not None
    assert got.bridge is not None
    assert got.bridge.tolist() == shifted(shifted(a, state.bridge.tolist()), before.T.tolist())


def test_a_turn_keeps_all_that_does_not_depend_on_the_basis() -> None:
    state = stage(LAST)
    got = basis.turn(state, drawn(1), turn_before=drawn(2))
    assert got.round == state.round
    for name, t in got.tensors.items():
        old = state.tensors[name]
        assert (t.grid, t.momentum_exponent, t.sum_exponent) == (
            old.grid,
            old.momentum_exponent,
            old.sum_exponent,
        )
        assert t.second is old.second
        assert not (t.weight == old.weight).all()


def test_only_what_a_turn_touches_changes() -> None:
    state = stage(LAST)
    assert basis.turn(state, None, turn_before=None).digest() == state.digest()
    moved = basis.turn(state, None, turn_before=drawn(2))
    assert replace(moved, bridge=state.bridge).digest() == state.digest()
    assert moved.bridge is not None
    assert state.bridge is not None
    assert not np.array_equal(moved.bridge, state.bridge)


def test_the_stages_agree_through_the_turned_bridge() -> None:
    """What D computes from U's output is the same function in any pair of bases."""
    up, down = stage(FIRST), stage(LAST)
    a_up, a_down = drawn(1), drawn(2)
    up2 = basis.turn(up, a_up, turn_before=None)
    down2 = basis.turn(down, a_down, turn_before=a_up)

    def through(u: StageState, v: StageState) -> Float64:
        assert v.bridge is not None
        stream = u.tensors["layer0.down"].weight * 2.0**-24
        out: Float64 = (v.tensors["layer0.query"].weight * 2.0**-24) @ (v.bridge * 2.0**-29) @ stream
        return out

    assert np.abs(through(up2, down2) - through(up, down)).max() < 3e-6


def test_turns_that_do_not_fit_are_refused() -> None:
    state = stage(FIRST)
    with pytest.raises(OutOfRange, match="first stage"):
        basis.turn(state, None, turn_before=drawn(1))
    with pytest.raises(OutOfRange, match="width"):
        basis.turn(state, drawn(1, 16), turn_before=None)
    with pytest.raises(OutOfRange):
        basis.turn(state, drawn(1) * 2, turn_before=None)


def test_a_weight_too_long_to_turn_exactly_is_refused_until_its_grid_grows() -> None:
    state = stage(FIRST)
    t = state.tensors["layer0.query"]
    w = t.weight.copy()
    w[0] = 2**29
    state = replace(state, tensors=dict(state.tensors) | {"layer0.query": replace(t, weight=w)})
    with pytest.raises(NotExact):
        basis.turn(state, drawn(1), turn_before=None)
    grown = muon.grow_grids(muon.grow_grids(state))
    got = basis.turn(grown, drawn(1), turn_before=None).tensors["layer0.query"]
    assert np.linalg.norm(got.weight[0] * 2.0**-got.grid) == pytest.approx(2**5 * D**0.5, rel=1e-5)


def test_singular_values_survive_five_hundred_turns() -> None:
    """A random walk of about `0.8 x 2**-22 sqrt(d turns)`, relative; three times that is allowed."""
    turns = 500
    state = stage(LAST)
    start = state
    for i in range(turns):
        state = basis.turn(state, drawn(i), turn_before=drawn(i + 1))
    bound = 3 * 0.8 * 2.0**-22 * (D * turns) ** 0.5
    for name, t in state.tensors.items():
        for x, y in ((t.weight, start.tensors[name].weight), (t.momentum, start.tensors[name].momentum)):
            before = np.linalg.svd(y.astype(np.float64), compute_uv=False)
            after = np.linalg.svd(x.astype(np.float64), compute_uv=False)
            assert np.abs(after - before).max() <= bound * before[0], name
    assert state.bridge is not None
    assert np.abs(np.linalg.svd(state.bridge * 2.0**-29, compute_uv=False) - 1).max() < 2 * bound


# Training is equivariant


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**64 - 1), st.sampled_from([FIRST, LAST]), st.integers(1, 4))
def test_turn_then_step_is_step_then_turn(number: int, shape: StageShape, rounds: int) -> None:
    """To 2e-4 of the update's largest entry: roundings on 2**-25, times Newton-Schulz's gain for small values."""
    rng = np.random.default_rng(number)
    a = drawn(number)
    real = np.ldexp(a.astype(np.float64), -22)
    state = stage(shape, number % 1000)
    turned = basis.turn(state, a, turn_before=None)
    start = turned
    for _ in range(rounds):
        g = gradients(shape, rng)
        h = {s.name: turned_float(s, g[s.name], real) for s in shape.tensors()}
        state = muon.step(state, sums_of(g), at(shape), rate=0.02)
        turned = muon.step(turned, sums_of(h), at(shape), rate=0.02)
    expected = basis.turn(state, a, turn_before=None)
    for name, t in turned.tensors.items():
        e, s = expected.tensors[name], start.tensors[name]
        update = np.abs(e.weight.astype(np.int64) - s.weight).max()
        assert np.abs(t.weight.astype(np.int64) - e.weight).max() <= 2e-4 * update, name
        scale = np.abs(e.momentum).max()
        difference = t.momentum * 2.0 ** (t.momentum_exponent - e.momentum_exponent) - e.momentum
        assert np.abs(difference).max() <= 1e-5 * scale, name
        if e.second is not None and t.second is not None:
            assert np.allclose(t.second, e.second, rtol=1e-5, atol=0)


def test_an_update_by_element_would_not_be_equivariant() -> None:
    """The tolerance above is not empty: signs of momentum, which depend on the basis, miss it a thousandfold."""
    rng = np.random.default_rng(0)
    a = drawn(0) * 2.0**-22
    g = rng.normal(size=(D, D))
    assert np.abs(np.sign(g) @ a.T - np.sign(g @ a.T)).max() > 0.2
