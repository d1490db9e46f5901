"""The search finds what is wrong, makes it small, and says when it has learned nothing."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from interlock.protocols.effects import After, Effects, Event, Send
from interlock.protocols.errors import Misused, Refused
from interlock.specs import Schedule, Spec, action, always, eventually, rate, sometimes
from interlock.specs.examples.voting import Vote
from interlock.specs.halting import HaltingVote
from interlock.specs.history import Seen, Step
from interlock.specs.judge import Outcome, judge_history
from interlock.specs.mutants.halting import MUTANTS, Fickle, Once, TwoAreEnough
from interlock.specs.schedule import Drop, Forged
from interlock.specs.scope import Scope, values
from interlock.specs.search import Mutant, binomial_tail, check, check_mutants, compare, play, rate_verdict, toothless
from interlock.specs.spec import Bounds

from . import toys
from .toys import ALL_WORLDS, Ping, Said, Scripted, both, say, schedule

# The worked example.


@pytest.mark.slow
def test_the_halting_vote_holds_in_its_whole_small_scope_and_at_random() -> None:
    outcome = check(HaltingVote, runs=300)
    assert outcome.counterexample is None
    assert outcome.complete
    assert outcome.enumerated > 5000
    assert outcome.runs == outcome.enumerated + 300 + 1  # and its regression
    assert outcome.warnings == ()
    assert outcome.exit_code(strict=True) == 0
    assert [(v.name, v.result) for v in outcome.verdicts] == [
        ("agreement", "held"), ("legitimacy", "held"), ("termination", "held"), ("split", "reached")
    ]  # fmt: skip


@pytest.mark.slow
def test_every_mutant_breaks_what_it_names_and_every_property_has_teeth() -> None:
    outcomes = check_mutants(MUTANTS, runs=4000, small=False)
    assert [outcome.name for outcome in outcomes if not outcome.killed] == []
    assert toothless(HaltingVote, outcomes) == []
    assert toothless(HaltingVote, outcomes[:2]) == ["agreement", "termination"]


@pytest.mark.parametrize("small", [True, False])
def test_a_lost_message_bug_shrinks_to_three_inputs_and_one_fault(small: bool) -> None:
    found = check(Once, runs=3000, small=small).counterexample
    assert found is not None
    assert found.broken.property == "termination"
    assert found.found == ("small scope" if small else "random")
    plan = found.schedule
    assert (len(plan.inputs), len(plan.faults), len(plan.forged)) == (3, 1, 0)
    assert {item.who for item in plan.inputs} == {"n0", "n1", "n2"}
    for world in ALL_WORLDS:
        again = play(Once, plan, world)
        assert (again.history, again.broken) == (found.history, found.broken)
        assert play(HaltingVote, plan, world).broken is None
        assert play(Once, Schedule(spec="halting", version=1, inputs=plan.inputs), world).broken is None


def test_a_traitor_is_found_and_its_history_ends_where_it_breaks() -> None:
    outcome = check(TwoAreEnough)
    found = outcome.counterexample
    assert found is not None
    assert (found.broken.property, found.schedule.summary) == ("legitimacy", "1 input, 0 faults, 1 forged")
    assert found.broken.step == len(found.history) - 1
    assert found.history[-1].kind == "announce"
    assert outcome.exit_code() == 1


def test_a_search_is_decided_by_its_seed() -> None:
    def search(seed: int) -> Any:
        found = check(Fickle, runs=300, seed=seed, small=False, pinned=[])
        return found.counts, found.counterexample

    assert search(1) == search(1)
    assert search(1) != search(2)


def test_a_pinned_schedule_is_run_first() -> None:
    plan = check(Once).counterexample
    assert plan is not None
    again = check(Once, pinned=[plan.schedule])
    assert again.runs == 1
    assert again.counterexample is not None
    assert again.counterexample.found == "regression"


def test_only_the_named_properties_are_judged() -> None:
    plan = check(TwoAreEnough).counterexample
    assert plan is not None
    assert play(TwoAreEnough, plan.schedule, only={"agreement"}).broken is None
    assert play(TwoAreEnough, plan.schedule, only={"legitimacy"}).broken == plan.broken


# Scopes.


def test_values_are_all_there_if_they_are_few() -> None:
    assert values(st.integers(1, 2), 200) == ([1, 2], True)
    assert values(st.fixed_dictionaries({}), 200) == ([{}], True)
    votes = st.builds(Vote, voter=st.sampled_from("ab"), step=st.integers(1, 3))
    pool, complete = values(votes, 200)
    assert (len(pool), complete) == (6, True)
    pool, complete = values(st.integers(), 50)
    assert not complete


def test_the_small_scope_has_every_set_of_inputs_once() -> None:
    plans = list(Scope(HaltingVote).small_inputs())
    # Per voter, words over two letters: the coefficients of (1 / (1 - 2x))**3 up to x**3.
    assert len(plans) == sum(comb(n + 2, 2) * 2**n for n in range(4)) == 111
    assert len({repr(plan) for plan in plans}) == 111


def test_the_small_scope_has_each_fault_of_each_message_it_sees() -> None:
    scope = Scope(HaltingVote)
    plain = next(plan for plan in scope.small_inputs() if len(plan.inputs) == 1)
    plans = list(scope.small_faults(plain, play(HaltingVote, plain).history))
    assert sum(isinstance(fault, Drop) for plan in plans for fault in plan.faults) == 3
    assert sum(len(plan.forged) for plan in plans) == 8 * 3
    assert all(len(plan.faults) + len(plan.forged) == 1 for plan in plans)
    assert len({repr(plan) for plan in plans}) == len(plans)


def test_a_small_scope_that_is_cut_is_not_complete() -> None:
    class Slow(HaltingVote):
        small_most = 50

    outcome = check(Slow, runs=0, pinned=[])
    assert (outcome.enumerated, outcome.complete) == (50, False)


def test_a_sample_is_decided_by_its_seed_and_allowed() -> None:
    class Few(HaltingVote):
        def allows(self, schedule: Schedule) -> bool:
            return len(schedule.faults) == 1

    scope = Scope(Few)
    assert [scope.sample(seed) for seed in range(20)] == [Scope(Few).sample(seed) for seed in range(20)]
    assert all(len(scope.sample(seed).faults) == 1 for seed in range(20))
    assert check(Few, runs=50, small=False).runs == 50

    class None_(HaltingVote):
        def allows(self, schedule: Schedule) -> bool:
            return False

    with pytest.raises(Misused, match="E801"):
        Scope(None_).sample(0)


def test_actions_are_taken_by_those_they_are_for() -> None:
    class Some(Spec):
        faults = {"drop"}
        traitors = {"z": st.just(Ping(hops=1))}

        def cast(self) -> Mapping[str, Any]:
            return {"a": Scripted(), "b": Scripted(), "c": object(), "z": Scripted()}

        @action
        def anyone(self, role: Any) -> Effects:
            return []

        @action(by=Scripted)
        def scripted(self, role: Scripted) -> Effects:
            return []

        @action(by=("b", "z"))
        def named(self, role: Scripted) -> Effects:
            return []

        @always
        def fine(self, seen: Seen) -> bool:
            return True

    takers = {name: who for name, (_, who) in Scope(Some).actions.items()}
    assert takers == {"anyone": ["a", "b", "c"], "scripted": ["a", "b"], "named": ["b"]}


# Properties.


def talk(**properties: Any) -> type[Spec]:
    """a says 0, 1, 2 half a second apart when it goes."""

    def timer(name: str) -> Effects:
        number = int(name)
        return [say(number), *([After(0.5, str(number + 1))] if number < 2 else [])]

    return toys.toy(lambda: {"a": Scripted(go=lambda: timer("0"), timer=timer)}, **properties)


@pytest.mark.parametrize("world", ALL_WORLDS)
def test_always_stops_at_the_shortest_history_and_shows_the_message(world: Any) -> None:
    @always
    def short(self: Spec, seen: Seen) -> bool:
        assert len(seen(Said)) < 2, "two things said"
        return True

    run = play(talk(short=short), schedule(), world)
    assert run.broken is not None
    assert run.broken.property == "short"
    assert run.broken.message.startswith("two things said")  # pytest adds to it
    assert toys.said(run) == ["a 0", "a 1"]
    assert run.broken.step == len(run.history) - 1


def within(seconds: float, number: int) -> Any:
    @eventually(within=seconds)
    def told(self: Spec, seen: Seen) -> bool:
        return bool(seen(Said, text=str(number)))

    return told


@pytest.mark.parametrize(
    ("seconds", "number", "holds", "end"),
    [(1.1, 2, True, 1.0), (9.0, 2, True, 1.0), (0.9, 2, False, 0.9), (9.0, 7, False, 9.0), (9.0, 0, True, 0.5)],
)
def test_eventually_has_its_time_and_no_more(seconds: float, number: int, holds: bool, end: float) -> None:
    run = both(talk(told=within(seconds, number)), schedule())
    assert run.seconds == pytest.approx(end)
    if holds:
        assert run.broken is None
    else:
        assert run.broken is not None
        assert run.broken.message == f"not within {seconds:g} s of the end of the faults"


def test_eventually_may_speak_of_what_came_after_the_faults() -> None:
    @eventually(within=2)
    def goes_on(self: Spec, seen: Seen) -> bool:
        assert seen.quiet is not None
        return any(event.at > seen.quiet for event in seen(Said))

    assert both(talk(goes_on=goes_on), schedule()).broken is None
    lost = Drop(source="a", destination="a", ordinal=0)  # never happens: the quiet phase begins when a has finished
    assert both(talk(goes_on=goes_on), schedule(lost)).broken is not None


def test_a_property_is_asked_again_only_if_what_it_read_changed() -> None:
    asked = []

    @always
    def watched(self: Spec, seen: Seen) -> bool:
        asked.append(seen.now if len(seen(Said)) == 2 else -1.0)
        return True

    spec = talk(watched=watched)
    run = play(spec, schedule())
    assert asked == [-1.0, -1.0, 0.5]  # at first, and for each thing said
    assert len(run.history) == 4


@pytest.mark.parametrize("seed", range(40))
def test_asking_less_often_gives_the_same_verdict(seed: int) -> None:
    """The one shortcut of the judge, against asking every property after every step."""
    asked: list[bool] = []

    class Counted(toys.Chaos):
        @always
        def fine(self, seen: Seen) -> bool:
            said = seen(Said, text="5")
            return len(said) < 2 or len(seen.sent(Ping, hops=1)) < 9

    class Plain(Counted):
        @always
        def fine(self, seen: Seen) -> bool:
            asked.append(bool(seen.steps()))  # reads all steps, so that it is asked after each
            return Counted.fine(self, seen)

    plan = Scope(Counted).sample(seed)
    few, all_ = play(Counted, plan), play(Plain, plan)
    assert (few.broken, few.history) == (all_.broken, all_.history)


@pytest.mark.parametrize("world", ALL_WORLDS)
@pytest.mark.parametrize("mark", [always, sometimes, eventually(within=1)])
def test_a_property_that_returns_none_says_so(world: Any, mark: Any) -> None:
    def forgot(self: Spec, seen: Seen) -> Any:
        seen(Said)

    with pytest.raises(Misused, match="E802 property forgot of spec toy returned None"):
        play(talk(forgot=mark(forgot)), schedule(), world)


@pytest.mark.parametrize("world", ALL_WORLDS)
def test_a_property_that_raises_is_no_verdict(world: Any) -> None:
    @always
    def bad(self: Spec, seen: Seen) -> bool:
        return bool(seen(Said)[0].nothing)

    with pytest.raises(Misused, match="E805 property bad of spec toy raised IndexError"):
        play(talk(bad=bad), schedule(), world)


def test_a_spec_without_property_is_refused() -> None:
    class Empty(Spec):
        def cast(self) -> Mapping[str, Any]:
            return {"a": Scripted()}

        @sometimes
        def some(self, seen: Seen) -> bool:
            return True

    with pytest.raises(Misused, match="E801 spec test_search has no property"):
        check(Empty)


def test_a_spec_is_checked_when_it_is_written() -> None:
    with pytest.raises(Misused, match="E801"):
        type("Typo", (Spec,), {"faults": {"dorp"}})
    with pytest.raises(Misused, match="E801"):
        eventually(within=0)
    with pytest.raises(Misused, match="E801"):
        rate(at_least=1.5, runs=10)


@pytest.mark.parametrize("seed", range(20))
def test_a_history_that_was_written_down_has_the_verdict_of_its_run(seed: int) -> None:
    plan = Scope(Once).sample(seed)
    run = play(Once, plan)
    again = judge_history(Once(), run.history, quiet=run.quiet)
    assert (again.broken, again.reached, again.quiet) == (run.broken, run.reached, run.quiet)
    unknown = judge_history(Once(), run.history)  # nobody knows when faults ended: no `eventually` is judged
    assert unknown.broken is None or unknown.broken == run.broken


def test_a_counterexample_is_compared_between_worlds() -> None:
    found = check(Once).counterexample
    assert found is not None
    assert compare(Once, found, "code") == "same history"
    assert compare(HaltingVote, found, "code").startswith("another history from step ")


# Nothing learned.


def test_what_never_happened_is_warned_about() -> None:
    class Idle(toys.Toy):
        faults = {"drop", "crash"}
        traitors = {"z": st.just(Ping(hops=1))}

        def cast(self) -> Mapping[str, Any]:
            return {"a": Scripted(go=self._refuse)}

        def _refuse(self) -> Effects:
            raise Misused(601, "never")

        @sometimes
        def moon(self, seen: Seen) -> bool:
            return bool(seen(Said))

    outcome = check(Idle, runs=20, small=False, pinned=[])
    tried = outcome.counts["impossible go"]
    assert set(outcome.warnings) >= {
        f"action go never ran: impossible all {tried} times",
        "fault drop never happened",
        "sometimes moon was never reached",
    }
    assert (outcome.exit_code(), outcome.learned) == (2, False)


def test_warnings_fail_only_under_strict() -> None:
    @sometimes
    def moon(self: Spec, seen: Seen) -> bool:
        return bool(seen(Said, text="moon"))

    outcome = check(talk(moon=moon), runs=20, pinned=[])
    assert outcome.warnings == ("sometimes moon was never reached",)
    assert (outcome.exit_code(), outcome.exit_code(strict=True)) == (0, 1)


# Bounds.


def storm() -> type[Spec]:
    """Each ping is answered by two."""

    def answer(source: str, message: Ping, blobs: Any) -> Effects:
        return [Send(source, message), Send(source, message)]  # type: ignore[arg-type]

    return toys.toy(
        lambda: {
            "a": Scripted(go=lambda: [Send("b", Ping(hops=1))], message=answer),  # type: ignore[arg-type]
            "b": Scripted(message=answer),
        }
    )


def forever(**answers: Any) -> type[Spec]:
    return toys.toy(lambda: {"a": Scripted(**answers)})


@pytest.mark.parametrize("world", ALL_WORLDS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (storm, "more than 200 messages: the last is Ping(hops=1, text='')"),
        (lambda: forever(go=lambda: [After(0.0, "t")], timer=lambda name: [After(0.0, "t")]), "more than 400 timers"),
        (lambda: forever(go=lambda: [toys.Draw("d", 1)], drawn=lambda *_: [toys.Draw("d", 1)]), "more than 600 steps"),
        (lambda: forever(go=lambda: [say(1)] * 10_001), "go returned 10001 effects"),
    ],
)
def test_an_endless_run_is_broken_never_a_hang(world: Any, make: Any, message: str) -> None:
    spec = make()
    spec.bounds = Bounds(messages=200, timers=400, steps=600)
    run = play(spec, schedule(), world)
    assert run.broken is not None
    assert message in run.broken.message


@pytest.mark.parametrize("world", ALL_WORLDS)
def test_a_run_ends_after_its_virtual_seconds(world: Any) -> None:
    spec = forever(go=lambda: [After(1.0, "t")], timer=lambda name: [After(1.0, "t")])
    run = play(spec, schedule(inputs=((0.0, "a"), (700.0, "a"))), world)
    assert run.broken is not None
    assert run.broken.message.startswith("more than 600 virtual seconds")


def test_the_default_bounds_stop_a_storm_too() -> None:
    outcome = check(storm(), runs=3, small=False, pinned=[schedule()])
    assert outcome.counterexample is not None
    assert outcome.counterexample.broken.property == "bounds"
    assert [(v.name, v.result) for v in outcome.verdicts] == [("fine", "held"), ("bounds", "broken")]


# Rates.


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.01, 0.99))
def test_the_binomial_tail_is_scipys(held: int, trials: int, probability: float) -> None:
    expected = binomtest(min(held, trials), trials, probability, alternative="greater").pvalue
    assert binomial_tail(min(held, trials), trials, probability) == pytest.approx(expected, rel=1e-9)


def test_a_rate_is_held_broken_or_unknown() -> None:
    @rate(at_least=0.9, runs=100, confidence=0.99)
    def often(self: Spec, seen: Seen) -> bool:
        return True

    part = toys.toy(dict, often=often).properties()["often"]
    assert rate_verdict(part, 1000, 1000)[0] == "held"
    assert rate_verdict(part, 910, 1000)[0] == "unknown"
    assert rate_verdict(part, 870, 1000)[0] == "broken"
    assert rate_verdict(part, 0, 0)[0] == "unknown"
    assert rate_verdict(part, 10, 10)[0] == "unknown"


def rated(part: float) -> Outcome:
    class Coin(toys.Toy):
        """a draws a byte when it goes."""

        def cast(self) -> Mapping[str, Any]:
            return {"a": Scripted(go=lambda: [toys.Draw("d", 1)], drawn=lambda name, data: [say(data[0] < 256 * 0.8)])}

        @rate(at_least=part, runs=300, confidence=0.99)
        def heads(self, seen: Seen) -> bool | None:
            """Four of five draws are low."""
            drawn = seen(Said)
            return drawn[0].text == "True" if drawn else None

    return check(Coin, runs=10, small=False, pinned=[])


def test_a_rate_is_judged_over_fixed_seeds() -> None:
    held, unknown, broken = (rated(part).verdicts[-1] for part in (0.7, 0.8, 0.9))
    assert (held.result, unknown.result, broken.result) == ("held", "unknown", "broken")
    assert held.share == unknown.share == broken.share == pytest.approx(0.8, abs=0.07)
    assert [rated(part).exit_code() for part in (0.7, 0.8, 0.9)] == [0, 2, 1]


# Forged messages.


def test_a_forged_message_that_no_one_reads_is_refused() -> None:
    nonsense = Forged(at=0.0, source="n3", destination="n0", message="c0")
    with pytest.raises(Refused, match="E201"):
        play(HaltingVote, Schedule(spec="halting", version=1, forged=(nonsense,)))
    with pytest.raises(Misused, match="E803"):
        play(
            HaltingVote,
            Schedule(spec="halting", version=1, forged=(Forged(at=0.0, source="n3", destination="n0", message="xx"),)),
        )


def test_a_mutant_that_lives_is_told() -> None:
    alive = check_mutants({"alive": Mutant(breaks="agreement", spec=HaltingVote, text="nothing wrong")}, runs=10)
    assert [(m.killed, m.broke, m.text) for m in alive] == [(False, None, "nothing wrong")]


def test_fields_of_events_are_read_off_their_occurrence() -> None:
    class Named(Event, frozen=True):
        what: str
        by: int

    seen = Seen()
    seen.take(Step(at=0.5, kind="announce", who="a", event=Named(what="x", by=3)))
    [one] = seen(Named, what="x", by=3)
    assert (one.by, one.at, one.nth, one.what) == ("a", 0.5, 0, Named(what="x", by=3))
    assert (seen(Named, what="y"), seen(Said), len(seen(Event)), len(seen())) == ([], [], 1, 1)
