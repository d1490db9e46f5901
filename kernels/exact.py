"""Integer matrix products in float64, with the same values on every machine.

float64 holds every integer up to 2**53, so a sum of products is exact, whatever its order, threads, vector
width or fused operations, if no partial sum passes 2**53. By Cauchy-Schwarz every partial sum of an entry,
over any subset of its terms, is at most the product of its row's and its column's length, because leaving
terms out only shortens the vectors: one bound for all orders, from norms that cost one pass. (A method that
adds rows before it multiplies, such as Strassen's, is outside the argument.) Only the sign of a zero may
differ; it is gone once a result is int32.

Arrays are numpy's, torch's or, with x64 enabled, jax's; `xp` is the module they come from. That they hold
whole numbers is the caller's duty: most that do not are noticed, because squares of whole numbers add up to a
whole number, but a check of every entry would cost a twentieth of the product.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from .errors import NotExact, OutOfRange

A = TypeVar("A", bound=Any)  # a float64 array of numpy, torch or jax


def matmul(a: A, b: A, *, xp: ModuleType = np) -> A:
    """Multiply two matrices of whole numbers exactly.

    Args:
        a: float64, shape (n, k). b: float64, shape (k, m). The longest row of a times the longest column of b
            must be below 2**53.
        xp: numpy, torch or jax.numpy.

    Raises:
        NotExact: the bound fails or is within a relative k 2**-51 of failing, or an entry is not finite or
            was found not to be whole.
        OutOfRange: the arrays are not float64 matrices that fit together.
    """
    _check_matrix(a, xp)
    _check_matrix(b, xp)
    if a.shape[1] != b.shape[0]:
        raise OutOfRange(f"matrices to multiply: expected (n, k) and (k, m), got {tuple(a.shape)} and {tuple(b.shape)}")
    _check_bound(_longest(a, 1), _longest(b, 0), a.shape[1])
    product: A = xp.matmul(a, b)
    return product


def gram(a: A, *, xp: ModuleType = np) -> A:
    """Give `a @ a.T` exactly; the longest row of a must be below 2**26.5. Numpy does half the work (syrk).

    Raises:
        NotExact, OutOfRange: as `matmul`.
    """
    _check_matrix(a, xp)
    longest = _longest(a, 1)
    _check_bound(longest, longest, a.shape[1])
    product: A = xp.matmul(a, a.T)
    return product


def round_shift(x: A, bits: int, *, xp: ModuleType = np) -> A:
    """Give `rint(x 2**-bits)`, half to even: a float64 array of whole numbers on a grid coarser by `bits`."""
    scaled: A = x * 2.0**-bits
    if xp is np:  # in place: a second array of this size costs more than the arithmetic
        np.rint(scaled, out=scaled)
        return scaled
    rounded: A = xp.round(scaled)
    return rounded


def _check_matrix(a: Any, xp: ModuleType) -> None:
    if a.dtype != xp.float64 or a.ndim != 2:
        raise OutOfRange(f"matrix to multiply: expected float64 (n, k), got {a.dtype} {tuple(a.shape)}")


def _longest(a: Any, axis: int) -> float:
    """Give the largest sum of squares along an axis, as float64 adds it; NaN if one is NaN."""
    if 0 in a.shape:
        return 0.0
    with np.errstate(over="ignore"):
        squares = (a * a).sum(axis)
    # Below 2**53 the sum of whole squares is exact, hence whole; above, every float64 is.
    if not bool((squares == squares.round()).all()):
        raise NotExact("matrices to multiply: expected finite whole numbers")
    return float(squares.max())


def _check_bound(squares_a: float, squares_b: float, terms: int) -> None:
    """Raise unless two vectors with these sums of squares have a product of lengths below 2**53.

    The sums were rounded. Of nonnegative terms, in any order, a computed sum is at least the true one times
    `1 - g`, `g = k u / (1 - k u)`, `u = 2**-53`; for k < 2**40, `1 / (1 - g)**2 < 1 + 4 k u`. The 8 u more
    are for the products below. (At most the bound turns away what would just have been exact.)

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 4.2.
    """
    if not squares_a * squares_b * (1 + (terms + 2) * 2.0**-51) < 2.0**106:  # false for NaN, too
        raise NotExact(
            "integer product in float64: expected longest row x longest column below 2**53, "
            f"got {squares_a**0.5:.6g} x {squares_b**0.5:.6g}"
        )
