"""Fixed point against Python's fractions, on every back end."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interlock.kernels import fixed, mask_jax, mask_torch
from interlock.kernels.errors import NonFinite, OutOfRange

# The three functions `encode`, from and to numpy.
BACK_ENDS = {
    "numpy": fixed.encode,
    "torch": lambda x, **k: mask_torch.encode(torch.from_numpy(x), **k),
    "jax": lambda x, **k: mask_jax.encode(jnp.asarray(x), **k),
}
DECODERS = {
    "numpy": fixed.decode,
    "torch": lambda x, **k: mask_torch.decode(torch.from_numpy(x), **k).numpy(),
    "jax": lambda x, **k: np.asarray(mask_jax.decode(jnp.asarray(x), **k)),
}
WIDTHS = st.sampled_from(fixed.WIDTHS)
SCALES = st.one_of(  # (fraction, exponent)
    st.sampled_from([(12, 0), (7, 0), (3, 0), (0, 0)]),
    st.builds(
        lambda fraction, shift: (fraction, fraction - shift),
        st.integers(0, 20),
        st.sampled_from(fixed.SHIFTS),
    ),
)
TIES = st.integers(-(2**9), 2**9).map(lambda i: (i + 0.5) * 2.0**-12)
RANGE_ENDS = st.builds(
    lambda width, offset, sign: sign * math.ldexp(2 ** (width - 1) + offset, -12),
    WIDTHS,
    st.sampled_from([-2.0, -1.5, -1.0, -0.5, -0.25, 0.0, 0.5, 1.0]),
    st.sampled_from([-1, 1]),
)
SUBNORMALS = st.integers(-(2**23) + 1, 2**23 - 1).map(lambda i: math.ldexp(i, -149))
SINGLES = st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), TIES, RANGE_ENDS, SUBNORMALS).map(
    np.float32
)

PROPERTY = settings(deadline=None, derandomize=True)


def exact_encoding(values, width, fraction, exponent):
    """Integers and their clamped count, by rational arithmetic."""
    limit = 2 ** (width - 1) - 1
    rounded = [round(Fraction(float(v)) * Fraction(2) ** (fraction - exponent)) for v in values.reshape(-1)]
    clipped = [max(-limit, min(limit, i)) for i in rounded]
    return np.array(clipped, np.int32).reshape(values.shape), sum(abs(i) > limit for i in rounded)


@pytest.mark.parametrize("name", BACK_ENDS)
@PROPERTY
@given(st.lists(SINGLES, min_size=8, max_size=8), WIDTHS, SCALES)
def test_encoding_is_rational_rounding_on_every_back_end(name, values, width, scale):
    values = np.array(values, np.float32).reshape(2, 4)
    found = BACK_ENDS[name](values, width=width, fraction=scale[0], exponent=scale[1])
    integers, clamped = exact_encoding(values, width, *scale)
    assert found.clamped == clamped
    assert np.asarray(found.integers).dtype == np.int32
    np.testing.assert_array_equal(found.integers, integers)


@pytest.mark.parametrize("name", ["numpy", "torch"])
@PROPERTY
@given(
    hnp.arrays(np.float64, 8, elements=st.one_of(st.floats(-(2.0**31), 2.0**31), SINGLES.map(float))),
    WIDTHS,
    st.sampled_from(fixed.SHIFTS),
)
@example(np.array([2.0**31 - 0.5, 2.0**31 - 0.75, -(2.0**31) + 0.5, 1.7e308, -5e-324, 0.5, 1.5, 2.5]), 32, 0)
@example(np.array([2.0**31 - 0.5, 2.0**31 - 0.75, -(2.0**31) + 0.5, 1.7e308, -5e-324, 0.5, 1.5, 2.5]), 32, 125)
def test_float64_is_rounded_once_at_every_scale(name, values, width, shift):
    found = BACK_ENDS[name](values, width=width, fraction=0, exponent=-shift)
    integers, clamped = exact_encoding(values, width, shift, 0)
    assert found.clamped == clamped
    np.testing.assert_array_equal(found.integers, integers)


@PROPERTY
@given(hnp.arrays(np.float64, 4, elements=st.floats(-(2.0**31), 2.0**31)), WIDTHS)
def test_jax_with_x64_rounds_float64_once(values, width):
    with jax.enable_x64(True):
        found = mask_jax.encode(jnp.asarray(values), width=width, fraction=12)
        integers, clamped = exact_encoding(values, width, 12, 0)
        assert found.clamped == clamped
        np.testing.assert_array_equal(found.integers, integers)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@PROPERTY
@given(bits=hnp.arrays(np.uint16, 8), width=WIDTHS)
def test_half_precision_is_widened_exactly(dtype, bits, width):
    halves = torch.from_numpy(bits.view(np.int16)).view(getattr(torch, dtype))
    halves = torch.where(torch.isfinite(halves), halves, torch.ones_like(halves))
    wide = halves.to(torch.float32).numpy()
    integers, clamped = exact_encoding(wide, width, 12, 0)
    encoded = [mask_torch.encode(halves, width=width, fraction=12)]
    bits = halves.view(torch.int16).numpy()
    encoded.append(mask_jax.encode(jnp.asarray(bits).view(getattr(jnp, dtype)), width=width, fraction=12))
    if dtype == "float16":
        encoded.append(fixed.encode(bits.view(np.float16), width=width, fraction=12))
    for found in encoded:
        assert found.clamped == clamped
        np.testing.assert_array_equal(found.integers, integers)


@pytest.mark.parametrize("name", DECODERS)
@PROPERTY
@given(hnp.arrays(np.int32, (2, 4)), SCALES)
def test_decoding_rounds_once_on_every_back_end(name, integers, scale):
    found = DECODERS[name](integers, fraction=scale[0], exponent=scale[1])
    with np.errstate(all="raise"):
        # An int32 and its product with a power of two are exact in float64: the cast is the one rounding.
        expected = np.ldexp(integers.astype(np.float64), scale[1] - scale[0]).astype(np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("shift", [fixed.SHIFTS.start, fixed.SHIFTS.stop - 1])
def test_decoding_at_the_ends_of_the_scale_is_finite_and_normal(name, shift):
    integers = np.array([-(2**31), -1, 0, 1, 2**31 - 1], np.int32)
    found = DECODERS[name](integers, fraction=shift)
    np.testing.assert_array_equal(found, np.ldexp(integers.astype(np.float64), -shift).astype(np.float32))
    assert np.isfinite(found).all()
    assert np.abs(found[found != 0]).min() >= np.finfo(np.float32).smallest_normal


@pytest.mark.parametrize("name", BACK_ENDS)
@PROPERTY
@given(st.lists(st.integers(-(2**23) + 1, 2**23 - 1), min_size=4, max_size=4))
def test_integers_of_24_bits_survive_decoding_and_encoding(name, integers):
    integers = np.array(integers, np.int32)
    found = BACK_ENDS[name](DECODERS[name](integers, fraction=12), width=24, fraction=12)
    assert found.clamped == 0
    np.testing.assert_array_equal(found.integers, integers)


@pytest.mark.parametrize("name", BACK_ENDS)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 32767, 32768, 69999])
def test_a_value_that_is_not_finite_is_refused_wherever_it_stands(name, bad, place):
    values = np.ones(70000, np.float32)
    values[place] = bad
    with pytest.raises(NonFinite):
        BACK_ENDS[name](values, width=24, fraction=12)


@pytest.mark.parametrize("name", BACK_ENDS)
def test_a_finite_value_that_overflows_when_scaled_is_clamped(name):
    values = np.array([3.4e38, -3.4e38, 1.0], np.float32)
    found = BACK_ENDS[name](values, width=32, fraction=20)
    assert found.clamped == 2
    np.testing.assert_array_equal(found.integers, [2**31 - 1, -(2**31) + 1, 2**20])


@pytest.mark.parametrize("name", BACK_ENDS)
@pytest.mark.parametrize("width", fixed.WIDTHS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_clamping_begins_at_half_a_unit_above_the_largest_integer(name, width, sign):
    """Alone in its array, because a larger neighbour would have the array searched anyway."""
    limit = 2 ** (width - 1) - 1
    first = np.array([sign * (limit + 0.5)], np.float32)  # 2**31 at width 32
    last = np.nextafter(first, np.float32(0))
    found = BACK_ENDS[name](first, width=width, fraction=0)
    assert (np.asarray(found.integers).tolist(), found.clamped) == ([sign * limit], 1)
    found = BACK_ENDS[name](last, width=width, fraction=0)
    assert (np.asarray(found.integers).tolist(), found.clamped) == ([round(float(last[0]))], 0)


@pytest.mark.parametrize("name", BACK_ENDS)
@pytest.mark.parametrize("width", fixed.WIDTHS)
def test_clamping_in_one_block_leaves_the_others_alone(name, width):
    values = np.random.default_rng(1).normal(0, 1, 100_000).astype(np.float32)
    values[40_000] = 3e38
    found = BACK_ENDS[name](values, width=width, fraction=4)
    rounded = np.rint(values.astype(np.float64) * 16)  # exact: these are far inside float64's range
    limit = 2 ** (width - 1) - 1
    assert found.clamped == np.count_nonzero(np.abs(rounded) > limit) >= 1
    np.testing.assert_array_equal(found.integers, np.clip(rounded, -limit, limit))


@pytest.mark.parametrize("name", BACK_ENDS)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 3, 4)])
def test_shapes_are_kept(name, shape):
    found = BACK_ENDS[name](np.full(shape, 0.5, np.float32), width=16, fraction=7)
    assert found.integers.shape == shape
    assert found.clamped == 0
    np.testing.assert_array_equal(found.integers, np.full(shape, 64))


def test_strided_values_are_read_in_order():
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (values.T, values.T[::2]):
        np.testing.assert_array_equal(fixed.encode(view, width=8, fraction=0).integers, view)
    tensor = torch.from_numpy(values).T[:3]
    np.testing.assert_array_equal(fixed.encode(tensor, width=8, fraction=0).integers, values.T[:3])


@pytest.mark.parametrize("name", BACK_ENDS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 12},
        {"width": 0},
        {"width": 64},
        {"fraction": 126},
        {"fraction": -97},
        {"exponent": 109},
        {"exponent": -114},
    ],
)
def test_parameters_outside_the_format_are_refused(name, wrong):
    right = {"width": 24, "fraction": 12, "exponent": 0}
    with pytest.raises(OutOfRange):
        BACK_ENDS[name](np.ones(1, np.float32), **(right | wrong))
    if "width" not in wrong:
        del right["width"]
        with pytest.raises(OutOfRange):
            DECODERS[name](np.ones(1, np.int32), **(right | wrong))
