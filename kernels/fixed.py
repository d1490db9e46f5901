"""Fixed point: real numbers as whole numbers of a fixed width, the form in which values cross a boundary.

    integer = round_half_even(value x 2**(fraction - exponent)),  |integer| <= 2**(width-1) - 1

Why single precision is enough for float32 values: a product with a power of two is exact or overflows (which
clamps) or leaves the normal range below, and rounding a float32 to a whole number is exact. So the result is
the one that float64 gives, on every back end, if nothing depends on how subnormals are treated. The bound on
`fraction - exponent` sees to that: up to 125, a subnormal (below 2**-126) stays below one half and becomes 0
whether or not the hardware flushes it; from -96 on, decoding neither overflows nor makes a subnormal.
"""

from __future__ import annotations

import math
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import NonFinite, OutOfRange

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
A = TypeVar("A")

WIDTHS = (8, 16, 24, 32)
SHIFTS = range(-96, 126)  # of fraction - exponent; the module's docstring says why

_BLOCK = 65536  # elements at a time: what a block touches stays in the L2 cache


class Encoded(NamedTuple, Generic[A]):
    """Integers (int32, the shape of the values) and how many of them were clamped."""

    integers: A
    clamped: int


def encode(values: Any, *, width: int, fraction: int, exponent: int = 0) -> Encoded[Int32]:
    """Round values to fixed point, half to even, and clamp what does not fit.

    Args:
        values: numbers of any real dtype and shape: a numpy array, or what `numpy.asarray` takes without a
            copy, such as a torch tensor on the CPU. What is neither float16 nor float32 goes through float64.
        width: bits of an integer: 8, 16, 24 or 32.
        fraction: bits after the point.
        exponent: the values' common power of two.

    Raises:
        NonFinite: a value is NaN or infinite.
        OutOfRange: width or `fraction - exponent` is outside what the format holds.
    """
    limit, scale = largest(width), 2.0 ** shift(fraction, exponent)
    array = np.asarray(values)
    work = np.float32 if array.dtype in (np.float16, np.float32) else np.float64
    flat = np.ascontiguousarray(array).reshape(-1)
    integers = np.empty(array.shape, np.int32)
    out = integers.reshape(-1)
    scratch = np.empty(min(_BLOCK, flat.size), work)
    clamped = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _BLOCK):
            block, target = flat[start : start + _BLOCK], out[start : start + _BLOCK]
            low, high = float(block.min()), float(block.max())  # NaN if there is one
            if not (math.isfinite(low) and math.isfinite(high)):
                raise NonFinite(f"values to encode: expected finite numbers, got {low} to {high}")
            scaled = np.multiply(block, scale, out=scratch[: block.size], dtype=work, casting="unsafe")
            np.rint(scaled, out=scaled)
            # limit is odd, so limit + 1/2 rounds up: exactly from there on a value does not fit.
            if max(-low, high) * scale >= limit + 0.5:
                clamped += _clamp(scaled, target, limit)
            else:
                np.copyto(target, scaled, casting="unsafe")
    return Encoded(integers, clamped)


def decode(integers: Any, *, fraction: int, exponent: int = 0) -> Float32:
    """Turn fixed point back into float32: `integers x 2**(exponent - fraction)`, rounded once.

    Only the conversion of an integer beyond 2**24 rounds; the product with a power of two is exact.

    Raises:
        OutOfRange: `fraction - exponent` is outside what the format holds.
    """
    scale = np.float32(2.0 ** -shift(fraction, exponent))
    values: Float32 = np.asarray(integers).astype(np.float32)
    return np.multiply(values, scale, out=values)


def largest(width: int) -> int:
    """Give the largest integer that `encode` makes at this width; the smallest is its negative.

    Raises:
        OutOfRange: the format has no such width.
    """
    if width not in WIDTHS:
        raise OutOfRange(f"width in bits: expected one of {WIDTHS}, got {width}")
    return int(2 ** (width - 1) - 1)


def shift(fraction: int, exponent: int) -> int:
    """Give `fraction - exponent`, the power of two that encoding multiplies by.

    Raises:
        OutOfRange: it is outside `SHIFTS`.
    """
    if fraction - exponent not in SHIFTS:
        raise OutOfRange(
            f"fraction - exponent: expected {SHIFTS.start} to {SHIFTS.stop - 1}, got {fraction - exponent}"
        )
    return fraction - exponent


def _clamp(rounded: npt.NDArray[Any], target: Int32, limit: int) -> int:
    """Convert whole numbers of which some do not fit; give their number.

    2**31 - 1 is no float32: so count from limit + 1, a power of two, and clip in float64.
    """
    np.copyto(target, np.clip(rounded.astype(np.float64), -limit, limit), casting="unsafe")
    return int(np.count_nonzero(np.abs(rounded) >= limit + 1.0))
