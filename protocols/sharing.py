"""Micro-batches to replicas, in proportion to how fast each is.

>>> share_out(6, [1.0, 2.0])
(1, 0, 1, 1, 0, 1)
>>> share_out(4, [1.0, 1.1])
(0, 1, 0, 1)
"""

from __future__ import annotations

from collections.abc import Sequence

ALIKE = 1.25  # paces within this factor count as equal: they are measured on machines that do other things too


def share_out(count: int, paces: Sequence[float], *, first: int = 0) -> tuple[int, ...]:
    """For each of `count` micro-batches its replica; every replica gets one if there are enough.

    Args:
        paces: of the replicas, 0 where nobody knows: those count as the mean of the others.
        first: which replica is the first of several alike.
    """
    size = len(paces)
    known = [pace for pace in paces if pace > 0]
    mean = sum(known) / len(known) if known else 1.0
    weights = [pace if pace > 0 else mean for pace in paces]
    if max(weights) < ALIKE * min(weights):
        return tuple((first + m) % size for m in range(count))
    quotas = _quotas(count, weights)
    credit, order = [0.0] * size, []
    for _ in range(count):  # each in its turn, so that nobody's share comes in one block
        credit = [had + quota / count for had, quota in zip(credit, quotas, strict=True)]
        chosen = max(range(size), key=lambda replica: (credit[replica], -replica))
        credit[chosen] -= 1
        order.append(chosen)
    return tuple(order)


def _quotas(count: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `count`, by largest remainder; at least 1 each if that can be."""
    shares = [count * weight / sum(weights) for weight in weights]
    quotas = [int(share) for share in shares]
    by_remainder = sorted(range(len(weights)), key=lambda i: (quotas[i] - shares[i], i))
    for i in by_remainder[: count - sum(quotas)]:
        quotas[i] += 1
    for i, quota in enumerate(quotas):
        if not quota and max(quotas) > 1:
            quotas[i] += 1
            quotas[quotas.index(max(quotas))] -= 1
    return quotas
