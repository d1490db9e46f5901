"""First weights of a stage, by integer arithmetic on a keystream: the same bits on every machine.

A library's Gaussian goes through `log` and `cos`, whose last bits differ between machines. Here an entry is
the sum of 16 uniform 16-bit words, centred and multiplied by an integer: close to a Gaussian (excess kurtosis
-0.075, largest value 6.9 standard deviations), and exact. The seed is a secret of the stage's group: with a
public one the stage's basis could be found from the trained weights.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .errors import OutOfRange
from .state import LOOKUP_GRID, MATRIX_GRID, Int32, Int64, StageShape, StageState, TensorShape, TensorState

MOMENTUM_EXPONENT_MIN = -256
"""Exponent of an empty momentum, and the least one any momentum falls to."""

WORDS = 16
_WORD_SUM_MEAN = WORDS * 0xFFFF // 2  # exact: the number of words is even
_WORD_SUM_VARIANCE_12 = WORDS * (2**32 - 1)  # twelve times the variance of a sum of uniform words
_SHIFT = 20


class Keystream:
    """Bytes of AES-256-CTR from counter block 0, under a key derived from a seed and a name.

    The key is keyed BLAKE2b(seed, name), so each name has a stream of its own. `take` goes on where the last
    call stopped.

    Raises:
        OutOfRange: the seed does not have 32 bytes.
    """

    def __init__(self, seed: bytes, name: str) -> None:
        if len(seed) != 32:
            raise OutOfRange(f"seed of {name}: expected 32 bytes, got {len(seed)}")
        key = hashlib.blake2b(b"interlock/keystream/v1\0" + name.encode(), key=seed, digest_size=32).digest()
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def take(self, size_bytes: int) -> bytes:
        """The next `size_bytes` bytes."""
        return self._encryptor.update(bytes(size_bytes))


def initial_state(shape: StageShape, seed: bytes, *, bridge: Int32 | None) -> StageState:
    """Make the state of a stage before its first round.

    Standard deviations: embedding 1 (the forward pass normalises it), matrices `1 / sqrt(columns)`; half of
    that for the head and matrices that write into the stream, so that a deep model starts near the identity
    and with nearly equal logits.

    Args:
        seed: 32 bytes, known inside the group only; each tensor has a stream of its own under it.
        bridge: int32 (width, width) on 2**-29, from the stage before; None for the first stage.

    Raises:
        OutOfRange: the seed does not have 32 bytes; the first stage has a bridge, or a later one lacks it.
    """
    d = shape.width
    if shape.first != (bridge is None):
        raise OutOfRange("the first stage, and only it, has no bridge")
    if bridge is not None and (bridge.shape != (d, d) or bridge.dtype != np.int32):
        raise OutOfRange(f"bridge: expected int32 {(d, d)}, got {bridge.dtype} {bridge.shape}")
    return StageState(shape, 0, {spec.name: _initial_tensor(spec, seed) for spec in shape.tensors()}, bridge)


def _initial_tensor(spec: TensorShape, seed: bytes) -> TensorState:
    grid = MATRIX_GRID if spec.kind == "matrix" else LOOKUP_GRID
    # The variance is 1 / (4**halvings columns), but 1 for the embedding.
    halvings = 1 if spec.side == "writes" or spec.kind == "head" else 0
    columns = 1 if spec.kind == "embedding" else spec.columns
    scale = math.isqrt((12 << 2 * (grid + _SHIFT - halvings)) // (_WORD_SUM_VARIANCE_12 * columns))
    words = _word_sums(Keystream(seed, f"initial/{spec.name}"), spec.rows, spec.columns)
    return TensorState(
        weight=((words * scale + (1 << _SHIFT - 1)) >> _SHIFT).astype(np.int32),
        grid=grid,
        momentum=np.zeros((spec.rows, spec.columns), np.int32),
        momentum_exponent=MOMENTUM_EXPONENT_MIN,
        second=None if spec.kind == "matrix" else np.zeros(spec.rows),
        sum_exponent=None,
    )


def _word_sums(stream: Keystream, rows: int, columns: int) -> Int64:
    """Centred sums of 16 words. Word j of all entries comes before word j + 1: adding runs along memory."""
    total = np.full(rows * columns, -_WORD_SUM_MEAN, np.int64)
    for _ in range(WORDS):
        total += np.frombuffer(stream.take(2 * total.size), "<u2")
    return total.reshape(rows, columns)
