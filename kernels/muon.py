"""The optimizer's step in whole numbers: equal inputs give equal bits on any machine, BLAS or thread count.

Matrices step by Muon (momentum, then five Newton-Schulz iterations towards the nearest orthogonal matrix);
embedding and head by momentum over the root of a row's second moment. All are equivariant: in a turned basis
the same step happens, up to rounding.

Why it is exact. Every array holds whole numbers in float64 and every product of two such arrays satisfies
(longest row of a) x (longest column of b) < 2**53; by Cauchy-Schwarz that bounds every partial sum in any
order, so no addition rounds and no order, blocking or fused instruction changes a bit. Between products there
is one rounding, `R(x, k) = rint(x 2**-k)`, half to even. Scalars of a row are single IEEE operations in
float64. The bounds of each product stand where it is made.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), for the iteration and
its coefficients. Departs from it: no Nesterov step, and the norm that starts the iteration is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .errors import NonFinite, OutOfRange, Overflow
from .exact import round_shift
from .initial import MOMENTUM_EXPONENT_MIN
from .state import Int32, Int64, StageState, TensorShape, TensorState

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Product = Callable[[Float64, Float64], Float64]
"""Matrix product of float64 arrays; any implementation will do, since nothing in it rounds."""

FIRST_EXPONENT = -24
"""Exponent of the gradient sums of a run's first attempt, which only measures."""
ENTRY_BITS = 27  # one replica's entry of a gradient sum stays below 2**27
SUM_MAX = 2**31 - 1
SUM_EXPONENT_LIMIT = 256  # float32 gradients need -149 to 128; keeps every power of two a normal float64

MOMENTUM_DECAY = 943718  # 0.9 on 2**-20
SECOND_DECAY = 996147  # 0.95 on 2**-20
SECOND_RATIO_MIN = 2.0**-24
SECOND_MIN = 2.0**-600  # anything smaller counts as 0: well above the subnormals, which some libraries flush

X_BITS = 25  # grid of Newton-Schulz
NEWTON_SCHULZ_STEPS = 5
COEFFICIENTS = (3611820, -5006950, 2130182)  # 3.4445, -4.7750, 2.0315 on 2**-20
_A, _B, _C = (c * 2.0**-20 for c in COEFFICIENTS)

EMBEDDING_RATE = 10.0  # of `rate`, for each element of the embedding, whose elements have size 1
HEAD_RATE = 4.0  # of `rate / sqrt(columns)`, for each element of the head, whose elements have about that size

WEIGHT_MAX = int(2**30.9)


# Gradient sums


def encode_sum(gradient: Float32 | Float64, exponent: int) -> Int32:
    """Round one replica's gradient sum to whole numbers times 2**exponent, half to even.

    Raises:
        NonFinite: an entry is NaN or infinite.
        Overflow: an entry reaches 2**27; the attempt is void and its successor needs a larger exponent.
    """
    _check_exponent(exponent)
    if not np.isfinite(gradient).all():
        raise NonFinite("gradient sum: an entry is NaN or infinite")
    with np.errstate(over="ignore"):  # an infinity is refused like any entry that is too large
        whole = np.rint(np.ldexp(gradient.astype(np.float64), -exponent))
    if np.max(np.abs(whole), initial=0.0) >= 2**ENTRY_BITS:
        needed = math.frexp(float(np.max(np.abs(gradient))))[1] - exponent
        what = f"gradient sum: an entry reaches 2**{ENTRY_BITS} at exponent {exponent}"
        raise Overflow(what, max(1, needed - ENTRY_BITS))
    return whole.astype(np.int32)


def next_exponent(largest: int, exponent: int) -> int:
    """Exponent at which `largest`, the largest |entry| of this round's sum, would lie in [2**20, 2**21).

    That leaves six bits before a replica's entry is refused. A sum of zeros says nothing and keeps the
    exponent.
    """
    if largest == 0:
        return exponent
    return max(-SUM_EXPONENT_LIMIT, min(SUM_EXPONENT_LIMIT, exponent + largest.bit_length() - 21))


def add_sums(sums: Sequence[Int32]) -> Int64:
    """Add the replicas' gradient sums of one tensor, exactly.

    Raises:
        OutOfRange: shapes differ.
        Overflow: an entry is beyond `(2**31 - 1) // replicas`, so that the total might not fit.
    """
    if not sums:
        raise OutOfRange("gradient sums: no replica")
    limit = SUM_MAX // len(sums)
    total = np.zeros(sums[0].shape, np.int64)
    for i, s in enumerate(sums):
        if s.shape != total.shape or s.dtype != np.int32:
            raise OutOfRange(f"gradient sum {i}: expected int32 {total.shape}, got {s.dtype} {s.shape}")
        if _largest(s) > limit:
            what = f"gradient sum {i}: an entry exceeds {limit}, the share of {len(sums)} replicas"
            raise Overflow(what, max(1, _largest(s).bit_length() - limit.bit_length()))
        total += s
    return total


# A round


def measure(state: StageState, sums: Mapping[str, Int64], exponents: Mapping[str, int]) -> StageState:
    """Set the exponents of the next round's sums and change nothing else: a run's first attempt."""
    tensors = {}
    for spec in state.shape.tensors():
        total, exponent = _checked_sum(spec, sums, exponents)
        tensors[spec.name] = replace(state.tensors[spec.name], sum_exponent=next_exponent(_largest(total), exponent))
    return replace(state, tensors=tensors)


def step(
    state: StageState,
    sums: Mapping[str, Int64],
    exponents: Mapping[str, int],
    *,
    rate: float,
    product: Product = np.matmul,
) -> StageState:
    """The state after one optimizer step on the round's summed gradients.

    With `g` a tensor's sum on 2**eg and `m` its momentum on 2**e, and R rounding to whole numbers:

        e'  = least exponent with 0.9 N(m) 2**e + N(g) 2**eg <= 2**(30 + e'),  N an upper bound of the norm
        m'  = R(0.9 m 2**(e - e')) + R(g 2**(eg - e'))
        matrix:            W' = W - R(X K),    X = newton_schulz(m'),  K = rate sqrt(max(1, rows / columns))
        embedding, head:   v' = 0.95 v + 0.05 mean(g**2) for each row, in real units, without bias correction
                           W' = W - R(m' K_row),   K_row = 0.1 r / sqrt(max(v', 2**-24 max v'))
                           r = rate for the embedding, rate / sqrt(columns) for the head

    0.9 and 0.95 are meant on 2**-20. K has 22 significant bits, v 32: their products with whole numbers do
    not round. Without bias correction a row's step has a root mean square below 1.17 r whatever its gradients
    (Cauchy-Schwarz: `0.1 / sqrt(0.05) / sqrt(1 - 0.81 / 0.95)`), also when a rare byte comes back. Momentum
    of a row that is never seen again gets stuck at up to 4 units, since R(0.9 x 4) = 4; the floor under v
    keeps that from growing into a step.

    Args:
        sums: for each tensor the sum over replicas, whole numbers up to 2**31 - 1 (`add_sums`).
        exponents: the exponents of those sums.
        rate: size of a matrix's step in the spectral norm (about; times sqrt(rows / columns) for tall ones).
        product: matrix product; only speed depends on it.

    Raises:
        OutOfRange: a sum is missing, misshapen or too large, `rate` is not positive, or a weight leaves the
            range of its grid.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise OutOfRange(f"rate must be positive, not {rate}")
    tensors = {}
    for spec in state.shape.tensors():
        total, exponent = _checked_sum(spec, sums, exponents)
        tensors[spec.name] = _step_tensor(spec, state.tensors[spec.name], total, exponent, rate, product)
    return replace(state, round=state.round + 1, tensors=tensors)


def _step_tensor(
    spec: TensorShape, t: TensorState, total: Int64, exponent: int, rate: float, product: Product
) -> TensorState:
    largest = _largest(total)
    g = total.astype(np.float64)
    m, m_exponent = _add_to_momentum(t, g, exponent, largest)
    second = t.second
    if spec.kind == "matrix":
        change = newton_schulz(m, product)
        # |X| < 2**25.4 and 22 bits of K: the product does not round.
        factor = round_bits(np.float64(rate * math.sqrt(max(1.0, spec.rows / spec.columns))), 22)
        change *= np.ldexp(factor, t.grid - X_BITS)
    else:
        assert second is not None
        second = _second_moment(second, g, exponent)
        size = EMBEDDING_RATE * rate if spec.kind == "embedding" else HEAD_RATE * rate / math.sqrt(spec.columns)
        # |m| <= 2**31 and 22 bits of K_row: the product does not round.
        change = m * np.ldexp(_row_factors(second, size), t.grid + m_exponent)[:, None]
    np.rint(change, out=change)
    weight = np.subtract(t.weight, change, out=change)
    if _largest(weight) > WEIGHT_MAX:
        raise OutOfRange(f"{spec.name}: a weight exceeds 2**30.9 on grid 2**-{t.grid}")
    return TensorState(
        weight=weight.astype(np.int32),
        grid=t.grid,
        momentum=m.astype(np.int32),
        momentum_exponent=m_exponent,
        second=second,
        sum_exponent=next_exponent(largest, exponent),
    )


# Momentum


def _add_to_momentum(t: TensorState, g: Float64, exponent: int, largest: int) -> tuple[Float64, int]:
    """New momentum as whole numbers, and its exponent. Its norm is at most 2**30 + sqrt(size).

    Each of the two terms is exact before its rounding: 31 bits of momentum times 20 of the decay.
    """
    m = t.momentum.astype(np.float64)
    decayed = MOMENTUM_DECAY * momentum_bound(m)
    added = sum_bound(g, largest)
    low = min(t.momentum_exponent - 20, exponent)
    bound = (decayed << t.momentum_exponent - 20 - low) + (added << exponent - low)
    new = MOMENTUM_EXPONENT_MIN
    if bound:
        new = max(new, low + (bound - 1).bit_length() - 30)
    m *= MOMENTUM_DECAY
    m = round_shift(m, new + 20 - t.momentum_exponent)
    m += round_shift(g, new - exponent)
    return m, new


def momentum_bound(m: Float64) -> int:
    """An upper bound of the norm of a momentum (norm up to 2**30 + sqrt(size)), 0 for an empty one."""
    return _norm_bound(m, 4)


def sum_bound(g: Float64, largest: int) -> int:
    """An upper bound of the norm of a gradient sum with this largest |entry|, 0 for an empty one.

    The shift is the least at which `size` squares of the largest entry stay below 2**53.
    """
    return _norm_bound(g, max(0, math.ceil((2 * largest.bit_length() + (g.size - 1).bit_length() - 52) / 2)))


def _norm_bound(x: Float64, shift: int) -> int:
    """`2**shift (isqrt(S) + 2 + isqrt(size))` with `S = sum R(x, shift)**2`; 0 if x is 0.

    Rounding moves the norm by at most `sqrt(size) / 2`. The caller's shift keeps S below 2**53: for a norm of
    2**30 a shift of 4 does.
    """
    y = round_shift(x, shift)
    squares = int(np.dot(y.ravel(), y.ravel()))
    if squares == 0 and not x.any():
        return 0
    return (math.isqrt(squares) + 2 + math.isqrt(x.size)) << shift


# Muon


def newton_schulz(m: Float64, product: Product = np.matmul) -> Float64:
    """Whole numbers on 2**-25 near the orthogonal matrix nearest to a momentum (its singular values near 1).

    Start: `X = rint(m floor22(2**25 / N))`, of norm 1 at most (and 2**-14 for rounding). Then five times, for
    a wide X (a tall one is transposed, so the Gram matrix is the smaller one), with
    `a, b, c = 3.4445, -4.7750, 2.0315`:

        A = R(X X^T, 25),  A2 = R(A A^T, 25),  Q = a I + R(b A + c A2, 20),  X = R(Q X, 25)

    The polynomial `a s + b s**3 + c s**5` maps singular values in [0, 1.25] into [0, 1.2025] and rounding
    moves X by less than 2**-10 up to width 4096, so the spectral norm stays below 1.25. Products, in bits:
    X X^T 50.7, A A^T 51.3, Q X: |Q| <= 3.4445 at s = 0, so 26.8 + 25.3 = 52.1.
    """
    bound = momentum_bound(m)
    if bound == 0:
        return np.zeros_like(m)
    tall = m.shape[0] > m.shape[1]
    x = m.T if tall else m
    # floor(2**25 / N) to 22 bits: numerator and shift are whole numbers, and 31 + 22 bits do not round.
    bits = bound.bit_length()
    x = _round_in_place(x * float((1 << bits + 21) // bound), bits - 4)
    diagonal = np.arange(x.shape[0])
    for _ in range(NEWTON_SCHULZ_STEPS):
        a = _round_in_place(product(x, x.T), X_BITS)
        q = _round_in_place(product(a, a.T), X_BITS)  # A is symmetric; written so, numpy computes half of it
        q *= _C
        a *= _B
        q += a
        np.rint(q, out=q)  # 48 bits before it: whole numbers times coefficients on 2**-20
        q[diagonal, diagonal] += _A * 2.0**X_BITS
        x = _round_in_place(product(q, x), X_BITS)
    return x.T if tall else x


def _round_in_place(x: Float64, bits: int) -> Float64:
    """`round_shift` without a new array: a tenth to a quarter of the iteration's time."""
    x *= 2.0**-bits
    return np.rint(x, out=x)


# Embedding and head


def row_squares(x: Float64) -> Float64:
    """Sum of squares of each row of whole numbers below 2**32, exact after a rounding of large entries.

    A row whose squares could add up to more than 2**52 is first rounded, by as few bits as avoid that; each
    partial sum is then a whole number below 2**53.
    """
    largest = np.max(np.abs(x), axis=1, initial=0.0)
    room = 26 - ((x.shape[1] - 1).bit_length() + 1) // 2
    shift = np.maximum(0, np.frexp(largest)[1] - room)
    y = np.ldexp(x, -shift[:, None])
    np.rint(y, out=y)
    squares: Float64 = np.ldexp(np.einsum("ij,ij->i", y, y), 2 * shift)
    return squares


def _second_moment(second: Float64, g: Float64, exponent: int) -> Float64:
    """Decay v and add the round's mean squares. Products are exact (32 + 20 bits): only the sum rounds."""
    mean = round_bits(np.ldexp(row_squares(g) / g.shape[1], 2 * exponent), 32)
    kept = second * (SECOND_DECAY * 2.0**-20)
    v = round_bits(kept + mean * ((2**20 - SECOND_DECAY) * 2.0**-20), 32)
    v[v < SECOND_MIN] = 0.0
    return v


def _row_factors(second: Float64, size: float) -> Float64:
    largest = float(second.max())
    if largest == 0.0:
        return np.zeros_like(second)
    root = np.sqrt(np.maximum(second, largest * SECOND_RATIO_MIN))
    return round_bits((1 - MOMENTUM_DECAY * 2.0**-20) * size / root, 22)


def round_bits(x: Float64 | np.float64, bits: int) -> Float64:
    """Round to `bits` significant bits, half to even."""
    mantissa, exponent = np.frexp(x)
    rounded: Float64 = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    return rounded


# Weights


def weights(state: StageState) -> dict[str, Float32]:
    """The weights as the forward pass uses them: float32(W 2**-grid), one rounding."""
    return {n: t.weight.astype(np.float32) * np.float32(2.0**-t.grid) for n, t in state.tensors.items()}


def grow_grids(state: StageState) -> StageState:
    """Halve the resolution of each tensor whose longest vector passes 2**30.5; called at an epoch's edge.

    The vector is the one a turn contracts: a row of a tensor that reads, a column of one that writes. With at
    most 2**30.5 a turn's product stays below 2**53.
    """
    tensors = {}
    for spec in state.shape.tensors():
        t = state.tensors[spec.name]
        w = t.weight.astype(np.float64)
        if float(row_squares(w if spec.side == "reads" else w.T).max()) > 2.0**61:
            t = replace(t, weight=round_shift(w, 1).astype(np.int32), grid=t.grid - 1)
        tensors[spec.name] = t
    return replace(state, tensors=tensors)


# Small parts


def _largest(x: npt.NDArray[np.int32] | Int64 | Float64) -> int:
    """Largest absolute value; right for the least int32 too."""
    return max(int(x.max(initial=0)), -int(x.min(initial=0)))


def _checked_sum(spec: TensorShape, sums: Mapping[str, Int64], exponents: Mapping[str, int]) -> tuple[Int64, int]:
    if spec.name not in sums or spec.name not in exponents:
        raise OutOfRange(f"{spec.name}: its gradient sum or exponent is missing")
    total = sums[spec.name]
    if total.shape != (spec.rows, spec.columns) or total.dtype.kind != "i":
        raise OutOfRange(
            f"sum of {spec.name}: expected whole numbers {(spec.rows, spec.columns)}, got {total.dtype} {total.shape}"
        )
    if _largest(total) > SUM_MAX:
        raise OutOfRange(f"sum of {spec.name}: an entry exceeds {SUM_MAX}")
    _check_exponent(exponents[spec.name])
    return total, exponents[spec.name]


def _check_exponent(exponent: int) -> None:
    if abs(exponent) > SUM_EXPONENT_LIMIT:
        raise OutOfRange(f"exponent of a gradient sum: {exponent} is beyond {SUM_EXPONENT_LIMIT}")
