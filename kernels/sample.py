"""Draw the next token from logits: temperature, then the smallest set of tokens that holds a share of probability.

Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1 (nucleus sampling).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .errors import NonFinite, OutOfRange


def draw(
    logits: npt.NDArray[np.floating[npt.NBitBase]], *, temperature: float, top_p: float, seed: int, position: int
) -> int:
    """Draw one token; the same arguments give the same one.

    Args:
        logits: (tokens,). temperature: 0 takes the likeliest. top_p: share of probability that is kept, in (0, 1].
        seed, position: name the random number, so that every step of a text has its own.

    Raises:
        NonFinite: a logit is NaN or infinite. OutOfRange: temperature or top_p.
    """
    if not (0 <= temperature < math.inf and 0 < top_p <= 1):
        raise OutOfRange(f"temperature {temperature} and top_p {top_p}: expected >= 0 and in (0, 1]")
    if not np.isfinite(logits).all():
        raise NonFinite("a logit is not finite")
    scores = logits.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    if temperature == 0:
        return int(order[0])
    with np.errstate(over="ignore", under="ignore"):  # a far smaller logit has no weight
        weights = np.exp((scores[order] - scores[order[0]]) / temperature)
    total = np.cumsum(weights)
    kept = int(np.searchsorted(total, top_p * total[-1])) + 1
    uniform = np.random.Generator(np.random.Philox(key=seed, counter=position)).random()
    return int(order[min(int(np.searchsorted(total[:kept], uniform * total[kept - 1], side="right")), kept - 1)])
