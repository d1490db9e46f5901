"""What every fused boundary kernel must do: the frames of `fixed` and `mask`, bit by bit."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interlock.kernels import errors, fixed, mask
from interlock.kernels.errors import NonFinite, OutOfRange

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "mask.json").read_text())
KEY = bytes(range(32))
# The tests are methods of one class that several inherit, of which a session runs one or more.
PROPERTY = settings(
    deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.differing_executors]
)
every_width = pytest.mark.parametrize("width", fixed.WIDTHS)

# A shape is compiled anew by some: a few sizes, with parts of blocks (1024 elements) among them.
SIZES = st.sampled_from([1, 17, 1027])
WIDTHS = st.sampled_from(fixed.WIDTHS)


@st.composite
def cases(draw: Any) -> tuple[np.ndarray, int, int, int]:
    """Values with ties, both ends of the range, subnormals and all else; width, fraction and exponent."""
    width, fraction = draw(WIDTHS), draw(st.integers(0, 20))
    shift = draw(st.sampled_from([12, 7, 0, -20, fixed.SHIFTS.start, fixed.SHIFTS.stop - 1]))
    ties = st.integers(-(2**9), 2**9).map(lambda i: i + 0.5)
    ends = st.builds(
        lambda sign, offset: sign * (2 ** (width - 1) + offset),
        st.sampled_from([-1, 1]),
        st.sampled_from([-128.0, -2.0, -1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.5, 1.0]),
    )
    units = st.one_of(ties, ends).map(lambda units: math.ldexp(units, -shift))
    subnormal = st.integers(-(2**23) + 1, 2**23 - 1).map(lambda i: math.ldexp(i, -149))
    single = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = draw(hnp.arrays(np.float32, draw(SIZES), elements=st.one_of(units, subnormal, single).map(np.float32)))
    return values, width, fraction, fraction - shift


class OnePass:
    """Subclasses give `kernels`, a module, and how it takes numpy arrays."""

    kernels: Any

    def array(self, values: np.ndarray) -> Any:
        """An array of the back end, on the device under test."""
        raise NotImplementedError

    def keystream(self, count: int, *, width: int, key: bytes = KEY) -> Any:
        """A fresh keystream on the device under test."""
        raise NotImplementedError

    def depart(self, values: np.ndarray, *, width: int, **scale: int) -> tuple[np.ndarray, int]:
        """`depart` of a numpy array."""
        return self.kernels.depart(self.array(values), self.keystream(values.size, width=width), **scale)

    def check(self, values: np.ndarray, *, width: int, **scale: int) -> None:
        """Frame and count of one array, and the values that come back, against numpy."""
        encoded = fixed.encode(values, width=width, **scale)
        frame, clamped = self.depart(values, width=width, **scale)
        assert (type(frame), frame.dtype, type(clamped)) == (np.ndarray, np.uint8, int)
        assert clamped == encoded.clamped
        assert frame.tobytes() == mask.mask(encoded.integers, KEY, width=width).tobytes()
        stream = self.keystream(values.size, width=width)
        found = self.kernels.arrive(frame.tobytes(), stream, shape=values.shape, **scale)
        self.equal(found, fixed.decode(encoded.integers, **scale))

    @staticmethod
    def equal(found: Any, expected: np.ndarray) -> None:
        """The same floats, signs of zeros included."""
        array = np.asarray(found if isinstance(found, np.ndarray) or not hasattr(found, "cpu") else found.cpu())
        assert (array.dtype, array.shape) == (np.float32, expected.shape)
        assert array.tobytes() == expected.tobytes()

    @PROPERTY
    @given(cases())
    @example((np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], np.float32), 8, 0, 0))
    @example((np.array([2.0**31, 2.0**31 - 128, -(2.0**31)], np.float32), 32, 0, 0))
    def test_frames_and_values_are_those_of_numpy(self, case):
        values, width, fraction, exponent = case
        self.check(values, width=width, fraction=fraction, exponent=exponent)

    @PROPERTY
    @given(st.data(), SIZES, WIDTHS, st.binary(min_size=32, max_size=32))
    def test_every_frame_is_read_as_numpy_reads_it(self, data, count, width, key):
        frame = data.draw(hnp.arrays(np.uint8, mask.frame_bytes(count, width)))
        shift = data.draw(st.sampled_from([12, fixed.SHIFTS.start, fixed.SHIFTS.stop - 1]))
        expected = fixed.decode(mask.unmask(frame, key, count=count, width=width), fraction=shift)
        stream = self.keystream(count, width=width, key=key)
        self.equal(self.kernels.arrive(frame, stream, shape=(count,), fraction=shift), expected)

    @pytest.mark.parametrize("v", VECTORS["frames"], ids=lambda v: v["name"])
    def test_the_frame_vectors_hold(self, v):
        key, width, count = bytes.fromhex(v["key"]), v["width"], len(v["integers"])
        scale = {"fraction": v["fraction"], "exponent": v["exponent"]}
        values = np.frombuffer(bytes.fromhex(v["values"]), "<f4").astype(np.float32)
        stream = self.keystream(count, width=width, key=key)
        frame, clamped = self.kernels.depart(self.array(values), stream, **scale)
        assert (frame.tobytes().hex(), clamped) == (v["frame"], v["clamped"])
        stream = self.keystream(count, width=width, key=key)
        found = self.kernels.arrive(bytes.fromhex(v["frame"]), stream, shape=(count,), **scale)
        self.equal(found, np.frombuffer(bytes.fromhex(v["decoded"]), "<f4").astype(np.float32))

    @pytest.mark.parametrize("v", VECTORS["failures"], ids=lambda v: v["name"])
    def test_the_failure_vectors_fail(self, v):
        def cross():
            if "values" in v:
                values = np.frombuffer(bytes.fromhex(v["values"]), "<f4").astype(np.float32)
                self.depart(values, width=v["width"], fraction=v["fraction"], exponent=v["exponent"])
            else:
                stream = self.keystream(v["count"], width=v["width"], key=bytes.fromhex(v["key"]))
                self.kernels.arrive(bytes.fromhex(v["frame"]), stream, shape=(v["count"],), fraction=12)

        with pytest.raises(getattr(errors, v["expect"])):
            cross()

    @every_width
    @pytest.mark.parametrize("count", [1024, 1027])
    def test_clamping_in_one_block_leaves_the_others_alone(self, width, count):
        values = np.random.default_rng(count).normal(0, 1, count).astype(np.float32)
        values[[0, count // 2, count - 1]] = 3e38, -3e38, 3.4e38
        self.check(values, width=width, fraction=4)

    @every_width
    @pytest.mark.parametrize("sign", [-1, 1])
    def test_clamping_begins_at_half_a_unit_above_the_largest_integer(self, width, sign):
        limit = 2 ** (width - 1) - 1
        first = np.array([sign * (limit + 0.5)], np.float32)  # 2**31 at width 32
        last = np.nextafter(first, np.float32(0))
        for values, clamped in ((first, 1), (last, 0)):
            assert self.depart(values, width=width, fraction=0)[1] == clamped
            self.check(values, width=width, fraction=0)

    @pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("place", [0, 1023, 1024, 2499])
    def test_a_value_that_is_not_finite_is_refused_wherever_it_stands(self, bad, place):
        values = np.ones(2500, np.float32)
        values[place] = bad
        with pytest.raises(NonFinite, match="got 1 that"):
            self.depart(values, width=24, fraction=12)

    def test_what_is_clamped_does_not_hide_what_is_not_finite(self):
        values = np.full(2500, 3e38, np.float32)
        values[7] = math.nan
        with pytest.raises(NonFinite, match="got 1 that"):
            self.depart(values, width=24, fraction=12)

    @every_width
    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 17)])
    def test_values_of_any_shape_cross_and_come_back_in_it(self, width, shape):
        self.check(np.full(shape, 0.75, np.float32), width=width, fraction=4)

    def test_transposed_values_are_read_in_order(self):
        values = np.arange(24, dtype=np.float32).reshape(4, 6)
        frame, _ = self.kernels.depart(self.array(values).T, self.keystream(24, width=24), fraction=0)
        assert frame.tobytes() == self.depart(np.ascontiguousarray(values.T), width=24, fraction=0)[0].tobytes()

    @every_width
    def test_bytes_of_any_kind_are_frames(self, width):
        values = np.arange(-8, 9, dtype=np.float32)
        frame = self.depart(values, width=width, fraction=0)[0]
        odd = memoryview(b"\0" + frame.tobytes())[1:]  # not aligned to words
        for kind in (frame.tobytes(), bytearray(frame), memoryview(frame), odd):
            found = self.kernels.arrive(kind, self.keystream(17, width=width), shape=(17,), fraction=0)
            self.equal(found, values)

    def test_what_lies_behind_the_values_is_not_read(self):
        values = np.ones(1028, np.float32)
        values[1027] = math.nan
        _, clamped = self.kernels.depart(self.array(values)[:1027], self.keystream(1027, width=24), fraction=12)
        assert clamped == 0

    def test_values_stay_when_the_frame_is_overwritten(self):
        """At a multiple of 64 bytes, which some take for their own memory; large, so that it is read for a while."""
        values, memory = np.resize(np.arange(-64, 64, dtype=np.float32), 1 << 18), np.empty((1 << 18) + 64, np.uint8)
        frame = memory[-memory.ctypes.data % 64 :][: values.size]
        frame[:] = self.depart(values, width=8, fraction=0)[0]
        found = self.kernels.arrive(frame, self.keystream(values.size, width=8), shape=values.shape, fraction=0)
        frame[:] = 0
        self.equal(found, values)

    def test_a_keystream_serves_once(self):
        values = np.ones(5, np.float32)
        stream = self.keystream(5, width=24)
        frame, _ = self.kernels.depart(self.array(values), stream, fraction=12)
        with pytest.raises(OutOfRange, match="served"):
            self.kernels.depart(self.array(values), stream, fraction=12)
        with pytest.raises(OutOfRange, match="served"):
            self.kernels.arrive(frame, stream, shape=(5,), fraction=12)

    @pytest.mark.parametrize("wrong", [{"fraction": 126}, {"fraction": -97}, {"exponent": 109}, {"exponent": -114}])
    def test_scales_outside_the_format_are_refused(self, wrong):
        scale = {"fraction": 12, "exponent": 0} | wrong
        with pytest.raises(OutOfRange):
            self.depart(np.ones(5, np.float32), width=24, **scale)
        with pytest.raises(OutOfRange):
            self.kernels.arrive(bytes(15), self.keystream(5, width=24), shape=(5,), **scale)

    @pytest.mark.parametrize("width", [0, 4, 12, 48, -8])
    def test_a_width_that_the_format_lacks_is_refused(self, width):
        with pytest.raises(OutOfRange):
            self.keystream(5, width=width)

    @pytest.mark.parametrize("size", [0, 16, 31, 33])
    def test_a_key_of_the_wrong_length_is_refused(self, size):
        with pytest.raises(OutOfRange):
            self.keystream(5, width=24, key=bytes(size))

    @pytest.mark.parametrize("count", [-1, 4, 6])
    def test_a_keystream_of_another_count_is_refused(self, count):
        with pytest.raises(OutOfRange):
            self.kernels.depart(self.array(np.ones(5, np.float32)), self.keystream(count, width=24), fraction=12)

    @pytest.mark.parametrize("shape", [(4,), (2, 3), ()])
    def test_a_shape_of_another_count_is_refused(self, shape):
        with pytest.raises(OutOfRange):
            self.kernels.arrive(bytes(15), self.keystream(5, width=24), shape=shape, fraction=12)

    @every_width
    @pytest.mark.parametrize("off", [-1, 1])
    def test_a_frame_of_the_wrong_length_is_refused(self, width, off):
        wrong = bytes(mask.frame_bytes(5, width) + off)
        with pytest.raises(OutOfRange):
            self.kernels.arrive(wrong, self.keystream(5, width=width), shape=(5,), fraction=12)

    @pytest.mark.parametrize("dtype", [np.int32, np.uint8])
    def test_what_is_not_a_float_of_at_most_32_bits_is_refused(self, dtype):
        with pytest.raises(OutOfRange):
            self.depart(np.ones(5, dtype), width=24, fraction=12)
