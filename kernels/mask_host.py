"""The boundary on the host: float values to a masked frame, and a frame to float values.

    keystream = Keystream(key, values.size, width=24)
    frame, clamped = depart(values, keystream, fraction=12)
    values = arrive(frame, keystream, shape=(rows, columns), fraction=12)  # on the other side, with its own keystream

What `mask_triton` and `mask_pallas` are for devices: names, arguments and errors are those of their functions.
"""

from __future__ import annotations

import math
from typing import Any

from . import fixed, mask
from .errors import OutOfRange
from .fixed import Float32
from .mask import Buffer, Bytes


class Keystream:
    """The mask of one frame of `count` integers. It serves once.

    Args:
        key: 32 bytes that serve this frame only.
        width: bits of an integer: 8, 16, 24 or 32.
        device: ignored: there is one host.

    Raises:
        OutOfRange: a parameter is outside what the format holds.
    """

    def __init__(self, key: bytes, count: int, *, width: int, device: object = None) -> None:
        mask.frame_bytes(count, width)
        self.count, self.width = count, width
        self._key: bytes | None = key

    def _take(self) -> bytes:
        key, self._key = self._key, None
        if key is None:
            raise OutOfRange("keystream: expected one that has served no frame")
        return key


def depart(values: Any, keystream: Keystream, *, fraction: int, exponent: int = 0) -> tuple[Bytes, int]:
    """Round values to fixed point, half to even, clamp what does not fit, and mask: a frame for the wire.

    Args:
        values: numbers of any shape, as `fixed.encode` takes them.
        keystream: of as many integers.
        fraction: bits after the point.
        exponent: the values' common power of two.

    Returns:
        The frame, uint8, shape (frame_bytes(count, width),), and how many values were clamped.

    Raises:
        NonFinite: a value is NaN or infinite.
        OutOfRange: the count does not fit, or `fraction - exponent` is outside what the format holds.
    """
    encoded = fixed.encode(values, width=keystream.width, fraction=fraction, exponent=exponent)
    if encoded.integers.size != keystream.count:
        raise OutOfRange(f"values to mask: expected the keystream's {keystream.count}, got {encoded.integers.size}")
    return mask.mask(encoded.integers, keystream._take(), width=keystream.width), encoded.clamped


def arrive(frame: Buffer, keystream: Keystream, *, shape: tuple[int, ...], fraction: int, exponent: int = 0) -> Float32:
    """Take the mask off a frame and decode it.

    Args:
        frame: its bytes.
        keystream: of as many integers.
        shape: of the values.
        fraction: bits after the point.
        exponent: the values' common power of two.

    Returns:
        float32 of that shape.

    Raises:
        OutOfRange: the frame's length or the shape do not fit, or `fraction - exponent` is outside what the format
            holds.
    """
    count, width = keystream.count, keystream.width
    if math.prod(shape) != count:
        raise OutOfRange(f"shape of the values: expected the keystream's {count} elements, got {shape}")
    fixed.shift(fraction, exponent)
    mask.planes(frame, count, width)  # raises unless the length fits
    integers = mask.unmask(frame, keystream._take(), count=count, width=width)
    return fixed.decode(integers, fraction=fraction, exponent=exponent).reshape(shape)
