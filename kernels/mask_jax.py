"""`fixed` and `mask` on jax arrays: the same integers and the same frames.

float32 is enough for float32 values (see `fixed`), so nothing here needs x64; with it, float64 values work
too. Words are uint32. Only the keystream is made by the host. Arguments, results and errors are those of the
functions of the same names in `fixed` and `mask`; because they check values and lengths, they are to be
called, not traced.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from .errors import NonFinite, OutOfRange
from .fixed import Encoded, largest, shift
from .mask import PLANES, frame_bytes, keystream


def encode(values: jax.Array, *, width: int, fraction: int, exponent: int = 0) -> Encoded[jax.Array]:
    """Round values to fixed point, half to even, and clamp what does not fit."""
    integers, clamped, finite = _encode(values, np.float32(2.0 ** shift(fraction, exponent)), largest(width))
    if not finite:
        raise NonFinite("values to encode: expected finite numbers")
    return Encoded(integers, int(clamped))


def decode(integers: jax.Array, *, fraction: int, exponent: int = 0) -> jax.Array:
    """Turn fixed point back into float32, rounded once."""
    values: jax.Array = integers.astype(jnp.float32) * np.float32(2.0 ** -shift(fraction, exponent))
    return values


def mask(integers: jax.Array, key: bytes, *, width: int) -> jax.Array:
    """Add the key's mask to integers and lay them out as a frame, uint8."""
    if integers.dtype != jnp.int32:
        raise OutOfRange(f"integers to mask: expected int32, got {integers.dtype}")
    frame: jax.Array = _mask(integers, keystream(key, frame_bytes(integers.size, width)), width)
    return frame


def unmask(frame: jax.Array, key: bytes, *, count: int, width: int) -> jax.Array:
    """Take the key's mask off a frame: int32."""
    return difference(frame, keystream(key, frame_bytes(count, width)), count=count, width=width)


def difference(
    frame_a: jax.Array,
    frame_b: jax.Array | npt.NDArray[np.uint8],
    *,
    count: int,
    width: int,
) -> jax.Array:
    """Subtract two frames of one mask: the difference of their integers, without the key."""
    size = frame_bytes(count, width)
    for frame in (frame_a, frame_b):
        if frame.dtype != jnp.uint8 or frame.shape != (size,):
            raise OutOfRange(f"frame: expected {size} bytes, got {frame.shape} of {frame.dtype}")
    integers: jax.Array = _difference(frame_a, frame_b, width)
    return integers


@partial(jax.jit, static_argnums=2)
def _encode(values: jax.Array, scale: jax.Array, limit: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Half precision, bfloat16 among it, becomes float32, which holds it exactly.
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    rounded = jnp.rint(values * scale)
    above, below = rounded >= limit + 1.0, rounded <= -limit - 1.0
    # The limit takes its place among the integers: 2**31 - 1 is no float32.
    integers = jnp.where(above | below, 0, rounded).astype(jnp.int32)
    integers = jnp.where(above, limit, jnp.where(below, -limit, integers))
    return integers, jnp.count_nonzero(above | below), jnp.isfinite(values).all()


@partial(jax.jit, static_argnums=2)
def _mask(integers: jax.Array, stream: jax.Array, width: int) -> jax.Array:
    words = jax.lax.bitcast_convert_type(integers.reshape(-1), jnp.uint32)
    words += _join(stream, words.size, width)
    planes = [(words >> 16 * i).astype(dtype) for i, dtype in enumerate(PLANES[width])]
    return jnp.concatenate([jax.lax.bitcast_convert_type(p, jnp.uint8).reshape(-1) for p in planes])


@partial(jax.jit, static_argnums=2)
def _difference(frame_a: jax.Array, frame_b: jax.Array, width: int) -> jax.Array:
    count = frame_a.size * 8 // width
    words = (_join(frame_a, count, width) - _join(frame_b, count, width)) << 32 - width
    return jax.lax.bitcast_convert_type(words, jnp.int32) >> 32 - width  # sets the sign


def _join(frame: jax.Array, count: int, width: int) -> jax.Array:
    """Make uint32 words of a frame's planes."""
    words, start = jnp.zeros(count, jnp.uint32), 0
    for i, dtype in enumerate(PLANES[width]):
        size = np.dtype(dtype).itemsize
        plane = frame[start : start + count * size].reshape((count, size) if size > 1 else (count,))
        words |= jax.lax.bitcast_convert_type(plane, dtype).astype(jnp.uint32) << 16 * i
        start += count * size
    return words
