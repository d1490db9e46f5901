"""`fixed` and `mask` on torch tensors of any device: the same integers and the same frames.

Only the keystream is made on the CPU and copied. Torch has no full set of unsigned types, so words are int32,
which wrap; a narrowing conversion keeps the low bits. Arguments, results and errors are those of the
functions of the same names in `fixed` and `mask`, with tensors in the place of arrays.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import NonFinite, OutOfRange
from .fixed import Encoded, largest, shift
from .mask import frame_bytes, keystream

_PLANES = {8: (torch.uint8,), 16: (torch.int16,), 24: (torch.int16, torch.uint8), 32: (torch.int32,)}


def encode(values: Tensor, *, width: int, fraction: int, exponent: int = 0) -> Encoded[Tensor]:
    """Round values to fixed point, half to even, and clamp what does not fit."""
    limit, scale = largest(width), 2.0 ** shift(fraction, exponent)
    single = values.dtype in (torch.float16, torch.bfloat16, torch.float32)
    exact = values.detach().to(torch.float32 if single else torch.float64)
    if not exact.numel():
        return Encoded(exact.to(torch.int32), 0)
    low, high = torch.stack(exact.aminmax()).tolist()  # one wait for the device; NaN if there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NonFinite(f"values to encode: expected finite numbers, got {low} to {high}")
    rounded = (exact * scale).round_()
    if max(-low, high) * scale < limit + 0.5:
        return Encoded(rounded.to(torch.int32), 0)
    clamped = int((rounded.abs() >= limit + 1.0).sum())
    return Encoded(rounded.to(torch.float64).clamp_(-limit, limit).to(torch.int32), clamped)


def decode(integers: Tensor, *, fraction: int, exponent: int = 0) -> Tensor:
    """Turn fixed point back into float32, rounded once."""
    return integers.to(torch.float32) * 2.0 ** -shift(fraction, exponent)


def mask(integers: Tensor, key: bytes, *, width: int) -> Tensor:
    """Add the key's mask to integers and lay them out as a frame, uint8 on the integers' device."""
    if integers.dtype != torch.int32:
        raise OutOfRange(f"integers to mask: expected int32, got {integers.dtype}")
    count = integers.numel()
    stream = torch.from_numpy(keystream(key, frame_bytes(count, width))).to(integers.device)
    words = _join(stream, count, width).add_(integers.reshape(-1))
    return torch.cat([(words >> 16 * i).to(t).view(torch.uint8) for i, t in enumerate(_PLANES[width])])


def unmask(frame: Tensor, key: bytes, *, count: int, width: int) -> Tensor:
    """Take the key's mask off a frame: int32 on the frame's device."""
    stream = torch.from_numpy(keystream(key, frame_bytes(count, width)))
    return difference(frame, stream.to(frame.device), count=count, width=width)


def difference(frame_a: Tensor, frame_b: Tensor, *, count: int, width: int) -> Tensor:
    """Subtract two frames of one mask: the difference of their integers, without the key."""
    words = _join(frame_a, count, width).sub_(_join(frame_b, count, width))
    return words.bitwise_left_shift_(32 - width).bitwise_right_shift_(32 - width)  # sets the sign


def _join(frame: Tensor, count: int, width: int) -> Tensor:
    """Make new int32 words of a frame's planes. Their bits from `width` up are the sign's or zero."""
    if frame.dtype != torch.uint8 or frame.shape != (frame_bytes(count, width),):
        raise OutOfRange(
            f"frame: expected {frame_bytes(count, width)} bytes, got {tuple(frame.shape)} of {frame.dtype}"
        )
    if not count:  # torch does not reinterpret an empty tensor
        return frame.new_empty(0, dtype=torch.int32)
    if width != 24:
        return frame.view(_PLANES[width][0]).to(torch.int32, copy=True)
    low, high = frame[: 2 * count].view(torch.int16), frame[2 * count :]
    return (high.to(torch.int32) << 16).bitwise_or_(low.to(torch.int32).bitwise_and_(0xFFFF))
