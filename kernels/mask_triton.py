"""The boundary in one pass on a CUDA device: float values to a masked frame, and a frame to float values.

    stream = Keystream(key, values.numel(), width=24, device="cuda")  # while the device computes the values
    frame, clamped = depart(values, stream, fraction=12)
    values = arrive(frame, stream, shape=(rows, columns), fraction=12)  # on the other side, with its own stream

`depart` is `fixed.encode` and `mask.mask` fused: each value is read once, and what leaves the device is the frame.
`arrive` is `mask.unmask` and `fixed.decode`. Integers, frames and errors are those of the functions that they fuse, so
frames lie on the host, where they are hashed, sent and received. Cipher and copy of the keystream are beside the
computation: it is made on the CPU and copied on a stream of its own, which only the kernel waits for.

Needs the extra `gpu`. With TRITON_INTERPRET=1 in the environment at import it runs on CPU tensors: slowly, to show
that the arithmetic is right.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .errors import NonFinite, OutOfRange
from .fixed import largest, shift
from .mask import Buffer, Bytes, frame_bytes, keystream, planes

_BLOCK = 1024  # elements of one program: 8 a thread
_HEAD = 16  # bytes before a departing frame: two counts, and the alignment of what follows


class Keystream:
    """The mask of one frame of `count` integers, on its way to the device from the moment it is made.

    It serves once: `depart` and `arrive` take it, so that no mask can cover two frames by mistake.

    Args:
        key: 32 bytes that serve this frame only.
        width: bits of an integer: 8, 16, 24 or 32.
        device: where the values are.

    Raises:
        OutOfRange: a parameter is outside what the format holds.
    """

    def __init__(self, key: bytes, count: int, *, width: int, device: str | torch.device) -> None:
        self.count, self.width = count, width
        self._copy: _Copy | None = _Copy(keystream(key, frame_bytes(count, width)), torch.device(device))

    def _take(self) -> _Copy:
        copy, self._copy = self._copy, None
        if copy is None:
            raise OutOfRange("keystream: expected one that has served no frame")
        return copy


def depart(values: Tensor, stream: Keystream, *, fraction: int, exponent: int = 0) -> tuple[Bytes, int]:
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
    if values.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise OutOfRange(f"values to encode: expected float32, float16 or bfloat16, got {values.dtype}")
    if values.numel() != count:
        raise OutOfRange(f"values to mask: expected the keystream's {count}, got {values.numel()}")
    words = stream._take().wait()
    if words.device != values.device:
        raise OutOfRange(f"device of the values: expected the keystream's, {words.device}, got {values.device}")
    departing = torch.empty(_HEAD + words.numel(), dtype=torch.uint8, device=values.device)
    counts, frame = departing[:_HEAD].view(torch.int32).zero_(), departing[_HEAD:]
    if count:
        bound = (largest(width) + 0.5) * 2.0**-places
        with torch.cuda.device_of(words):  # type: ignore[no-untyped-call]
            _depart[(triton.cdiv(count, _BLOCK),)](
                values.detach().contiguous(), words, frame, counts, count, 2.0**places, bound, width, _BLOCK
            )
    arrived = departing.cpu().numpy()  # frame and counts in one copy: the one wait for the device
    clamped, wrong = arrived[:8].view("i4").tolist()
    if wrong:
        raise NonFinite(f"values to encode: expected finite numbers, got {wrong} that are not")
    return arrived[_HEAD:], clamped


def arrive(frame: Buffer, stream: Keystream, *, shape: tuple[int, ...], fraction: int, exponent: int = 0) -> Tensor:
    """Take the mask off a frame and decode it: what the bridge reads, without a wait for the device.

    Args:
        frame: bytes on the host.
        stream: keystream of as many integers; its device gets the values.
        shape: of the values.
        fraction: bits after the point.
        exponent: the values' common power of two.

    Returns:
        float32 of that shape, contiguous.

    Raises:
        OutOfRange: the frame's length or the shape do not fit, or `fraction - exponent` is outside what the format
            holds.
    """
    places, count, width = shift(fraction, exponent), stream.count, stream.width
    planes(frame, count, width)  # raises unless the length fits
    if math.prod(shape) != count:
        raise OutOfRange(f"shape of the values: expected the keystream's {count} elements, got {shape}")
    words = stream._take().wait()
    arriving = _Copy(frame, words.device)
    values = torch.empty(shape, dtype=torch.float32, device=words.device)
    if count:
        with torch.cuda.device_of(words):  # type: ignore[no-untyped-call]
            _arrive[(triton.cdiv(count, _BLOCK),)](arriving.wait(), words, values, count, 2.0**-places, width, _BLOCK)
    return values


class _Copy:
    """Bytes of the host on their way to a device, beside what the device computes."""

    def __init__(self, data: Buffer, device: torch.device) -> None:
        source = np.frombuffer(data, np.uint8)
        staged = torch.empty(source.size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        staged.numpy()[:] = source
        self._there: torch.cuda.Event | None = None
        if device.type == "cuda":
            with torch.cuda.stream(_side(device)):
                self._bytes = staged.to(device, non_blocking=True)
                self._there = _side(device).record_event()
        else:
            self._bytes = staged.to(device)

    def wait(self) -> Tensor:
        """Give the bytes; only the device's current stream waits until they are there."""
        if self._there is not None:
            current = torch.cuda.current_stream(self._bytes.device)
            current.wait_event(self._there)
            self._bytes.record_stream(current)  # else their memory could be used again before the kernel has run
        return self._bytes


@cache
def _side(device: torch.device) -> torch.cuda.Stream:
    """Give the stream of all copies to a device. One, because torch keeps freed memory a stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@triton.jit
def _depart(
    values: tl.tensor,
    words: tl.tensor,
    frame: tl.tensor,
    counts: tl.tensor,
    count: tl.tensor,
    scale: tl.tensor,
    bound: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(values + at, mask=at < count, other=0.0).to(tl.float32)
    size = tl.abs(value)
    # `bound` is half a unit above the largest integer, from where on a value does not fit (`fixed.encode`). NaN does
    # not fit either; so the product below is finite and the conversion defined.
    fits = size < bound
    scaled = tl.where(fits, size, 0.0) * scale
    # Half to even by hand: which instruction `rint` becomes is the compiler's choice. Both lines are exact.
    whole = scaled.to(tl.int32)
    rest = scaled - whole.to(tl.float32)
    whole += ((rest > 0.5) | ((rest == 0.5) & (whole & 1 == 1))).to(tl.int32)
    whole = tl.where(fits, whole, (1 << (WIDTH - 1)) - 1)
    whole = tl.where(value < 0, -whole, whole)
    _write(frame, at, count, tl.add(whole, _read(words, at, count, WIDTH), sanitize_overflow=False), WIDTH)
    beyond = tl.sum((size >= bound).to(tl.int32))
    wrong = tl.sum(1 - (size < float("inf")).to(tl.int32))
    if beyond + wrong > 0:
        tl.atomic_add(counts, beyond)
        tl.atomic_add(counts + 1, wrong)


@triton.jit
def _arrive(
    frame: tl.tensor,
    words: tl.tensor,
    values: tl.tensor,
    count: tl.tensor,
    scale: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    word = tl.sub(_read(frame, at, count, WIDTH), _read(words, at, count, WIDTH), sanitize_overflow=False)
    word = (word << (32 - WIDTH)) >> (32 - WIDTH)  # sets the sign
    tl.store(values + at, word.to(tl.float32) * scale, mask=at < count)


@triton.jit
def _read(frame: tl.tensor, at: tl.tensor, count: tl.tensor, WIDTH: tl.constexpr) -> tl.tensor:
    """Join the planes of a frame (`mask`) to words: int32, and zero above `WIDTH`."""
    there = at < count
    if WIDTH == 8:
        word = tl.load(frame + at, mask=there, other=0).to(tl.int32)
    elif WIDTH == 32:
        word = tl.load(frame.to(tl.pointer_type(tl.int32)) + at, mask=there, other=0)
    else:
        word = tl.load(frame.to(tl.pointer_type(tl.uint16)) + at, mask=there, other=0).to(tl.int32)
        if WIDTH == 24:
            word |= tl.load(frame + count + count + at, mask=there, other=0).to(tl.int32) << 16
    return word


@triton.jit
def _write(frame: tl.tensor, at: tl.tensor, count: tl.tensor, word: tl.tensor, WIDTH: tl.constexpr) -> None:
    """Split words into the planes of a frame."""
    there = at < count
    if WIDTH == 8:
        tl.store(frame + at, word.to(tl.uint8), mask=there)
    elif WIDTH == 32:
        tl.store(frame.to(tl.pointer_type(tl.int32)) + at, word, mask=there)
    else:
        tl.store(frame.to(tl.pointer_type(tl.uint16)) + at, word.to(tl.uint16), mask=there)
        if WIDTH == 24:
            tl.store(frame + count + count + at, (word >> 16).to(tl.uint8), mask=there)
