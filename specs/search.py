"""Looking for a schedule that breaks a spec: pinned ones first, then a small scope completely, then at random.

What breaks at random is shrunk by Hypothesis to the fewest inputs, faults and forged messages. Statistical properties
(`rate`) have runs of their own, at fixed seeds. `check_mutants` turns the question round: wrong roles must break.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import exp, lgamma, log
from pathlib import Path
from typing import get_args

import hypothesis
import msgspec
from hypothesis import Phase

from interlock.protocols.errors import Misused

from .judge import (
    BOUNDS,
    NO_CRASH,
    Counterexample,
    MutantOutcome,
    Outcome,
    Result,
    Run,
    Verdict,
    World,
    count,
)
from .schedule import Schedule
from .scope import Scope, quiet_settings
from .spec import FAULTS, Property, Spec

KIT = {
    NO_CRASH: "No role raises an error that is not a peer's fault, and none stops unless it may.",
    BOUNDS: "A run stays within its bounds of messages, timers, steps and virtual seconds.",
}

Play = Callable[..., Run]  # (spec, schedule, only=) -> Run
Progress = Callable[[str, int], None]  # what is being done, and how many runs so far


def play(spec: type[Spec], schedule: Schedule, world: World = "model", *, only: Collection[str] | None = None) -> Run:
    """Run one schedule in one world.

    Args:
        only: the properties to judge; None is all of them.

    Raises:
        Misused: the schedule or a property is not one of this spec's (E802 to E806).
    """
    return _player(world)(spec, schedule, only=only)


def check(
    spec: type[Spec],
    world: World = "model",
    *,
    runs: int = 1000,
    seed: int = 1,
    small: bool = True,
    only: Collection[str] | None = None,
    pinned: Iterable[Schedule] | None = None,
    progress: Progress = lambda what, runs: None,
) -> Outcome:
    """Everything that can be said about a spec in one world.

    Args:
        runs: how many at random. seed: decides which. small: enumerate the small scope first.
        only: the properties to judge; None is all of them.
        pinned: what to run before anything else; None is the spec's regressions.

    Raises:
        Misused: the spec, a property or a pinned schedule is not one (E801 to E806).
    """
    return _Search(spec, world, seed, only, progress).everything(
        pinned=regressions(spec) if pinned is None else list(pinned), runs=runs, small=small
    )


def replay(spec: type[Spec], schedule: Schedule, world: World = "model") -> Outcome:
    """What one schedule says of a spec in one world.

    Raises:
        Misused: the spec or the schedule is not one (E801 to E806).
    """
    outcome = _Search(spec, world, schedule.seed, None, lambda what, runs: None).everything(
        pinned=[schedule], runs=0, small=False, rates=False
    )
    found = outcome.counterexample
    found = found and msgspec.structs.replace(found, found="replay")
    return msgspec.structs.replace(outcome, asked=bool(schedule.inputs), warnings=(), counterexample=found)


def compare(spec: type[Spec], found: Counterexample, world: World, *, exact: bool = True) -> str:
    """What another world makes of a counterexample: "same history", or the first step in which they part.

    exact: False where one of the two has a real clock: histories differ then, and the same break is "broken too".
    """
    run = play(spec, found.schedule, world)
    for nth, (one, other) in enumerate(zip(found.history, run.history, strict=False)):
        if exact and one != other:
            return f"another history from step {nth}: {other.kind} of {other.who}, not {one.kind} of {one.who}"
    if run.broken is None:
        return "nothing broken"
    if run.broken.property != found.broken.property:
        return f"{run.broken.property} broken instead"
    return "same history" if exact else "broken too"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A wrong role, in a spec that casts it. breaks: the property that must break. text: what is wrong."""

    breaks: str
    spec: type[Spec]
    text: str = ""


def check_mutants(
    mutants: Mapping[str, Mutant],
    *,
    world: World = "model",
    runs: int = 1000,
    seed: int = 1,
    small: bool = True,
    progress: Progress = lambda what, runs: None,
) -> list[MutantOutcome]:
    """Whether each wrong role breaks the property it names. The schedule that once showed it is tried first.

    Another property that breaks first is said; the one it names is then looked for alone. What breaks is not shrunk.
    runs, seed, small: as for `check`.
    """
    outcomes = []
    for name, mutant in mutants.items():
        pinned = killers(name, mutant)
        search = _Search(mutant.spec, world, seed, None, partial(_named, progress, name), shrink=False)
        found = search.counterexample(pinned=pinned, runs=runs, small=small)
        first = None if found is None else found.broken.property
        tried = search.runs
        if first is not None and first != mutant.breaks:
            search = _Search(mutant.spec, world, seed, {mutant.breaks}, search.progress, shrink=False)
            alone = search.counterexample(pinned=pinned, runs=runs, small=small)
            found, tried = alone or found, tried + search.runs
        outcomes.append(
            MutantOutcome(
                spec=mutant.spec.name,
                name=name,
                text=mutant.text or " ".join((mutant.spec.__doc__ or "").split()),
                breaks=mutant.breaks,
                broke=first,
                killed=found is not None and found.broken.property == mutant.breaks,
                runs=tried,
                counterexample=found,
            )
        )
    return outcomes


def killers(name: str, mutant: Mutant) -> list[Schedule]:
    """The schedule that is pinned for a mutant, if there is one: what takes two faults at the right places is rare."""
    file = getattr(sys.modules[mutant.spec.__module__], "__file__", None) or "."
    path = Path(file).parent / "killers" / mutant.spec.name / f"{name.replace(' ', '-')}.json"
    return [Schedule.load(path)] if path.exists() else []


def toothless(spec: type[Spec], outcomes: Iterable[MutantOutcome]) -> list[str]:
    """The properties of a spec that killed no mutant (a `sometimes` breaks nothing, and is left out)."""
    teeth = {outcome.breaks for outcome in outcomes if outcome.killed}
    return [name for name, part in spec.properties().items() if part.kind != "sometimes" and name not in teeth]


def regressions(spec: type[Spec]) -> list[Schedule]:
    """The pinned schedules of a spec, in the order of their names.

    Raises:
        Misused: E803, a file is not a schedule.
    """
    return [Schedule.load(path) for path in sorted(regressions_folder(spec).glob("*.json"))]


def regressions_folder(spec: type[Spec]) -> Path:
    """Where they lie: `regressions/NAME` beside the spec."""
    file = getattr(sys.modules[spec.__module__], "__file__", None) or "."
    return Path(file).parent / "regressions" / spec.name


def rate_verdict(part: Property, held: int, counted: int) -> tuple[Result, str]:
    """What `held` of `counted` runs say of a rate: (result, message).

    Held if so many or more would have held with a probability of at most 1 - confidence were the rate lower than
    `at_least`; broken if so few or fewer would have were it as high. In between it is unknown. Source: Clopper and
    Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934: each is one side of their interval.
    """
    error = 1 - part.confidence
    if counted and binomial_tail(held, counted, part.at_least) <= error:
        return "held", f"{held} of {counted} runs"
    if counted and 1 - binomial_tail(held + 1, counted, part.at_least) <= error:
        return "broken", f"{held} of {counted} runs, expected at least {part.at_least:g} of them"
    return "unknown", f"{held} of {counted} runs: too few to tell a rate of {part.at_least:g}; raise runs"


def binomial_tail(least: int, trials: int, probability: float) -> float:
    """The probability of at least `least` successes in `trials`."""
    if least <= 0:
        return 1.0
    total = 0.0
    for n in range(least, trials + 1):
        ways = lgamma(trials + 1) - lgamma(n + 1) - lgamma(trials - n + 1)
        total += exp(ways + n * log(probability) + (trials - n) * log(1 - probability))
    return min(1.0, total)


def _named(progress: Progress, name: str, what: str, runs: int) -> None:
    progress(f"{name}: {what}", runs)


class _Found(Exception):
    """A run is broken (never leaves this module)."""


class _Search:
    """A search in progress.

    Attributes:
        runs: how many so far, shrinking not counted. counts: what happened in them.
    """

    def __init__(
        self,
        spec: type[Spec],
        world: World,
        seed: int,
        only: Collection[str] | None,
        progress: Progress,
        *,
        shrink: bool = True,
    ) -> None:
        self.spec, self.world, self.seed, self.only, self.progress = spec, world, seed, only, progress
        self.properties = spec.properties()
        self.runs = self.enumerated = 0
        self._cut = False  # the small scope was larger than the spec wants
        self.counts: Counter[str] = Counter()
        self.reached: Counter[str] = Counter()
        self._play = _player(world)
        self._phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
        self._scope = Scope(spec)

    def everything(self, *, pinned: list[Schedule], runs: int, small: bool, rates: bool = True) -> Outcome:
        """See `check`."""
        began = time.perf_counter()
        found = self.counterexample(pinned=pinned, runs=runs, small=small)
        parts = [part for part in self.properties.values() if part.kind == "rate" and self._judged(part.name)]
        rated = {part.name: self._rate(part) for part in parts} if rates and not found else {}
        verdicts = tuple(self._verdicts(found, rated))
        return Outcome(
            spec=self.spec.name,
            world=self.world,
            statement=self.spec.statement(),
            seed=self.seed,
            runs=self.runs,
            seconds=time.perf_counter() - began,
            enumerated=self.enumerated,
            complete=bool(self.enumerated) and not self._cut and self._scope.complete,
            verdicts=verdicts,
            counts=dict(sorted(self.counts.items())),
            warnings=() if found else tuple(self._warnings(verdicts)),
            counterexample=found,
        )

    def counterexample(self, *, pinned: list[Schedule], runs: int, small: bool) -> Counterexample | None:
        """The first broken run, as small as it gets; as it is found where real time decides too."""
        if self.world == "wire":
            return self._pinned(pinned) or self._sampled(runs)
        return (
            self._pinned(pinned)
            or (self._small() if small and self._scope.actions else None)
            or (self._random(runs) if runs else None)
        )

    def _pinned(self, schedules: list[Schedule]) -> Counterexample | None:
        for schedule in schedules:
            if (run := self._try(schedule, "regressions")).broken is not None:
                return _counterexample(run, "regression")
        return None

    def _small(self) -> Counterexample | None:
        """Fewest inputs first, and each without a fault before with one: the first that breaks is a smallest."""
        for plain in self._scope.small_inputs():
            run = self._tried_small(plain)
            if run is None:
                continue
            if run.broken is not None:
                return _counterexample(run, "small scope")
            for schedule in self._scope.small_faults(plain, run.history):
                broken = self._tried_small(schedule)
                if broken is not None and broken.broken is not None:
                    return _counterexample(broken, "small scope")
                if self.enumerated >= self.spec.small_most:
                    self._cut = True
                    return None
        return None

    def _tried_small(self, schedule: Schedule) -> Run | None:
        """None if the spec does not allow it."""
        if not self._scope.made.allows(schedule):
            return None
        self.enumerated += 1
        return self._try(schedule, "small scope")

    def _random(self, runs: int) -> Counterexample | None:
        best: Run | None = None

        @hypothesis.seed(self.seed)
        @quiet_settings(runs, *self._phases)
        @hypothesis.given(self._scope.drawn())
        def attempt(schedule: Schedule) -> None:
            nonlocal best
            if best is None:
                run = self._try(schedule, "random")
                same = run.broken is not None
            else:  # shrinking: the same property must stay broken
                run = self._play(self.spec, schedule, only=self.only)
                assert best.broken is not None
                same = run.broken is not None and run.broken.property == best.broken.property
            if same:
                best = run
                raise _Found

        with contextlib.suppress(_Found):
            attempt()
        return None if best is None else _counterexample(best, "random")

    def _sampled(self, runs: int) -> Counterexample | None:
        for nth in range(runs):
            if (run := self._try(self._scope.sample(self.seed + nth), "random")).broken is not None:
                return _counterexample(run, "random")
        return None

    def _try(self, schedule: Schedule, what: str) -> Run:
        self.runs += 1
        run = self._play(self.spec, schedule, only=self.only)
        count(run.history, self.counts)
        self.reached.update(run.reached)
        self.progress(what, self.runs)
        return run

    def _rate(self, part: Property) -> tuple[int, int]:
        """How many of the runs that count held, and how many count."""
        said = []
        for seed in range(part.runs):
            run = self._try(self._scope.sample(seed), f"rate {part.name}")
            said.append(run.rated.get(part.name))
        return sum(answer is True for answer in said), sum(answer is not None for answer in said)

    def _judged(self, name: str) -> bool:
        return self.only is None or name in self.only

    def _verdicts(self, found: Counterexample | None, rated: Mapping[str, tuple[int, int]]) -> Iterable[Verdict]:
        broken = found.broken if found is not None else None
        for part in self.properties.values():
            share, message = None, ""
            result: Result
            if part.kind == "sometimes":
                share = self.reached[part.name] / max(1, self.runs)
                result = "reached" if self.reached[part.name] else "never"
            elif not self._judged(part.name):
                continue
            elif broken is not None and broken.property == part.name:
                result, message = "broken", broken.message
            elif part.kind == "rate":
                if part.name not in rated:
                    continue
                held, counted = rated[part.name]
                share = held / counted if counted else None
                result, message = rate_verdict(part, held, counted)
            else:
                result = "held"
            yield Verdict(kind=part.kind, name=part.name, text=part.text, result=result, message=message, share=share)
        if broken is not None and broken.property in KIT:
            name = broken.property
            yield Verdict(kind="always", name=name, text=KIT[name], result="broken", message=broken.message)

    def _warnings(self, verdicts: Iterable[Verdict]) -> Iterable[str]:
        """What was never tried, by what really happened."""
        for verdict in verdicts:
            if verdict.result == "never":
                yield f"sometimes {verdict.name} was never reached"
        for name in self.spec.actions():
            if not self.counts[f"act {name}"]:
                tried = self.counts[f"impossible {name}"]
                yield f"action {name} never ran" + (f": impossible all {tried} times" if tried else "")
        for fault in sorted(FAULTS & set(self.spec.faults)):
            if not self.counts[fault]:
                yield f"fault {fault} never happened"
        if self.spec.traitors and not self.counts["forged"]:
            yield "no traitor ever forged a message"


def _counterexample(run: Run, found: str) -> Counterexample:
    assert run.broken is not None
    return Counterexample(broken=run.broken, schedule=run.schedule, history=run.history, found=found)


def _player(world: World) -> Play:
    if world not in get_args(World):
        raise Misused(808, "no such world", expected=" or ".join(get_args(World)), actual=world)
    player: Play = import_module(f".world_{world}", __package__).play
    return player
