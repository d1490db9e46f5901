"""Whether the properties hold: over one run while it grows, and over many runs together.

`Judge` hears every step of a run and stops it at the shortest history that breaks something. `Outcome` is what all
runs of a spec in one world say together, as plain data that prints as JSON.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias

import msgspec

from .history import History
from .schedule import Schedule

World: TypeAlias = Literal["model", "code", "wire"]
Result: TypeAlias = Literal["held", "broken", "reached", "never", "unknown"]

NO_CRASH, BOUNDS = "no crash", "bounds"  # what every spec demands of its roles, beside its own properties


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A property that a run breaks. message: what it said; step: index of the last step of the shortest such history
    (-1: time ran out, the whole history shows it)."""

    property: str
    message: str = ""
    step: int = -1


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `history` ends where it broke.

    reached: the `sometimes` that it reached. rated: what each `rate` said of it. quiet: see `Seen`. seconds: virtual.
    """

    schedule: Schedule
    world: World
    history: History
    broken: Broken | None = None
    reached: frozenset[str] = frozenset()
    rated: dict[str, bool | None] = {}
    quiet: float | None = None
    seconds: float = 0.0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One property over all runs.

    result: "held" or "broken"; for `sometimes`, "reached" or "never"; for `rate`, "unknown" if more runs are needed.
    text: the author's statement. message: what a broken property said. share: of the runs, for `sometimes` and `rate`.
    """

    kind: str
    name: str
    text: str
    result: Result
    message: str = ""
    share: float | None = None


class Counterexample(msgspec.Struct, frozen=True, kw_only=True):
    """A run that breaks a property, as small as it was found; `history` ends where it breaks.

    found: "regression", "small scope", "random" or "replay". other_worlds: for each other world it was tried in, "same
    history", or where they part.
    """

    broken: Broken
    schedule: Schedule
    history: History
    found: str
    other_worlds: dict[str, str] = {}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A spec in one world.

    runs: all of them, the enumerated ones included. enumerated: how many schedules of small scope; complete: whether
    these were all there are. counts: how often each thing happened, by "act NAME", "impossible NAME", "deliver",
    "timer", "crash" and the marks of messages.
    """

    spec: str
    world: World
    statement: str
    seed: int
    runs: int
    seconds: float
    enumerated: int
    complete: bool
    verdicts: tuple[Verdict, ...]
    counts: dict[str, int]
    warnings: tuple[str, ...] = ()
    counterexample: Counterexample | None = None

    @property
    def learned(self) -> bool:
        """Whether any action ran, and every rate has an answer."""
        acted = any(number and name.startswith("act ") for name, number in self.counts.items())
        return acted and all(verdict.result != "unknown" for verdict in self.verdicts)

    def exit_code(self, *, strict: bool = False) -> int:
        """0 all held; 1 broken, or a warning under `strict`; 2 nothing learned."""
        if self.counterexample is not None or any(verdict.result == "broken" for verdict in self.verdicts):
            return 1
        if not self.learned:
            return 2
        return 1 if strict and self.warnings else 0


class MutantOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one wrong role. `breaks`: the property it must break; `broke`: the one found first, if any.

    killed: it broke `breaks`.
    """

    spec: str
    name: str
    text: str
    breaks: str
    broke: str | None
    killed: bool
    runs: int
    counterexample: Counterexample | None = None


def count(history: History, counts: Counter[str]) -> None:
    """Add up what happened in one run."""
    for step in history:
        if step.kind in ("act", "impossible"):
            counts[f"{step.kind} {step.name}"] += 1
        elif step.kind == "send":
            counts["send"] += 1
            if step.mark:
                counts[step.mark] += 1
        elif step.kind == "crash":
            counts["death" if step.mark == "dead" else "crash"] += 1
        else:
            counts[step.kind] += 1
