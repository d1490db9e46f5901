"""Who is alive: whoever has been silent for longer than its own habit explains counts as dead.

Time is counted in looks, which somebody takes at equal intervals, so that this needs no clock.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

from .canonical import Message

BEAT_S = 1.0  # between two signs of life, and between two looks
FLOOR = 3  # looks that anybody may be silent beyond its habit: one lost message, and a machine that is busy
DEVIATIONS = 4
GAPS = 32  # the last ones make the habit


class Beat(Message, frozen=True, array_like=True, kw_only=True):
    """A node or relay lives."""


@dataclass(slots=True)
class _Peer:
    silent: int = 0
    gaps: deque[int] = field(default_factory=lambda: deque(maxlen=GAPS))


class Pulse:
    """Counts silence. Whoever was never heard of has no pulse."""

    def __init__(self) -> None:
        self._peers: dict[bytes, _Peer] = {}

    def expect(self, who: bytes) -> None:
        """It should be heard from now on."""
        self._peers.setdefault(who, _Peer())

    def heard(self, who: bytes) -> None:
        """Something came of it."""
        peer = self._peers.setdefault(who, _Peer())
        if peer.silent:
            peer.gaps.append(peer.silent)
        peer.silent = 0

    def look(self) -> None:
        """The interval is over."""
        for peer in self._peers.values():
            peer.silent += 1

    def alive(self, who: bytes) -> bool:
        """Whether its silence is shorter than the median of its gaps and DEVIATIONS of them, and FLOOR."""
        peer = self._peers.get(who)
        if peer is None:
            return False
        habit = 1.0
        if peer.gaps:
            median = statistics.median(peer.gaps)
            habit = median + DEVIATIONS * statistics.median(abs(gap - median) for gap in peer.gaps)
        return peer.silent <= FLOOR + math.ceil(habit)
