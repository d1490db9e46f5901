"""Who together holds every stage: how extractable a run's model is, and just as hard to switch off.

A coalition with a member at every stage can glue the model together, and can go on with it after a halt. So these
figures measure both: `smallest_cover` for operators that get together, `chance` for ones that happen to be bad.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

SEARCH_MAX = 20_000  # steps of the search for a smaller cover; where each holds one stage it takes as many as stages


@dataclass(frozen=True, slots=True)
class Cover:
    """Operators that together hold every stage, sorted.

    exact: none smaller does. Otherwise the search ended at its bound, and a smaller one may.
    """

    operators: tuple[str, ...]
    exact: bool


def smallest_cover(holdings: Mapping[str, Collection[int]], stages: int) -> Cover | None:
    """Find the fewest operators that together hold stages 0 to `stages - 1`; None if all of them do not.

    Args:
        holdings: what each operator holds. By custody one stage each; but one that has several identities may have
            got several stages.

    >>> smallest_cover({"ada": [0], "bela": [1], "cleo": [1]}, 2)
    Cover(operators=('ada', 'bela'), exact=True)
    >>> smallest_cover({"ada": [0], "bela": [0]}, 2) is None
    True
    """
    held = {who: frozenset(s for s in those if 0 <= s < stages) for who, those in sorted(holdings.items())}
    everything = frozenset(range(stages))
    if frozenset().union(*held.values()) != everything:
        return None
    return _Search(_useful(held)).run(everything)


def _useful(held: Mapping[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """Leave out whoever holds no more than somebody else does, the first of equals excepted."""
    found: dict[str, frozenset[int]] = {}
    for who, those in sorted(held.items(), key=lambda item: (-len(item[1]), item[0])):
        if those and not any(those <= kept for kept in found.values()):
            found[who] = those
    return found


class _Search:
    """Branch and bound over the stage that the fewest hold: one of those has to be in any cover."""

    def __init__(self, held: Mapping[str, frozenset[int]]) -> None:
        self._held = held
        self._largest = max((len(those) for those in held.values()), default=1)
        stages = sorted(frozenset().union(*held.values()))
        self._holders = {stage: [who for who, those in held.items() if stage in those] for stage in stages}
        self._best: tuple[str, ...] = tuple(held)
        self._steps = 0

    def run(self, missing: frozenset[int]) -> Cover:
        self._best = tuple(self._greedy(missing))
        self._descend(missing, ())
        return Cover(tuple(sorted(self._best)), exact=self._steps <= SEARCH_MAX)

    def _greedy(self, missing: frozenset[int]) -> Iterable[str]:
        while missing:
            who = max(self._held, key=lambda name: len(self._held[name] & missing))
            missing -= self._held[who]
            yield who

    def _descend(self, missing: frozenset[int], chosen: tuple[str, ...]) -> None:
        self._steps += 1
        if len(chosen) + -(-len(missing) // self._largest) >= len(self._best) or self._steps > SEARCH_MAX:
            if not missing and len(chosen) < len(self._best):
                self._best = chosen
            return
        if not missing:
            self._best = chosen
            return
        rarest = min(sorted(missing), key=lambda stage: len(self._holders[stage]))
        for who in self._holders[rarest]:
            self._descend(missing - self._held[who], (*chosen, who))


def chance_by_formula(fraction: float, holders: Sequence[int]) -> float:
    """The chance that each stage has a bad holder, if each is bad by itself with this chance: `(1 - (1-f)^r)^S`.

    Args:
        holders: how many hold each stage, r each; where they differ, the product over stages.

    >>> round(chance_by_formula(0.5, [2, 2, 2]), 4)
    0.4219
    """
    return math.prod(1.0 - (1.0 - fraction) ** r for r in holders)


def chance(bad: int, holders: Sequence[int], *, missing: int = 0) -> Fraction:
    """The chance that all stages but at most `missing` have a bad holder, if just `bad` holders drawn at random are.

    Each holds one stage. Inclusion and exclusion: `C(N - j, bad)` draws avoid j given holders, and the holders of a
    set of stages come to j together in as many ways, with their signs, as the product of `1 - y^r` over the stages
    has at y^j. Where a stage is to be missed its factor is `y^r`. All in integers, so the value is exact.

    Args:
        bad: at most all. missing: 0 for whoever holds everything, 1 for all stages but one.

    >>> chance(1, [1, 1]), chance(1, [1, 1], missing=1)
    (Fraction(0, 1), Fraction(1, 1))
    >>> chance(2, [2, 2])
    Fraction(2, 3)
    """
    total = sum(holders)
    assert 0 <= bad <= total
    ways = [[0] * (total + 1) for _ in range(missing + 1)]  # [stages missed so far][holders avoided]
    ways[0][0] = 1
    for r in holders:
        ways = [
            [
                row[j] - (row[j - r] if j >= r else 0) + (ways[missed - 1][j - r] if missed and j >= r else 0)
                for j in range(total + 1)
            ]
            for missed, row in enumerate(ways)
        ]
    draws = sum(count * math.comb(total - j, bad) for row in ways for j, count in enumerate(row) if count)
    return Fraction(draws, math.comb(total, bad))
