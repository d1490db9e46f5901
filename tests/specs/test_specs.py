"""Every spec holds in every world, and its wrong roles break it: one test each.

`SPEC_PROFILE` says how thoroughly: `quick` (a few seconds a spec), `ci` (the default) or `deep`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import pytest

from interlock.specs import Spec
from interlock.specs.find import every, mutants_of
from interlock.specs.judge import Outcome, World
from interlock.specs.report import Cast, broken_lines, outcome_lines
from interlock.specs.search import Mutant, check, check_mutants, regressions


class Profile(NamedTuple):
    """How much is tried.

    model, code: random runs of a spec of cost 1; 0: none. mutants: likewise, for each, after its pinned schedule.
    small: enumerate small scopes: those of specs of cost 1 in the model, or all of them, and the mutants' too.
    costly_code: specs of a higher cost run in code too.
    """

    model: int
    code: int
    mutants: int
    small: Literal["none", "cheap", "all"]
    costly_code: bool


PROFILES = {
    "quick": Profile(model=200, code=0, mutants=1, small="none", costly_code=False),
    "ci": Profile(model=1000, code=1000, mutants=5000, small="cheap", costly_code=True),
    "deep": Profile(model=20_000, code=5000, mutants=50_000, small="all", costly_code=True),
}
PROFILE = PROFILES[os.environ.get("SPEC_PROFILE", "ci")]
SPECS = every()


def items() -> list[tuple[type[Spec], World]]:
    """What is tried where. On the wire only pinned schedules are: real time is dear, and shrinks nothing."""
    found: list[tuple[type[Spec], World]] = []
    for spec in SPECS:
        found.append((spec, "model"))
        if PROFILE.code and (spec.cost == 1 or PROFILE.costly_code):
            found.append((spec, "code"))
        if PROFILE.code and find_spec("interlock.specs.world_wire") and regressions(spec):
            found.append((spec, "wire"))
    return found


def mutants() -> list[Any]:
    """Every wrong role of every spec."""
    wrong = [(spec, name, mutant) for spec in SPECS for name, mutant in mutants_of(spec).items()]
    return [pytest.param(name, mutant, id=f"{spec.name}-{name}") for spec, name, mutant in wrong]


def shown(spec: type[Spec], outcome: Outcome) -> str:
    """What `interlock spec check` would say."""
    if outcome.counterexample is None:
        return "\n".join(outcome_lines(outcome))
    saved = outcome.counterexample.schedule.to_json().decode()
    return "\n".join(broken_lines(outcome, outcome.counterexample, Cast(spec), width=120, next_lines=[saved]))


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "world"), items(), ids=lambda part: part if isinstance(part, str) else part.name)
def test_the_spec_holds(spec: type[Spec], world: World) -> None:
    runs = {"model": PROFILE.model, "code": PROFILE.code, "wire": 0}[world]
    small = world == "model" and (PROFILE.small == "all" or (PROFILE.small == "cheap" and spec.cost == 1))
    outcome = check(spec, world, runs=runs and max(1, runs // spec.cost), small=small)
    assert outcome.counterexample is None, shown(spec, outcome)
    if world != "wire":  # pinned schedules need not have an input
        # A few runs of a costly spec need not reach everything; they say what they did not.
        assert outcome.exit_code(strict=world == "model" and small) == 0, shown(spec, outcome)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mutant"), mutants())
def test_the_wrong_role_breaks_what_it_should(name: str, mutant: Mutant) -> None:
    runs = max(1, PROFILE.mutants // mutant.spec.cost)
    (outcome,) = check_mutants({name: mutant}, runs=runs, small=PROFILE.small == "all")
    assert outcome.killed, f"{outcome.breaks} is not broken in {outcome.runs} runs; first broken: {outcome.broke}"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_property_has_a_mutant_that_must_break_it(spec: type[Spec]) -> None:
    named = {mutant.breaks for mutant in mutants_of(spec).values()}
    assert [name for name, part in spec.properties().items() if part.kind != "sometimes" and name not in named] == []
    assert len(mutants_of(spec)) >= 3
