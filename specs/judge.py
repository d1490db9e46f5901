"""Whether the properties hold: over one run while it grows, and over many runs together.

`Judge` hears every step of a run and stops it at the shortest history that breaks something. `Outcome` is what all
runs of a spec in one world say together, as plain data that prints as JSON.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import msgspec

from interlock.protocols.errors import Misused

from .history import History, Seen, Step
from .schedule import Schedule
from .spec import Property, Spec

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
    "timer", "crash" and the marks of messages. asked: whether anybody was to act: not so where a schedule of faults
    alone is replayed.
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
    asked: bool = True
    warnings: tuple[str, ...] = ()
    counterexample: Counterexample | None = None

    @property
    def learned(self) -> bool:
        """Whether any action ran, and every rate has an answer."""
        acted = any(number and name.startswith("act ") for name, number in self.counts.items())
        return (acted or not self.asked) and all(verdict.result != "unknown" for verdict in self.verdicts)

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
        elif step.kind == "done":
            counts["done"] += 1
            if step.mark:
                counts[step.mark] += 1
        elif step.kind == "crash":
            counts["death" if step.mark == "dead" else "crash"] += 1
        else:
            counts[step.kind] += 1


def judge_history(
    spec: Spec, history: Iterable[Step], *, quiet: float | None = None, only: Collection[str] | None = None
) -> Judge:
    """Judge what was written down, such as the steps of real processes.

    Args:
        quiet: when faults ended; None if nobody knows, and then no `eventually` is judged.
        only: names of the properties to judge; None is all of them.

    Raises:
        Misused: a property is not one (E802, E805).
    """
    judge = Judge(spec, only)
    for step in history:
        if quiet is not None and judge.quiet is None and step.at > quiet:
            judge.calm(quiet)
        judge.take(step)
        if judge.decided:
            break
    if quiet is not None and not judge.decided:
        if judge.quiet is None:
            judge.calm(quiet)
        for part in judge.eventualities:
            judge.due(part.name)
    judge.end()
    return judge


class _Watched:
    """A property of one run. reads: what its last answer depended on; None before it was first asked."""

    def __init__(self, part: Property) -> None:
        self.part = part
        self.reads: set[object] | None = None
        self.holds: bool | None = None


class Judge:
    """Hears the steps of one run, in order, and decides when it is over.

    Args:
        only: names of the properties to judge; None is all of them.
        within_most: seconds that an `eventually` has at most.

    Attributes:
        broken: what broke first. reached: the `sometimes` reached. rated: at the end, what each `rate` says.
        decided: nothing more needs to happen.
        quiet: when the quiet phase began.
    """

    def __init__(self, spec: Spec, only: Collection[str] | None = None, *, within_most: float = math.inf) -> None:
        self.broken: Broken | None = None
        self.reached: set[str] = set()
        self.rated: dict[str, bool | None] = {}
        self.decided = False
        self.quiet: float | None = None
        self._spec, self._only = spec, only
        self._seen = Seen()
        self._steps = 0
        self._settled = False
        self._error: Misused | None = None
        parts = [p for p in spec.properties().values() if p.kind == "sometimes" or only is None or p.name in only]
        self.eventualities = [
            replace(part, within=min(part.within, within_most)) for part in parts if part.kind == "eventually"
        ]
        self._open = {part.name: _Watched(part) for part in self.eventualities}  # their time is not up
        self._always = [_Watched(part) for part in parts if part.kind == "always"]
        self._sometimes = [_Watched(part) for part in parts if part.kind == "sometimes"]
        self._rates = [part for part in parts if part.kind == "rate"]

    def reads(self, name: str) -> set[object]:
        """What the last answer of a property depended on, in the words of `Seen`; nothing once a `sometimes` is
        reached."""
        return next((w.reads or set() for w in (*self._always, *self._sometimes) if w.part.name == name), set())

    def take(self, step: Step) -> None:
        """One more step happened."""
        self._steps += 1
        self._seen.take(step)
        self._ask()

    def calm(self, at: float) -> None:
        """The quiet phase began: what must come to hold has its time from now."""
        self.quiet = at
        self._seen.calm(at)
        self._ask()

    def settle(self) -> None:
        """The run may end as soon as everything holds."""
        self._settled = True
        self._conclude()

    def due(self, name: str) -> None:
        """The time of an `eventually` is up."""
        watched = self._open.pop(name, None)
        if watched is None or self.decided:
            return
        if not watched.holds:
            message = f"not within {watched.part.within:g} s of the end of the faults"
            self.breaks(Broken(property=name, message=message))
        self._conclude()

    def breaks(self, broken: Broken) -> None:
        """Something is broken. The first stays; if only some properties are judged, others end the run without it."""
        if not self.decided:
            self.broken = broken if self._only is None or broken.property in self._only else None
            self.decided = True

    def end(self) -> None:
        """The run is over.

        Raises:
            Misused: E802, a property gave no answer; E805, it raised an error of its own.
        """
        if self._error is None and self.broken is None:
            for part in self._rates:
                self.rated[part.name] = self._call(part)
        if self._error is not None:
            raise self._error

    def _ask(self) -> None:
        """Ask again every property whose answer may have changed."""
        changed = self._seen.changes()
        for watched in self._always:
            if self._again(watched, changed) and watched.holds is False and not self.decided:
                self.breaks(Broken(property=watched.part.name, message=self._said, step=self._steps - 1))
        if self._sometimes:
            for watched in self._sometimes:
                if self._again(watched, changed) and watched.holds:
                    self.reached.add(watched.part.name)
            self._sometimes = [w for w in self._sometimes if w.part.name not in self.reached]
        if self.quiet is not None:
            asked = [watched for watched in self._open.values() if self._again(watched, changed)]
            if asked:
                self._conclude()

    def _again(self, watched: _Watched, changed: set[object]) -> bool:
        """Ask a property if what it read has changed. Gives whether it was asked."""
        if self._error is not None or not (watched.reads is None or watched.reads & changed):
            return False
        watched.reads = self._seen.reading()
        watched.holds = self._call(watched.part)
        return True

    def _call(self, part: Property) -> bool | None:
        self._said = ""
        try:
            answer: Any = part.call(self._spec, self._seen)
        except AssertionError as error:
            self._said = str(error)
            return False
        except Exception as error:
            self._wrong(805, part, f"raised {type(error).__name__}: {error}", error)
            return None
        if answer is None and part.kind != "rate":
            self._wrong(802, part, "returned None", None)
        return None if answer is None else bool(answer)

    def _wrong(self, number: int, part: Property, what: str, cause: Exception | None) -> None:
        """The property itself is at fault: the run ends, and `end` raises."""
        self._error = Misused(
            number,
            f"property {part.name} of spec {self._spec.name} {what}",
            expected="True or False" if part.kind != "rate" else "True, False or None",
            actual="None" if cause is None else type(cause).__name__,
            todo="Return whether it holds, or assert with a message and return True.",
        )
        self._error.__cause__ = cause
        self.decided = True

    def _conclude(self) -> None:
        if self._settled and all(watched.holds for watched in self._open.values()):
            self.decided = True
