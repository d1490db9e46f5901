"""The boundary in one pass in JAX: float values to a masked frame, and a frame to float values.

    stream = Keystream(key, values.size, width=24)  # while the device computes the values
    frame, clamped = depart(values, stream, fraction=12)
    values = arrive(frame, stream, shape=(rows, columns), fraction=12)  # on the other side, with its own stream

What `mask_triton` is for torch: names, arguments and errors are those of its functions. The kernels read and write a
frame's planes, which lie apart on the device and together on the host. They are written for GPUs; on a CPU Pallas
interprets them, a thousand times slower than numpy, to show that the arithmetic is right.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pallas_triton

from .errors import NonFinite, OutOfRange
from .fixed import largest, shift
from .mask import PLANES, Buffer, Bytes, frame_bytes, keystream, planes

_BLOCK = 1024  # elements of one program: 8 a thread


class Keystream:
    """The mask of one frame of `count` integers, on its way to the device from the moment it is made.

    It serves once: `depart` and `arrive` take it, so that no mask can cover two frames by mistake.

    Args:
        key: 32 bytes that serve this frame only.
        width: bits of an integer: 8, 16, 24 or 32.
        device: where the values are; None is the default device.

    Raises:
        OutOfRange: a parameter is outside what the format holds.
    """

    def __init__(self, key: bytes, count: int, *, width: int, device: jax.Device | None = None) -> None:
        self.count, self.width = count, width
        words = keystream(key, frame_bytes(count, width))
        device = jax.local_devices()[0] if device is None else device
        self._words: list[jax.Array] | None = jax.device_put(planes(words, count, width), device)

    def _take(self) -> list[jax.Array]:
        words, self._words = self._words, None
        if words is None:
            raise OutOfRange("keystream: expected one that has served no frame")
        return words


def depart(values: jax.Array, stream: Keystream, *, fraction: int, exponent: int = 0) -> tuple[Bytes, int]:
    """Round values to fixed point, half to even, clamp what does not fit, and mask: a frame for the wire.

    Args:
        values: float32, float16 or bfloat16, any shape, read in C order.
        stream: keystream of as many integers, on the values' device.
        fraction: bits after the point.
        exponent: the values' common power of two.

    Returns:
        The frame, uint8 on the host, shape (frame_bytes(count, width),), and how many values were clamped.

    Raises:
        NonFinite: a value is NaN or infinite.
        OutOfRange: dtype, count or device do not fit, or `fraction - exponent` is outside what the format holds.
    """
    places, count, width = shift(fraction, exponent), stream.count, stream.width
    if values.dtype not in (jnp.float32, jnp.float16, jnp.bfloat16):
        raise OutOfRange(f"values to encode: expected float32, float16 or bfloat16, got {values.dtype}")
    if values.size != count:
        raise OutOfRange(f"values to mask: expected the keystream's {count}, got {values.size}")
    words = stream._take()
    if words[0].devices() != values.devices():
        raise OutOfRange(
            f"device of the values: expected the keystream's, {words[0].devices()}, got {values.devices()}"
        )
    frame = np.empty(frame_bytes(count, width), np.uint8)
    if not count:
        return frame, 0
    scales = np.array([2.0**places, (largest(width) + 0.5) * 2.0**-places], np.float32)
    found, beyond, wrong = jax.device_get(_depart(values, scales, words, width, _interpreted(words[0])))
    if wrong.any():
        raise NonFinite(f"values to encode: expected finite numbers, got {wrong.sum()} that are not")
    for plane, part in zip(planes(frame, count, width), found, strict=True):
        plane[:] = part
    return frame, int(beyond.sum())


def arrive(frame: Buffer, stream: Keystream, *, shape: tuple[int, ...], fraction: int, exponent: int = 0) -> jax.Array:
    """Take the mask off a frame and decode it: what the bridge reads, without a wait for the device.

    Args:
        frame: bytes on the host.
        stream: keystream of as many integers; its device gets the values.
        shape: of the values.
        fraction: bits after the point.
        exponent: the values' common power of two.

    Returns:
        float32 of that shape.

    Raises:
        OutOfRange: the frame's length or the shape do not fit, or `fraction - exponent` is outside what the format
            holds.
    """
    places, count, width = shift(fraction, exponent), stream.count, stream.width
    arriving = planes(frame, count, width)
    if math.prod(shape) != count:
        raise OutOfRange(f"shape of the values: expected the keystream's {count} elements, got {shape}")
    words = stream._take()
    (device,) = words[0].devices()
    # A copy: transfer and computation go on after the return, and until then the caller's memory may change.
    arriving = jax.device_put([plane.copy() for plane in arriving], device)
    if not count:
        return jnp.empty(shape, jnp.float32, device=device)
    values: jax.Array = _arrive(
        arriving, words, np.full(1, 2.0**-places, np.float32), shape, width, _interpreted(words[0])
    )
    return values


def _interpreted(array: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in array.devices())


def _blocked(count: int) -> dict[str, Any]:
    """What all kernels share: a program for a block of elements."""
    return {"grid": (pl.cdiv(count, _BLOCK),), "compiler_params": pallas_triton.CompilerParams(num_warps=4)}


def _numbers(count: int, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count,), dtype)  # type: ignore[no-untyped-call]


_ELEMENTS = pl.BlockSpec((_BLOCK,), lambda i: (i,))  # a block of every array with as many elements as there are values
_COUNT = pl.BlockSpec((1,), lambda i: (i,))  # one number of every block


@partial(jax.jit, static_argnames=("width", "interpret"))
def _depart(
    values: jax.Array, scales: jax.Array, words: list[jax.Array], width: int, interpret: bool
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    count = values.size
    blocks = pl.cdiv(count, _BLOCK)
    found = pl.pallas_call(
        partial(_depart_block, count=count, width=width),
        in_specs=[pl.BlockSpec((2,), lambda i: (0,)), _ELEMENTS, *[_ELEMENTS] * len(words)],
        out_specs=[_COUNT, _COUNT, *[_ELEMENTS] * len(words)],
        out_shape=[_numbers(blocks, jnp.int32)] * 2 + [_numbers(count, dtype) for dtype in PLANES[width]],
        interpret=interpret,
        **_blocked(count),
    )(scales, values.reshape(-1), *words)
    return found[2:], found[0], found[1]


def _depart_block(scales: Any, values: Any, *planes: Any, count: int, width: int) -> None:
    half = len(PLANES[width])
    words, (beyond, wrong), frame = planes[:half], planes[half : half + 2], planes[half + 2 :]
    there = _there(count)
    value = _load(values, there).astype(jnp.float32)
    size, scale, bound = jnp.abs(value), scales[0], scales[1]
    # `bound` is half a unit above the largest integer, from where on a value does not fit (`fixed.encode`). NaN does
    # not fit either; so the product below is finite and the conversion defined.
    fits = size < bound
    scaled = jnp.where(fits, size, 0.0) * scale
    # Half to even by hand: which instruction `rint` becomes is the compiler's choice. Both lines are exact.
    whole = scaled.astype(jnp.int32)
    rest = scaled - whole.astype(jnp.float32)
    whole += ((rest > 0.5) | ((rest == 0.5) & (whole & 1 == 1))).astype(jnp.int32)
    whole = jnp.where(fits, whole, largest(width))
    whole = jnp.where(value < 0, -whole, whole)
    word = lax.bitcast_convert_type(whole, jnp.uint32) + _joined(words, there)
    for i, plane in enumerate(frame):
        pallas_triton.store(plane.at[...], (word >> 16 * i).astype(plane.dtype), mask=there)
    beyond[0] = jnp.sum(size >= bound, dtype=jnp.int32)
    wrong[0] = jnp.sum(~(size < jnp.inf), dtype=jnp.int32)


@partial(jax.jit, static_argnames=("shape", "width", "interpret"))
def _arrive(
    frame: list[jax.Array],
    words: list[jax.Array],
    scale: jax.Array,
    shape: tuple[int, ...],
    width: int,
    interpret: bool,
) -> jax.Array:
    count = words[0].size
    values: jax.Array = pl.pallas_call(
        partial(_arrive_block, count=count, width=width),
        in_specs=[pl.BlockSpec((1,), lambda i: (0,)), *[_ELEMENTS] * (2 * len(words))],
        out_specs=_ELEMENTS,
        out_shape=_numbers(count, jnp.float32),
        interpret=interpret,
        **_blocked(count),
    )(scale, *frame, *words)
    return values.reshape(shape)


def _arrive_block(scale: Any, *planes: Any, count: int, width: int) -> None:
    half, values, there = len(PLANES[width]), planes[-1], _there(count)
    word = (_joined(planes[:half], there) - _joined(planes[half:-1], there)) << 32 - width
    signed = lax.bitcast_convert_type(word, jnp.int32) >> 32 - width
    pallas_triton.store(values.at[...], signed.astype(jnp.float32) * scale[0], mask=there)


def _there(count: int) -> jax.Array:
    """Say which elements of the block exist: on a GPU nothing else keeps the last block inside its arrays."""
    return pl.program_id(0) * _BLOCK + lax.iota(jnp.int32, _BLOCK) < count


def _load(block: Any, there: jax.Array) -> jax.Array:
    loaded: jax.Array = pallas_triton.load(block.at[...], mask=there, other=0)
    return loaded


def _joined(planes: tuple[Any, ...], there: jax.Array) -> jax.Array:
    """Make words of a frame's planes: uint32, and zero above the width."""
    word = _load(planes[0], there).astype(jnp.uint32)
    for plane in planes[1:]:
        word |= _load(plane, there).astype(jnp.uint32) << 16
    return word
