"""Additive masks on fixed point: what a boundary frame is made of.

    frame = integers + keystream(key)   mod 2**width

With a key that serves one frame, the frame is uniform words to whoever lacks it (as strong as the cipher).
The sum is additive and not an exclusive or, so that two frames under one mask give the difference of their
integers, and nothing else, to someone without the key: `difference`.

A frame and a keystream have one layout, made of little-endian planes:

    width  8   n bytes
    width 16   n 16-bit words
    width 24   n 16-bit words (the low halves), then n bytes (the high parts)
    width 32   n 32-bit words

(Three-byte words would have to be taken apart byte by byte.) `mask_torch` and `mask_jax` compute the same on
tensors, `mask_triton` and `mask_pallas` on GPUs in one pass with encoding and decoding; tests/vectors/mask.json fixes
all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .errors import OutOfRange
from .fixed import WIDTHS, Int32

assert sys.byteorder == "little"  # words are read and written as they lie in memory

Bytes = npt.NDArray[np.uint8]
Buffer: TypeAlias = "bytes | bytearray | memoryview | Bytes"

KEY_BYTES = 32
PLANES: dict[int, tuple[type[np.unsignedinteger[Any]], ...]] = {
    8: (np.uint8,),
    16: (np.uint16,),
    24: (np.uint16, np.uint8),
    32: (np.uint32,),
}

_BLOCK = 65536  # elements at a time: what a block touches stays in the L2 cache
_ZEROS = bytes(1 << 17)  # what the keystream is added to, a piece at a time, for the same reason


def frame_bytes(count: int, width: int) -> int:
    """Give the size of a frame of `count` integers.

    Raises:
        OutOfRange: the format has no such width, or the count is negative.
    """
    if width not in WIDTHS:
        raise OutOfRange(f"width in bits: expected one of {WIDTHS}, got {width}")
    if count < 0:
        raise OutOfRange(f"count of integers: expected 0 or more, got {count}")
    return count * width // 8


def keystream(key: bytes, size: int) -> Bytes:
    """Give the first `size` bytes of AES-256-CTR under `key`, from counter block 0.

    The initial block is fixed, so a key must serve once.

    Raises:
        OutOfRange: the key is not 32 bytes, or the size is negative.

    Source: NIST SP 800-38A, section 6.5; the counter is the whole 128-bit block, big-endian.
    """
    if len(key) != KEY_BYTES:
        raise OutOfRange(f"mask key: expected {KEY_BYTES} bytes, got {len(key)}")
    if size < 0:
        raise OutOfRange(f"keystream size in bytes: expected 0 or more, got {size}")
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    stream = np.empty(size, np.uint8)
    zeros, target = memoryview(_ZEROS), stream.data
    for start in range(0, size, len(zeros)):
        part = target[start : start + len(zeros)]
        cipher.update_into(zeros[: len(part)], part)
    return stream


def mask(integers: Int32, key: bytes, *, width: int) -> Bytes:
    """Add the key's mask to integers and lay them out as a frame.

    Args:
        integers: int32, any shape, read in C order; taken mod 2**width.
        key: 32 bytes that serve this frame only.
        width: 8, 16, 24 or 32.

    Returns:
        uint8, shape (frame_bytes(integers.size, width),).

    Raises:
        OutOfRange: the integers are not int32, or a parameter is outside what the format holds.
    """
    if integers.dtype != np.int32:
        raise OutOfRange(f"integers to mask: expected int32, got {integers.dtype}")
    words = np.ascontiguousarray(integers).reshape(-1).view(np.uint32)
    frame = keystream(key, frame_bytes(words.size, width))
    first, *above = planes(frame, words.size, width)
    for block in _blocks(words.size):
        added = words[block].astype(first.dtype, copy=False)  # drops the bits above
        low = np.add(first[block], added, out=first[block])
        for plane in above:  # width 24: the byte above the low half, with the carry
            high = np.add(plane[block], (words[block] >> 16).astype(np.uint8), out=plane[block])
            np.add(high, low < added, out=high)
    return frame


def unmask(frame: Buffer, key: bytes, *, count: int, width: int) -> Int32:
    """Take the key's mask off a frame.

    Returns:
        int32, shape (count,), each in [-2**(width-1), 2**(width-1)).

    Raises:
        OutOfRange: the frame's length is not `frame_bytes(count, width)`, or a parameter is outside what the
            format holds.
    """
    return difference(frame, keystream(key, frame_bytes(count, width)), count=count, width=width)


def difference(frame_a: Buffer, frame_b: Buffer, *, count: int, width: int) -> Int32:
    """Subtract two frames of one mask: the difference of their integers, without the key.

    Returns:
        a - b mod 2**width as int32, shape (count,), each in [-2**(width-1), 2**(width-1)).

    Raises:
        OutOfRange: a frame's length is not `frame_bytes(count, width)`, or a parameter is outside what the
            format holds.
    """
    planes_a, planes_b = planes(frame_a, count, width), planes(frame_b, count, width)
    integers = np.empty(count, np.int32)
    for block in _blocks(count):
        a, b = [plane[block] for plane in planes_a], [plane[block] for plane in planes_b]
        result, top = integers[block], a[-1] - b[-1]
        if width == 24:
            np.subtract(top, a[0] < b[0], out=top)  # the borrow
        np.copyto(result, top.view(f"i{top.itemsize}"))  # the top plane carries the sign
        if width == 24:
            np.left_shift(result, 16, out=result)
            np.bitwise_or(result, (a[0] - b[0]).astype(np.int32), out=result)
    return integers


def planes(frame: Buffer, count: int, width: int) -> list[npt.NDArray[Any]]:
    """View a frame of `count` integers, or a keystream for one, as its planes of words, the lowest first.

    Raises:
        OutOfRange: the frame's length is not `frame_bytes(count, width)`, or a parameter is outside what the
            format holds.
    """
    size, opened = frame_bytes(count, width), np.frombuffer(frame, np.uint8)
    if opened.size != size:
        raise OutOfRange(f"frame: expected {size} bytes, got {opened.size}")
    found, start = [], 0
    for dtype in PLANES[width]:
        end = start + count * np.dtype(dtype).itemsize
        found.append(opened[start:end].view(dtype))
        start = end
    return found


def _blocks(count: int) -> Iterator[slice]:
    """Walk through the elements, a block at a time."""
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
