"""Which schedules a spec has: drawn at random by Hypothesis or from a seed, and enumerated for small scopes."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis import strategies as st

from interlock.protocols.errors import Misused

from . import world_model
from .history import History
from .schedule import (
    Crash,
    Delay,
    Drop,
    Fault,
    Input,
    Partition,
    Reorder,
    Schedule,
    Slow,
    Twice,
    forged,
)
from .spec import Action, Spec

INPUT_KINDS = ("act", "deliver", "timer", "done", "drawn")
GRID_S = 0.005  # half of the usual latency: inputs come together, within a message's time, or after it
DELAYS_S = (0.015, 0.1, 1.5)
BACKS_S = (0.05, 0.5, 2.0)
SPANS_S = (0.05, 0.5, 2.0)
# Random faults are among the messages and inputs of the plain run; where it has none (all waits for the outside), among
# the first so many of each link and participant. EFFECTS: of one input.
ORDINALS, INPUTS, EFFECTS = 3, 8, 8
FAULTS_MOST, FORGED_MOST = 4, 6
POOL = 200  # values of a strategy that the seeded sampler chooses from
TRIES = 1000

SMALL_INPUTS, SMALL_CHOICES, SMALL_FORGED = 3, 12, 64
SMALL_ORDINALS, SMALL_CRASHES = 2, 3
SMALL_STEP_S = 0.001  # all inputs of a small scope come before the first message arrives


class Choice(NamedTuple):
    """One thing that the outside may do."""

    who: str
    action: str
    arguments: dict[str, Any]


class Scope:
    """What a spec's schedules are made of."""

    def __init__(self, spec: type[Spec]) -> None:
        self.spec = spec
        made = spec()
        self.made = made
        cast = made.cast()
        traitors = set(spec.traitors)
        self.labels = [made.label(name) for name in dict.fromkeys([*cast, *spec.traitors])]
        self.honest = [made.label(name) for name in cast if name not in traitors]
        self.actions = {
            action.name: (action, who)
            for action in spec.actions().values()
            if (who := _takers(made, action, cast, traitors))
        }
        self.traitors = {made.label(name): strategy for name, strategy in spec.traitors.items()}
        self.faults = sorted(spec.faults)
        self.links, self.crashing = self._reach()
        self._pools: dict[str, tuple[list[Any], bool]] = {}

    def _reach(self) -> tuple[list[tuple[tuple[str, str], int]], list[tuple[str, int]]]:
        """How many messages each link carries, and how many inputs each who may crash gets, in the plain run."""
        plain = world_model.play(self.spec, self.schedule(), only=frozenset()).history if self.faults else []
        messages = Counter((step.who, step.peer) for step in plain if step.kind == "send" and step.ordinal >= 0)
        inputs = Counter(step.who for step in plain if step.kind in INPUT_KINDS)
        may = [label for label in self.honest if self.spec.crashing is None or label in self.spec.crashing]
        links = sorted(messages.items()) or [(pair, ORDINALS) for pair in itertools.permutations(self.labels, 2)]
        return links, [(label, max(inputs[label], INPUTS)) for label in may]

    def schedule(self, seed: int = 0, **parts: Any) -> Schedule:
        """A schedule of this spec."""
        return Schedule(spec=self.spec.name, version=self.spec.version, seed=seed, **parts)

    def drawn(self) -> st.SearchStrategy[Schedule]:
        """A Hypothesis strategy of schedules. The simplest has nothing in it."""
        return _drawn(self).filter(self.made.allows)

    def sample(self, seed: int) -> Schedule:
        """The schedule of a seed, without Hypothesis: quick, the same each time, and not to be shrunk."""
        source = random.Random(seed)  # noqa: S311 (not for secrets)
        for _ in range(TRIES):
            schedule = self._sampled(source, seed)
            if self.made.allows(schedule):
                return schedule
        raise Misused(801, f"spec {self.spec.name} allows almost no schedule", todo="Let `allows` refuse fewer.")

    # --- small scopes ---

    def small_inputs(self) -> Iterator[Schedule]:
        """Every schedule of up to three honest inputs, all of them before the first message arrives.

        Inputs of different participants at such a time cannot matter to each other, so only one order of these is
        given; inputs of one participant come in every order.
        """
        choices = self.choices()[0]
        for length in range(SMALL_INPUTS + 1):
            for chosen in itertools.product(choices, repeat=length):
                ranks = [self.honest.index(choice.who) for choice in chosen]
                if ranks == sorted(ranks):
                    inputs = [
                        Input(at=n * SMALL_STEP_S, who=who, action=action, arguments=arguments)
                        for n, (who, action, arguments) in enumerate(chosen)
                    ]
                    yield self.schedule(inputs=tuple(inputs))

    def small_faults(self, plain: Schedule, history: History) -> Iterator[Schedule]:
        """A schedule and one fault, or one forged message. Faults that its history has no place for change nothing.

        Faults are of the first two messages of each link, and of the first three inputs of each honest participant.
        """
        for fault in itertools.chain(self._link_faults(history), self._crashes(history), self._parts()):
            yield self.schedule(inputs=plain.inputs, faults=(fault,))
        for source in self.traitors:
            for message in self._pool(f"forged {source}", self.traitors[source])[0][:SMALL_FORGED]:
                for destination in self.labels:
                    if destination != source:
                        item = forged(0.0, source, destination, message)
                        yield self.schedule(inputs=plain.inputs, forged=(item,))

    @property
    def complete(self) -> bool:
        """Whether the small scope has all values of arguments and forged messages."""
        _, complete = self.choices()
        pools = [self._pool(f"forged {label}", strategy) for label, strategy in self.traitors.items()]
        return complete and all(whole and len(pool) <= SMALL_FORGED for pool, whole in pools)

    def choices(self) -> tuple[list[Choice], bool]:
        """What the outside may do in a small scope, and whether that is everything."""
        found, complete = [], True
        for name, (action, who) in self.actions.items():
            pool, whole = self._pool(name, st.fixed_dictionaries(dict(action.arguments)))
            complete &= whole
            found += [Choice(label, name, arguments) for arguments in pool for label in who if label in self.honest]
        return found[:SMALL_CHOICES], complete and len(found) <= SMALL_CHOICES

    def _link_faults(self, history: History) -> Iterator[Fault]:
        for step in history:
            if step.kind == "send" and 0 <= step.ordinal < SMALL_ORDINALS:
                link: dict[str, Any] = {"source": step.who, "destination": step.peer, "ordinal": step.ordinal}
                if "drop" in self.faults:
                    yield Drop(**link)
                if "twice" in self.faults:
                    yield Twice(**link)
                if "delay" in self.faults:
                    yield Delay(by=DELAYS_S[1], **link)
                if "reorder" in self.faults:
                    yield Reorder(**link)

    def _crashes(self, history: History) -> Iterator[Fault]:
        """A crash after each observed effect of an input, and before the first."""
        if "crash" not in self.faults:
            return
        effects: dict[str, list[int]] = {label: [0] for label in self.honest}
        for step in history:
            if step.who in effects:
                if step.kind in INPUT_KINDS:
                    effects[step.who].append(0)
                elif step.kind in ("send", "announce", "store"):
                    effects[step.who][-1] += 1
        for who, counts in effects.items():
            for nth, count in enumerate(counts[:SMALL_CRASHES]):
                for cut in range(count + 1):
                    yield Crash(who=who, input=nth, effects=cut, back=BACKS_S[1])

    def _parts(self) -> Iterator[Fault]:
        """Each participant cut off."""
        if "partition" in self.faults:
            for label in self.labels:
                yield Partition(at=0.0, seconds=SPANS_S[1], side=(label,))

    # --- seeded samples ---

    def _sampled(self, source: random.Random, seed: int) -> Schedule:
        who_of = {name: who for name, (_, who) in self.actions.items()}
        inputs: list[Input] = []
        span = source.choice((0.05, self.spec.seconds))
        # Agreement of inputs is what many protocols need to get anywhere, and rare among independent choices.
        alike = source.choice(list(who_of)) if who_of and source.random() < 0.5 else ""
        arguments = self._arguments(source, alike) if alike else {}
        turns = source.sample(who_of[alike], len(who_of[alike])) if alike else []
        for nth in range(source.randint(1, self.spec.inputs_max) if who_of else 0):
            name = alike or source.choice(list(who_of))
            inputs.append(
                Input(
                    at=_on_grid(source.uniform(0, span)),
                    who=turns[nth % len(turns)] if alike else source.choice(who_of[name]),
                    action=name,
                    arguments=arguments if alike else self._arguments(source, name),
                )
            )
        faults = [self._sampled_fault(source) for _ in range(source.choice((0, 0, 1, 1, 2, 3, FAULTS_MOST)))]
        lies = []
        for label in self.traitors:
            pool = self._pool(f"forged {label}", self.traitors[label])[0]
            for _ in range(source.choice((0, 0, 1, 2, 3, FORGED_MOST))):
                destination = source.choice([other for other in self.labels if other != label])
                lies.append(forged(_on_grid(source.uniform(0, span)), label, destination, source.choice(pool)))
        return self.schedule(
            seed=seed, inputs=tuple(inputs), faults=tuple(f for f in faults if f is not None), forged=tuple(lies)
        )

    def _arguments(self, source: random.Random, action: str) -> dict[str, Any]:
        pool, _ = self._pool(action, st.fixed_dictionaries(dict(self.actions[action][0].arguments)))
        chosen: dict[str, Any] = source.choice(pool)
        return chosen

    def _sampled_fault(self, source: random.Random) -> Fault | None:
        kinds = [kind for kind in self.faults if kind != "death"]
        if not kinds:
            return None
        kind = source.choice(kinds)
        if kind in ("drop", "twice", "delay", "reorder"):
            (first, second), messages = source.choice(self.links)
            link: dict[str, Any] = {"source": first, "destination": second, "ordinal": source.randrange(messages)}
            if kind == "delay":
                return Delay(by=source.choice(DELAYS_S), **link)
            return Drop(**link) if kind == "drop" else Twice(**link) if kind == "twice" else Reorder(**link)
        if kind == "partition":
            side = source.sample(self.labels, source.randint(1, max(1, len(self.labels) // 2)))
            at = _on_grid(source.uniform(0, self.spec.seconds))
            return Partition(at=at, seconds=source.choice(SPANS_S), side=tuple(sorted(side)))
        if kind == "slow":
            return Slow(who=source.choice(self.honest), ordinal=source.randrange(ORDINALS), by=source.choice(DELAYS_S))
        backs: Sequence[float | None] = (*BACKS_S, None) if "death" in self.faults else BACKS_S
        who, inputs = source.choice(self.crashing)
        return Crash(
            who=who,
            input=source.randrange(inputs),
            effects=source.randrange(EFFECTS),
            back=source.choice(backs),
        )

    def _pool(self, name: str, strategy: Any) -> tuple[list[Any], bool]:
        if name not in self._pools:
            try:
                self._pools[name] = values(strategy, POOL)
            except hypothesis.errors.HypothesisException as error:
                what = f"spec {self.spec.name}: no values can be drawn for {name}"
                raise Misused(801, what, actual=type(error).__name__, todo="Widen its strategies.") from error
        return self._pools[name]


def values(strategy: Any, most: int) -> tuple[list[Any], bool]:
    """The values of a strategy, simple ones first, and whether these are all.

    Hypothesis stops by itself when it has tried everything.
    """
    found: dict[str, Any] = {}
    calls = 0

    @hypothesis.seed(0)
    @quiet_settings(most, Phase.generate)
    @hypothesis.given(strategy)
    def take(value: Any) -> None:
        nonlocal calls
        calls += 1
        found.setdefault(repr(value), value)

    take()
    return [found[key] for key in sorted(found, key=lambda key: (len(key), key))], calls < most


def quiet_settings(runs: int, *phases: Phase) -> hypothesis.settings:
    """Settings of a search that depends on nothing but its seed, and prints nothing."""
    return hypothesis.settings(
        max_examples=runs,
        phases=phases,
        database=None,
        deadline=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )


def _drawn(scope: Scope) -> st.SearchStrategy[Schedule]:
    """Strategies are made once: making them costs more than drawing from them."""
    grid = st.integers(0, round(scope.spec.seconds / GRID_S)).map(lambda n: n * GRID_S)
    times = st.one_of(st.integers(0, 10).map(lambda n: n * GRID_S), grid)
    inputs: st.SearchStrategy[list[Any]] = st.just([])
    faults: st.SearchStrategy[list[Fault]] = st.just([])
    lies: st.SearchStrategy[list[Any]] = st.just([])
    if scope.actions:
        one = st.one_of(
            *(
                st.tuples(times, st.sampled_from(who), st.just(name), st.fixed_dictionaries(dict(action.arguments)))
                for name, (action, who) in scope.actions.items()
            )
        )
        inputs = st.lists(one, max_size=scope.spec.inputs_max)
    if scope.faults:
        faults = st.lists(_fault(scope, grid), max_size=FAULTS_MOST)
    if scope.traitors and len(scope.labels) > 1:
        lie = st.one_of(
            *(
                st.tuples(times, st.just(label), st.sampled_from([to for to in scope.labels if to != label]), messages)
                for label, messages in scope.traitors.items()
            )
        )
        lies = st.lists(lie, max_size=FORGED_MOST)
    return st.builds(partial(_built, scope), st.integers(0, 2**16), st.booleans(), inputs, faults, lies)


def _built(
    scope: Scope,
    seed: int,
    alike: bool,
    inputs: list[tuple[float, str, str, dict[str, Any]]],
    faults: list[Fault],
    lies: list[tuple[float, str, str, Any]],
) -> Schedule:
    """alike: inputs of the same action have the same arguments, as in `_sampled`."""
    first: dict[str, dict[str, Any]] = {}
    made = [
        Input(at=at, who=who, action=name, arguments=first.setdefault(name, arguments) if alike else arguments)
        for at, who, name, arguments in inputs
    ]
    return scope.schedule(
        seed=seed, inputs=tuple(made), faults=tuple(faults), forged=tuple(forged(*item) for item in lies)
    )


def _fault(scope: Scope, grid: st.SearchStrategy[float]) -> st.SearchStrategy[Fault]:
    labels, honest = st.sampled_from(scope.labels), st.sampled_from(scope.honest)
    ordinal = st.integers(0, ORDINALS - 1)
    many = st.integers(0, max(count for _, count in (*scope.links, *scope.crashing)) - 1)

    def linked(kind: Any, **more: Any) -> st.SearchStrategy[Any]:
        return st.builds(
            lambda link, nth, **more: kind(source=link[0][0], destination=link[0][1], ordinal=nth % link[1], **more),
            st.sampled_from(scope.links),
            many,
            **more,
        )

    backs: Sequence[float | None] = (*BACKS_S, None) if "death" in scope.faults else BACKS_S
    made: Mapping[str, st.SearchStrategy[Any]] = {
        "drop": linked(Drop),
        "twice": linked(Twice),
        "delay": linked(Delay, by=st.sampled_from(DELAYS_S)),
        "reorder": linked(Reorder),
        "crash": st.builds(
            lambda who, nth, **more: Crash(who=who[0], input=nth % who[1], **more),
            st.sampled_from(scope.crashing),
            many,
            effects=st.integers(0, EFFECTS),
            back=st.sampled_from(backs),
        ),
        "partition": st.builds(
            Partition,
            at=grid,
            seconds=st.sampled_from(SPANS_S),
            side=st.lists(labels, min_size=1, max_size=max(1, len(scope.labels) - 1), unique=True).map(
                lambda side: tuple(sorted(side))
            ),
        ),
        "slow": st.builds(Slow, who=honest, ordinal=ordinal, by=st.sampled_from(DELAYS_S)),
    }
    return st.one_of(*(made[kind] for kind in scope.faults if kind in made))


def _takers(spec: Spec, action: Action, cast: Mapping[Any, Any], traitors: set[Any]) -> list[str]:
    """Labels of who may take an action."""
    honest = {name: role for name, role in cast.items() if name not in traitors}
    if isinstance(action.by, tuple):
        return [label for name in honest if (label := spec.label(name)) in action.by]
    return [spec.label(name) for name, role in honest.items() if action.by is None or isinstance(role, action.by)]


def _on_grid(seconds: float) -> float:
    return round(seconds / GRID_S) * GRID_S
