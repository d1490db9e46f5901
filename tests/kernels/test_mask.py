"""Frames against Python integers, on every back end, and the vectors that fix the format.

`python tests/kernels/test_mask.py` writes the vectors anew; other bytes are another wire format.
"""

import functools
import json
import math
import random
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interlock.kernels import errors, fixed, mask, mask_jax, mask_torch
from interlock.kernels.errors import OutOfRange

VECTORS = Path(__file__).parents[1] / "vectors" / "mask.json"
PROPERTY = settings(deadline=None, derandomize=True)


class BackEnd(NamedTuple):
    """A module's functions under one name, and how it takes a numpy array."""

    encode: Any
    decode: Any
    mask: Any
    unmask: Any
    difference: Any
    array: Any


def back_end(codec, masks, array):
    return BackEnd(codec.encode, codec.decode, masks.mask, masks.unmask, masks.difference, array)


BACK_ENDS = {
    "numpy": back_end(fixed, mask, np.asarray),
    "torch": back_end(mask_torch, mask_torch, torch.from_numpy),
    "jax": back_end(mask_jax, mask_jax, jnp.asarray),
}
every_back_end = pytest.mark.parametrize("b", BACK_ENDS.values(), ids=BACK_ENDS)
WIDTHS = st.sampled_from(fixed.WIDTHS)
KEYS = st.binary(min_size=32, max_size=32)
# A shape is compiled anew by jax: a few sizes, odd ones among them, where it takes part.
INTEGERS = st.sampled_from([1, 2, 17]).flatmap(lambda n: hnp.arrays(np.int32, n))


# ---- The oracle: bytes and Python integers, one word at a time.


def oracle_keystream(key, size):
    """Encrypt the block numbers 0, 1, ... one by one: counter mode by its definition."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return b"".join(block.update(i.to_bytes(16, "big")) for i in range(-(-size // 16)))[:size]


def oracle_words(frame, count, width):
    if width == 24:
        low, high = frame[: 2 * count], frame[2 * count :]
        return [int.from_bytes(low[2 * i : 2 * i + 2], "little") + 65536 * high[i] for i in range(count)]
    size = width // 8
    return [int.from_bytes(frame[size * i : size * (i + 1)], "little") for i in range(count)]


def oracle_frame(words, width):
    if width == 24:
        return b"".join((w % 65536).to_bytes(2, "little") for w in words) + bytes(w >> 16 for w in words)
    return b"".join(w.to_bytes(width // 8, "little") for w in words)


def oracle_mask(integers, key, width):
    stream = oracle_words(oracle_keystream(key, len(integers) * width // 8), len(integers), width)
    return oracle_frame([(i + k) % 2**width for i, k in zip(integers, stream, strict=True)], width)


def signed(words, width):
    return [(w + 2 ** (width - 1)) % 2**width - 2 ** (width - 1) for w in words]


def oracle_encode(values, width, fraction, exponent):
    limit = 2 ** (width - 1) - 1
    rounded = [round(Fraction(v) * Fraction(2) ** (fraction - exponent)) for v in values]
    return [max(-limit, min(limit, i)) for i in rounded], sum(abs(i) > limit for i in rounded)


def oracle_decode(integers, fraction, exponent):
    """Bytes of float32 values: an int32 times a power of two is exact in float64, packing rounds it."""
    return struct.pack(f"<{len(integers)}f", *(math.ldexp(i, exponent - fraction) for i in integers))


# ---- Properties.


@every_back_end
@PROPERTY
@given(INTEGERS, KEYS, WIDTHS)
def test_a_frame_is_integers_plus_keystream_in_planes(b, integers, key, width):
    frame = np.asarray(b.mask(b.array(integers), key, width=width))
    assert frame.dtype == np.uint8
    assert frame.tobytes() == oracle_mask(integers.tolist(), key, width)


@every_back_end
@PROPERTY
@given(INTEGERS, KEYS, WIDTHS)
def test_unmasking_gives_the_integers_back(b, integers, key, width):
    frame = b.mask(b.array(integers), key, width=width)
    found = np.asarray(b.unmask(frame, key, count=integers.size, width=width))
    assert found.dtype == np.int32
    assert found.tolist() == signed([int(i) % 2**width for i in integers], width)


@every_back_end
@PROPERTY
@given(st.sampled_from([2, 17]), st.data(), KEYS, WIDTHS)
def test_masks_cancel_in_the_difference_of_frames(b, count, data, key, width):
    x, y = (data.draw(hnp.arrays(np.int32, count)) for _ in range(2))
    frames = [b.mask(b.array(a), key, width=width) for a in (x, y)]
    found = np.asarray(b.difference(*frames, count=count, width=width))
    assert found.dtype == np.int32
    assert found.tolist() == signed([(int(i) - int(j)) % 2**width for i, j in zip(x, y, strict=True)], width)


@functools.cache
def large_case(count, width):
    """Integers and their frame by the oracle; more than one block's."""
    integers = np.random.default_rng(count).integers(-(2**31), 2**31, count, dtype=np.int32)
    return integers, oracle_mask(integers.tolist(), bytes(range(32)), width)


@every_back_end
@pytest.mark.parametrize("width", fixed.WIDTHS)
@pytest.mark.parametrize("count", [32768, 65537])
def test_frames_larger_than_a_block_are_the_same(b, width, count):
    integers, expected = large_case(count, width)
    frame = b.mask(b.array(integers), bytes(range(32)), width=width)
    assert np.asarray(frame).tobytes() == expected
    found = np.asarray(b.unmask(frame, bytes(range(32)), count=count, width=width))
    np.testing.assert_array_equal(found, integers << (32 - width) >> (32 - width))


@PROPERTY
@given(KEYS, st.integers(0, 100))
def test_the_keystream_is_counter_mode_from_block_zero(key, size):
    assert mask.keystream(key, size).tobytes() == oracle_keystream(key, size)


def test_the_keystream_does_not_break_between_pieces():
    key = bytes(32)
    assert mask.keystream(key, 300_001).tobytes() == oracle_keystream(key, 300_001)


def test_the_keystream_of_the_zero_key_is_the_published_block():
    """AES-256 of the zero block under the zero key.

    Source: McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", appendix B, test case 13 (H).
    """
    assert mask.keystream(bytes(32), 16).tobytes().hex() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize("width", fixed.WIDTHS)
def test_bytes_of_any_kind_are_frames(width):
    integers, key = np.arange(-3, 4, dtype=np.int32), bytes(range(32))
    frame = mask.mask(integers, key, width=width)
    odd = memoryview(b"\0" + frame.tobytes())[1:]  # not aligned to words
    for kind in (frame.tobytes(), bytearray(frame), memoryview(frame), odd):
        np.testing.assert_array_equal(mask.unmask(kind, key, count=7, width=width), integers)


@every_back_end
def test_integers_of_any_shape_are_read_in_order(b):
    integers, key = np.arange(12, dtype=np.int32).reshape(3, 4), bytes(32)
    flat = np.asarray(b.mask(b.array(integers.T.reshape(-1)), key, width=24))
    np.testing.assert_array_equal(np.asarray(b.mask(b.array(integers).T, key, width=24)), flat)


@every_back_end
@pytest.mark.parametrize("width", fixed.WIDTHS)
def test_an_empty_frame_is_a_frame(b, width):
    frame = b.mask(b.array(np.empty(0, np.int32)), bytes(32), width=width)
    assert frame.shape == (0,)
    assert b.unmask(frame, bytes(32), count=0, width=width).shape == (0,)


@every_back_end
@pytest.mark.parametrize("width", fixed.WIDTHS)
@pytest.mark.parametrize("off", [-1, 1])
def test_a_frame_of_the_wrong_length_is_refused(b, width, off):
    right = b.array(np.zeros(mask.frame_bytes(5, width), np.uint8))
    wrong = b.array(np.zeros(mask.frame_bytes(5, width) + off, np.uint8))
    with pytest.raises(OutOfRange):
        b.unmask(wrong, bytes(32), count=5, width=width)
    for pair in ((right, wrong), (wrong, right)):
        with pytest.raises(OutOfRange):
            b.difference(*pair, count=5, width=width)


@every_back_end
@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_the_wrong_length_is_refused(b, size):
    with pytest.raises(OutOfRange):
        b.mask(b.array(np.zeros(3, np.int32)), bytes(size), width=24)
    with pytest.raises(OutOfRange):
        b.unmask(b.array(np.zeros(9, np.uint8)), bytes(size), count=3, width=24)


@every_back_end
@pytest.mark.parametrize("width", [0, 4, 12, 48, -8])
def test_a_width_that_the_format_lacks_is_refused(b, width):
    with pytest.raises(OutOfRange):
        b.mask(b.array(np.zeros(2, np.int32)), bytes(32), width=width)
    with pytest.raises(OutOfRange):
        b.unmask(b.array(np.zeros(2, np.uint8)), bytes(32), count=2, width=width)


def test_a_negative_count_or_size_is_refused():
    with pytest.raises(OutOfRange):
        mask.frame_bytes(-1, 24)
    with pytest.raises(OutOfRange):
        mask.keystream(bytes(32), -1)


@every_back_end
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_what_is_not_int32_is_not_masked(b, dtype):
    with pytest.raises(OutOfRange):
        b.mask(b.array(np.zeros(2, dtype)), bytes(32), width=24)


@pytest.mark.parametrize("b", [BACK_ENDS["torch"], BACK_ENDS["jax"]], ids=["torch", "jax"])
@pytest.mark.parametrize("array", [np.zeros(3, np.int8), np.zeros(3, np.float32), np.zeros((3, 1), np.uint8)])
def test_what_is_not_a_row_of_bytes_is_no_frame(b, array):
    with pytest.raises(OutOfRange):
        b.unmask(b.array(array), bytes(32), count=3, width=8)


# ---- Vectors. Bytes stand in hexadecimal, floats as the bytes of little-endian float32.


def singles(text):
    return np.frombuffer(bytes.fromhex(text), "<f4").astype(np.float32)


def vectors():
    return json.loads(VECTORS.read_text())


@every_back_end
@pytest.mark.parametrize("v", vectors()["frames"] if VECTORS.exists() else [], ids=lambda v: v["name"])
def test_every_back_end_passes_the_frame_vectors(b, v):
    key, width, count = bytes.fromhex(v["key"]), v["width"], len(v["integers"])
    scale = {"fraction": v["fraction"], "exponent": v["exponent"]}
    values = singles(v["values"])
    encoded = b.encode(b.array(values), width=width, **scale)
    assert np.asarray(encoded.integers).tolist() == v["integers"]
    assert encoded.clamped == v["clamped"]
    frame = b.mask(encoded.integers, key, width=width)
    assert np.asarray(frame).tobytes().hex() == v["frame"]
    found = b.unmask(frame, key, count=count, width=width)
    assert np.asarray(found).tolist() == v["integers"]
    assert np.asarray(b.decode(found, **scale)).tobytes().hex() == v["decoded"]
    other = b.array(np.frombuffer(bytearray.fromhex(v["other_frame"]), np.uint8))
    assert np.asarray(b.difference(frame, other, count=count, width=width)).tolist() == v["difference"]


@every_back_end
@pytest.mark.parametrize("v", vectors()["failures"] if VECTORS.exists() else [], ids=lambda v: v["name"])
def test_every_back_end_fails_the_failure_vectors(b, v):
    expected = getattr(errors, v["expect"])
    if "values" in v:
        values = singles(v["values"])
        with pytest.raises(expected):
            b.encode(b.array(values), width=v["width"], fraction=v["fraction"], exponent=v["exponent"])
    else:
        frame = b.array(np.frombuffer(bytearray.fromhex(v["frame"]), np.uint8))
        with pytest.raises(expected):
            b.unmask(frame, bytes.fromhex(v["key"]), count=v["count"], width=v["width"])


def test_the_oracle_makes_the_stored_vectors():
    assert make_vectors() == vectors()


def frame_vector(name, width, fraction, exponent, values, key):
    packed = struct.pack(f"<{len(values)}f", *values)
    integers, clamped = oracle_encode(struct.unpack(f"<{len(values)}f", packed), width, fraction, exponent)
    frame = oracle_mask(integers, key, width)
    other = [(7919 * i + 2 ** (width - 1)) % 2**width for i in range(len(values))]
    return {
        "name": name,
        "width": width,
        "fraction": fraction,
        "exponent": exponent,
        "key": key.hex(),
        "values": packed.hex(),
        "integers": integers,
        "clamped": clamped,
        "frame": frame.hex(),
        "decoded": oracle_decode(integers, fraction, exponent).hex(),
        "other_frame": oracle_mask(other, key, width).hex(),
        "difference": signed([(i - j) % 2**width for i, j in zip(integers, other, strict=True)], width),
    }


def make_vectors():
    """Make all vectors with the oracle alone."""
    draw = random.Random(1)
    frames = []
    for width, fraction in ((8, 3), (16, 7), (24, 12), (32, 16)):
        unit, top = 2.0**-fraction, 2.0 ** (width - 1 - fraction)

        def add(name, values, exponent=0, width=width, fraction=fraction):
            key = draw.randbytes(32)
            frames.append(frame_vector(f"{name}-{width}", width, fraction, exponent, values, key))

        def normal(count, deviation):
            return [draw.gauss(0, deviation) for _ in range(count)]

        # All but one are 17 long: odd, more than a cipher block, and one shape for jax to compile.
        add("ties", [sign * (i + 0.5) * unit for i in range(8) for sign in (1, -1)] + [-0.0])
        ends = [top, top - unit, top - unit / 2, top - unit * 3 / 4, top + unit, 2 * top, 3.4e38]
        add("range-ends", [sign * v for v in ends for sign in (1, -1)] + normal(3, top))
        small = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, -1.1754942e-38, 1.1754944e-38, -1.1754944e-38]
        add("subnormals", small + normal(9, 1e-39))
        add("one", normal(1, 1))
        add("normal", normal(17, 2))
        add("gradients", normal(17, 1e-6), exponent=-20)
        add("large", normal(17, 1e9), exponent=30)
    failures = [
        {"name": name, "expect": "NonFinite", "width": 24, "fraction": 12, "exponent": 0, "values": values}
        for name, values in (
            ("nan", "0000803f0000c07f"),
            ("negative-nan", "0000c0ff0000803f"),
            ("infinity", "0000803f0000807f"),
            ("negative-infinity", "000080ff"),
        )
    ]
    failures += [
        {"name": name, "expect": "OutOfRange", "values": "0000803f", **parameters}
        for name, parameters in (
            ("no-such-width", {"width": 12, "fraction": 4, "exponent": 0}),
            ("scale-too-large", {"width": 24, "fraction": 12, "exponent": -114}),
            ("scale-too-small", {"width": 24, "fraction": 12, "exponent": 109}),
        )
    ]
    key = bytes(range(32)).hex()
    failures += [
        {"name": name, "expect": "OutOfRange", "frame": frame, "key": key, "count": 2, "width": 24}
        for name, frame in (("frame-too-short", "00" * 5), ("frame-too-long", "00" * 7), ("frame-empty", ""))
    ]
    failures.append(
        {"name": "key-too-short", "expect": "OutOfRange", "frame": "00" * 6, "key": key[2:], "count": 2, "width": 24}
    )
    return {
        "format": "interlock boundary frames, version 1; floats are little-endian float32",
        "frames": frames,
        "failures": failures,
    }


if __name__ == "__main__":
    made = make_vectors()
    lists = (f'"{k}": [\n' + ",\n".join(map(json.dumps, made[k])) + "\n]" for k in ("frames", "failures"))
    VECTORS.write_text(f'{{"format": {json.dumps(made["format"])},\n' + ",\n".join(lists) + "}\n")
