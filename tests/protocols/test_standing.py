"""What the known orders amount to: who knows the same comes to the same, and the strictest holds."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.ordered import ALL, HOUR, NOW, halt, make, pause, resume, signed
from tests.protocols.world import number_of
from tests.runs import identity, manifest

from interlock.protocols.errors import Refused
from interlock.protocols.manifest import Manifest, Policy
from interlock.protocols.orders import Signed
from interlock.protocols.standing import KNOWN_MAX, OLD_MAX, PROPOSALS_MAX, SKEW_S, Standing, verify_ordered

MADE = manifest()
DAY = 24 * HOUR


def policy(**changes: Any) -> Manifest:
    """The test run with another policy."""
    return msgspec.structs.replace(MADE, policy=Policy(**changes))


def knowing(*orders: Signed, now: float = NOW, made: Manifest = MADE) -> Standing:
    """A standing that learned these."""
    standing = Standing(made)
    for order in orders:
        standing.learn(order, now)
    return standing


def in_force(standing: Standing, now: float = NOW) -> int:
    """Number of the order in force, 0 if there is none."""
    found = standing.in_force(now)
    return 0 if found is None else found.order.seq


def test_a_halt_is_a_proposal_until_enough_signed_it_whoever_brings_what() -> None:
    order = make(MADE, 1, "halt")
    standing = knowing(signed(order, "ada"), signed(order, "ada"))
    assert in_force(standing) == 0
    learned = standing.learn(signed(order, "cleo"), NOW)
    assert in_force(standing) == 1
    assert [took.order for took in learned.took] == [order]
    assert not standing.learn(signed(order, "ada", "cleo"), NOW).new
    more = standing.learn(signed(order, *ALL), NOW)
    assert more.new
    assert not more.took


def test_a_halt_never_ends_by_itself_and_a_pause_does() -> None:
    assert in_force(knowing(halt(MADE)), NOW + 1000 * DAY) == 1
    paused = knowing(pause(MADE))
    assert (in_force(paused, NOW + HOUR - 1), in_force(paused, NOW + HOUR)) == (1, 0)
    assert paused.next_change(NOW) == NOW + HOUR


def test_a_halt_is_stronger_than_a_pause() -> None:
    first, second = pause(MADE), halt(MADE, 2)
    for orders in ((first, second), (second, first)):
        standing = knowing(*orders)
        found = standing.in_force(NOW)
        assert found is not None
        assert found.order.action == "halt"
    standing.learn(resume(MADE, second), NOW)
    assert in_force(standing) == 0


def test_a_resume_ends_what_it_cites_and_what_came_before() -> None:
    first, second = halt(MADE), halt(MADE, 2)
    standing = knowing(first, second)
    assert number_of(lambda: standing.learn(resume(MADE, first), NOW)) == 346
    assert in_force(standing) == 2
    third = resume(MADE, second)
    assert [took.order for took in standing.learn(third, NOW).took] == [third.order]
    assert in_force(standing) == 0
    assert standing.answer == third
    for again in (first, second):
        assert not standing.learn(again, NOW).new  # it is known, and over
    other = halt(MADE, 2, reason="another halt, kept back")
    assert number_of(lambda: standing.learn(other, NOW)) == 348
    later = halt(MADE, 4)
    standing.learn(later, NOW)
    assert in_force(standing) == 4


def test_a_resume_needs_all_its_signatures() -> None:
    first = halt(MADE)
    standing = knowing(first, resume(MADE, first, ("ada", "bela")))
    assert in_force(standing) == 1
    standing.learn(resume(MADE, first, ("cleo",)), NOW)
    assert in_force(standing) == 0


def test_a_resume_waits_for_its_time_and_a_halt_that_comes_meanwhile_stays() -> None:
    first = halt(MADE)
    later = resume(MADE, first, begins=NOW + 100)
    standing = knowing(first, later)
    assert (in_force(standing), standing.next_change(NOW)) == (1, NOW + 100)
    assert standing.settle(NOW + 99) == ()
    assert standing.settle(NOW + 100) == (later,)
    standing = knowing(first, later, halt(MADE, 2, reason="wait"))
    assert standing.settle(NOW + 100) == ()
    assert in_force(standing, NOW + 100) == 2


def test_a_resume_that_expired_before_its_time_came_to_be_noticed_has_no_effect() -> None:
    first = halt(MADE)
    standing = knowing(first, resume(MADE, first, begins=NOW + 100))
    assert standing.settle(NOW + 100 + HOUR) == ()
    assert in_force(standing, NOW + 100 + HOUR) == 1


def test_a_resume_comes_after_the_notice() -> None:
    made = policy(resume_notice_s=DAY)
    first = halt(made)
    standing = knowing(first, made=made)
    assert number_of(lambda: standing.learn(resume(made, first, begins=NOW + DAY - 1), NOW)) == 353
    standing.learn(resume(made, first, begins=NOW + DAY), NOW)
    assert in_force(standing) == 1
    standing.settle(NOW + DAY)
    assert in_force(standing) == 0


def test_a_resume_follows_what_is_known() -> None:
    first = halt(MADE)
    assert number_of(lambda: Standing(MADE).learn(resume(MADE, first), NOW)) == 347
    standing = knowing(first)
    assert number_of(lambda: standing.learn(resume(MADE, first, prev=bytes(32)), NOW)) == 347
    released = signed(make(MADE, 0, "release", epoch=1), "ada")
    standing.learn(released, NOW)
    assert number_of(lambda: standing.learn(signed(make(MADE, 5, "resume", cites=4), *ALL), NOW)) == 347


@pytest.mark.parametrize(
    ("order", "number"),
    [
        (pause(MADE, begins=NOW - HOUR), 344),
        (pause(MADE, begins=NOW + SKEW_S + 1), 345),
        (pause(MADE, begins=NOW + SKEW_S), 0),
        (pause(MADE, hours=24), 0),
        (pause(MADE, hours=24.001), 353),
        (halt(MADE, begins=NOW + 10**6), 0),
        (halt(MADE, begins=NOW - 10**6), 0),
        (signed(make(MADE, 0, "release", epoch=1, begins=NOW - HOUR), "ada"), 344),
        (signed(make(MADE, 0, "release", epoch=1, begins=NOW + HOUR), "ada"), 345),
    ],
)
def test_times_are_checked_but_never_against_a_halt(order: Signed, number: int) -> None:
    assert number_of(lambda: knowing(order)) == number


def test_a_keyholder_has_one_pause_a_week_from_its_beginning() -> None:
    standing = knowing(pause(MADE, hours=1))
    week = 7 * DAY
    early = pause(MADE, 2, begins=NOW + week - 1)
    assert number_of(lambda: standing.learn(early, NOW + week)) == 349
    standing.learn(pause(MADE, 2, ("ada",), begins=NOW + 2 * HOUR), NOW + 2 * HOUR)
    assert in_force(standing, NOW + 2 * HOUR) == 2
    standing.learn(pause(MADE, 3, begins=NOW + week), NOW + week)
    assert in_force(standing, NOW + week) == 3


def test_a_resume_gives_no_pause_back() -> None:
    first = pause(MADE)
    standing = knowing(first, resume(MADE, first))
    assert in_force(standing) == 0
    assert number_of(lambda: standing.learn(pause(MADE, 3, begins=NOW + 60), NOW + 60)) == 349


def test_nobody_shortens_the_pause_of_another() -> None:
    standing = knowing(pause(MADE, hours=24))
    standing.learn(pause(MADE, 1, ("ada",), begins=NOW - HOUR + 60), NOW)
    assert in_force(standing, NOW + 23 * HOUR) == 1


def test_two_orders_with_one_number_are_evidence_and_the_strictest_holds() -> None:
    weak, strict = pause(MADE, names=("ada",)), halt(MADE)
    for orders in itertools.permutations((weak, strict)):
        standing = knowing(*orders)
        found = standing.in_force(NOW)
        assert found is not None
        assert found.order.action == "halt"
        (pair,) = standing.evidence()
        assert pair.by == (identity("ada").public,)
        assert "ada" in str(pair.warning(MADE))
        assert pair.warning(MADE).number == 355
    assert len(knowing(weak).learn(strict, NOW).evidence) == 1


def test_different_keyholders_who_choose_one_number_are_not_accused() -> None:
    (pair,) = knowing(pause(MADE, names=("ada",)), pause(MADE, names=("cleo",), reason="other")).evidence()
    assert pair.by == ()
    order = make(MADE, 1, "halt", reason="other")
    assert knowing(halt(MADE), signed(order, "cleo")).evidence() == []  # a proposal by somebody else


def test_a_halt_with_the_number_of_a_resume_stops_again() -> None:
    first = halt(MADE)
    second = resume(MADE, first)
    other = halt(MADE, 2)
    standing = knowing(first, second, other)
    assert in_force(standing) == 2
    standing = knowing(first, other)
    assert number_of(lambda: standing.learn(second, NOW)) == 346
    assert in_force(standing) == 2


def test_a_release_by_hand_is_for_its_keyholder_its_epoch_and_its_time() -> None:
    standing = knowing(signed(make(MADE, 0, "release", epoch=3), "ada"))
    ada, bela = identity("ada").public, identity("bela").public
    assert standing.allows(3, ada, NOW)
    assert not standing.allows(3, bela, NOW)
    assert not standing.allows(2, ada, NOW)
    assert not standing.allows(3, ada, NOW + HOUR)
    assert in_force(standing) == 0


def test_one_keyholder_fills_nobodys_memory() -> None:
    standing = Standing(MADE)
    for n in range(PROPOSALS_MAX):
        standing.learn(signed(make(MADE, 1, "halt", reason=f"number {n}"), "ada"), NOW)
    one_more = make(MADE, 1, "halt", reason="one more")
    assert number_of(lambda: standing.learn(signed(one_more, "ada"), NOW)) == 356
    standing.learn(signed(one_more, "bela"), NOW)
    standing.learn(signed(one_more, "ada"), NOW)  # with it, enough
    assert in_force(standing) == 1


def test_what_is_over_is_forgotten_in_the_end_and_still_refused() -> None:
    standing, now, last = Standing(MADE), NOW, None
    for n in range(OLD_MAX):
        last = halt(MADE, 2 * n + 1)
        standing.learn(last, now)
        standing.learn(resume(MADE, last, prev=last.order.hash), now)
    assert len(standing.known) <= OLD_MAX + 2
    assert len(standing.known) < KNOWN_MAX
    assert in_force(standing) == 0
    assert number_of(lambda: standing.learn(halt(MADE), now)) == 348


def test_the_next_order_follows_the_last() -> None:
    assert Standing(MADE).next_place() == (1, None)
    weak, strict = pause(MADE, names=("ada",)), halt(MADE)
    assert knowing(weak, strict).next_place() == (2, strict.order.hash)


def test_what_is_said_to_have_taken_effect_has_its_signatures() -> None:
    assert verify_ordered(halt(MADE).note(MADE.committee), MADE) == halt(MADE)
    with pytest.raises(Refused) as caught:
        verify_ordered(halt(MADE, names=("ada",)).note(MADE.committee), MADE)
    assert caught.value.number == 343


FIRST, THIRD = halt(MADE), halt(MADE, 3, ("bela", "cleo"))
MANY = (
    FIRST,
    halt(MADE, names=("cleo",)),
    pause(MADE, names=("ada",)),
    pause(MADE, 2, ("bela",), begins=NOW - 60),
    pause(MADE, 2, ("bela",), begins=NOW - 90, hours=2),
    resume(MADE, FIRST),
    resume(MADE, FIRST, ("ada",)),
    THIRD,
    resume(MADE, THIRD),
)


@given(st.permutations(MANY), st.integers(0, len(MANY)))
def test_who_knows_the_same_orders_comes_to_the_same(orders: list[Signed], count: int) -> None:
    """Whatever comes first; what is refused for coming too early comes again."""

    def standing(known: list[Signed]) -> Standing:
        found = Standing(MADE)
        for _ in range(len(known) + 1):
            for order in known:
                number_of(lambda order=order: found.learn(order, NOW))  # type: ignore[misc]
        return found

    some = orders[:count]
    one, other = standing(some), standing(sorted(some, key=lambda s: (s.order.hash, len(s.signatures))))
    assert one.in_force(NOW) == other.in_force(NOW)
    assert one.in_force(NOW + HOUR) == other.in_force(NOW + HOUR)
