"""What an attack is, what it finds, and what it costs: every module here is one attack or one family of them.

An attack runs against the program's own kernels, keys, roles and engine. One that is expected to fail carries a
control: the same program, given the one thing that it lacked, wins. Without that, failure would only show that the
attack is badly written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

AS_IT_IS = "as it is"


@dataclass
class Cost:
    """What the attacker spent; what it took to play the run that is attacked is not in it.

    cpu_s: processor seconds. tokens: text that was run through stages. seen_bytes: what was recorded or stolen.
    """

    cpu_s: float = 0.0
    tokens: int = 0
    seen_bytes: int = 0

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Add the processor seconds of a block."""
        start = time.process_time()
        try:
            yield
        finally:
            self.cpu_s += time.process_time() - start


@dataclass(frozen=True)
class Found:
    """What one attack came to.

    won: the attacker has what it wanted. recovered: what it has, in a few words with numbers. measures: the numbers
    that `won` was judged by. control: whether the same program wins where it must (for tampering: whether it came to
    it at all); None for an attack that needs none.
    """

    won: bool
    recovered: str
    measures: Mapping[str, float]
    cost: Cost
    control: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One row of the table.

    name: unique. who: what the attacker holds. target: `AS_IT_IS`, or which part of a weakened copy is missing. wins:
    what the threat model says. short: smaller sizes, for `make test`.
    """

    name: str
    who: str
    wins: bool
    run: Callable[..., Found]
    target: str = AS_IT_IS
    given: Mapping[str, Any] = field(default_factory=dict)
    short: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> Literal["wins", "fails"]:
        """What the threat model says."""
        return "wins" if self.wins else "fails"

    def carry_out(self, *, short: bool = False) -> Found:
        """Run it in full, or with the smaller sizes."""
        return self.run(**self.given, **(self.short if short else {}))

    def holds(self, found: Found) -> bool:
        """Whether it ended as the threat model says, with a control that won."""
        return found.won == self.wins and (found.control is True or (self.wins and found.control is None))
