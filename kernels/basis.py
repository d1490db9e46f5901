"""Secret bases: a stage's residual stream lives in an orthonormal frame that its group turns at each epoch.

A turn is an orthogonal matrix A (d, d) as whole numbers on 2**-22. It takes a vector x of the stream to
`A x`, a tensor that reads to `W A^T`, one that writes to `A W`; momentum turns like its weight, a row's
second moment is invariant. A stage applies its bridge G to what it receives, so `G' = A_D G A_U^T` with the
turns of this stage (D) and the one before (U). All of it is exact up to one rounding a product, so all
members get equal bits from equal A; what differs between machines is only how A is drawn, hence members
compare to one unit and use the integers that their lead sent.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .errors import OutOfRange
from .exact import gram, matmul, round_shift
from .initial import Keystream
from .muon import Float64, row_squares
from .state import Int32, StageState, TensorState

TURN_GRID = 22
BRIDGE_GRID = 29
ORTHOGONALITY = 2.0**-19  # largest |A A^T - I|; rounding to the grid leaves about 2**-21


def haar(seed: bytes, d: int) -> Float64:
    """Draw a Haar-distributed orthogonal matrix, shape (d, d), from 32 secret bytes.

    Gaussian entries by Box-Muller from the keystream, then QR with the signs that make R's diagonal positive.
    Neither `log` nor LAPACK gives the same last bits everywhere.

    Source: Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the
    AMS 54 (2007), section 5.
    """
    if d < 1:
        raise OutOfRange(f"width must be positive, not {d}")
    words = np.frombuffer(Keystream(seed, f"haar/{d}").take(16 * d * d), "<u8").reshape(2, d, d)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1)
    gaussian = np.sqrt(-2 * np.log(uniform[0])) * np.cos(2 * np.pi * uniform[1])
    q, r = np.linalg.qr(gaussian)
    drawn: Float64 = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return drawn


def quantise_turn(a: Float64) -> Int32:
    """Round an orthogonal matrix to int32 on 2**-22."""
    return np.rint(np.ldexp(a, TURN_GRID)).astype(np.int32)


def quantise_bridge(g: Float64) -> Int32:
    """Round an orthogonal matrix to int32 on 2**-29."""
    return np.rint(np.ldexp(g, BRIDGE_GRID)).astype(np.int32)


def verify_turn(a: Int32) -> None:
    """Check that A is orthogonal to within `max |A A^T - I| <= 2**-19`.

    The product is exact: rows are found to have about unit length before they are multiplied.

    Raises:
        OutOfRange: A is not a square int32 matrix, or not orthogonal enough.
    """
    if a.ndim != 2 or a.shape[0] != a.shape[1] or a.dtype != np.int32:
        raise OutOfRange(f"turn: expected a square int32 matrix, got {a.dtype} {a.shape}")
    whole = a.astype(np.float64)
    unit = 2.0 ** (2 * TURN_GRID)
    limit = ORTHOGONALITY * unit
    # Row lengths first: squares of short rows are exact, and long rows are refused however they are rounded.
    error = np.max(np.abs(row_squares(whole) - unit), initial=0.0)
    if error <= limit:
        product = gram(whole)
        product[np.diag_indices_from(product)] -= unit
        error = np.max(np.abs(product), initial=0.0)
    if error > limit:
        raise OutOfRange(f"turn: |A A^T - I| is {error / unit:.3g}, more than 2**-19")


def verify_bridge(g: Int32, *, turned: int = 0) -> None:
    """Check that a bridge is orthogonal to within `max |G G^T - I| <= (1 + turned) 2**-19`, in float64.

    Args:
        turned: how many turns it was multiplied with since it was drawn. Each may be off by as much as `verify_turn`
            lets pass, and these errors add up.

    Raises:
        OutOfRange: G is not a square int32 matrix, or not orthogonal enough.
    """
    if g.ndim != 2 or g.shape[0] != g.shape[1] or g.dtype != np.int32:
        raise OutOfRange(f"bridge: expected a square int32 matrix, got {g.dtype} {g.shape}")
    whole = np.ldexp(g.astype(np.float64), -BRIDGE_GRID)
    error = np.max(np.abs(whole @ whole.T - np.eye(len(g))), initial=0.0)
    limit = (1 + turned) * ORTHOGONALITY
    if error > limit:
        raise OutOfRange(f"bridge: |G G^T - I| is {error:.3g}, more than {limit:.3g}")


def verify_drawn(a: Int32, seed: bytes) -> None:
    """Check that A is the turn drawn from `seed`, to within one unit, which is how far machines may differ.

    Raises:
        OutOfRange: A is not a square int32 matrix or an entry is off by more.
    """
    if a.ndim != 2 or a.shape[0] != a.shape[1] or a.dtype != np.int32:
        raise OutOfRange(f"turn: expected a square int32 matrix, got {a.dtype} {a.shape}")
    off = np.max(np.abs(a.astype(np.int64) - quantise_turn(haar(seed, len(a)))), initial=0)
    if off > 1:
        raise OutOfRange(f"turn: an entry is {off} units from what its seed gives")


def turn(state: StageState, own: Int32 | None, *, turn_before: Int32 | None) -> StageState:
    """The state in the turned basis; None where a stage does not turn.

    Weights and momentum: `R(A W, 22)` or `R(W A^T, 22)`. Bridge: first `T = R(A_D G, 22)`, then
    `G' = R(T A_U^T, 22)`, two roundings. Bounds of the products, in bits: A has rows of length 2**22, weights
    vectors up to 2**30.9 (`grow_grids` first, to keep them there), momentum 2**30, bridges 2**29.

    Args:
        own: turn of this stage, int32 (d, d) on 2**-22, verified.
        turn_before: turn of the stage before; it only moves the bridge.

    Raises:
        OutOfRange: a turn is not orthogonal or of another width, or the first stage got a turn before it.
        NotExact: a weight's vector has outgrown its grid.
    """
    d = state.shape.width
    for a in (own, turn_before):
        if a is not None:
            verify_turn(a)
            if len(a) != d:
                raise OutOfRange(f"turn: expected width {d}, got {len(a)}")
    if turn_before is not None and state.bridge is None:
        raise OutOfRange("the first stage has no bridge: no stage before it turns")
    tensors = state.tensors if own is None else _turn_tensors(state, own.astype(np.float64))
    bridge = state.bridge
    if bridge is not None and own is not None:
        bridge = _turned(matmul(own.astype(np.float64), bridge.astype(np.float64)))
    if bridge is not None and turn_before is not None:
        bridge = _turned(matmul(bridge.astype(np.float64), turn_before.astype(np.float64).T))
    return replace(state, tensors=tensors, bridge=bridge)


def _turn_tensors(state: StageState, a: Float64) -> dict[str, TensorState]:
    tensors = {}
    for spec in state.shape.tensors():
        t = state.tensors[spec.name]

        def turned(x: Int32, reads: bool = spec.side == "reads") -> Int32:
            whole = x.astype(np.float64)
            return _turned(matmul(whole, a.T) if reads else matmul(a, whole))

        tensors[spec.name] = replace(t, weight=turned(t.weight), momentum=turned(t.momentum))
    return tensors


def _turned(product: Float64) -> Int32:
    return round_shift(product, TURN_GRID).astype(np.int32)
