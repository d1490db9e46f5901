"""Who counts as dead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols.pulse import FLOOR, Pulse

WHO = b"w" * 32


def silent_until_dead(pulse: Pulse) -> int:
    """How many looks it takes."""
    looks = 0
    while pulse.alive(WHO):
        pulse.look()
        looks += 1
        assert looks < 10_000
    return looks


def test_whoever_was_never_expected_is_not_alive() -> None:
    assert not Pulse().alive(WHO)


def test_one_that_was_expected_and_never_came_dies() -> None:
    pulse = Pulse()
    pulse.expect(WHO)
    assert silent_until_dead(pulse) == FLOOR + 2


def test_a_sign_of_life_brings_it_back() -> None:
    pulse = Pulse()
    pulse.heard(WHO)
    silent_until_dead(pulse)
    pulse.heard(WHO)
    assert pulse.alive(WHO)


@given(st.lists(st.integers(1, 6), min_size=4, max_size=60))
def test_nobody_dies_within_its_habit_and_everybody_does_at_last(gaps: list[int]) -> None:
    pulse = Pulse()
    pulse.heard(WHO)
    for gap in gaps:
        for _ in range(gap):
            pulse.look()
        pulse.heard(WHO)
    recent = sorted(gaps[-32:])
    habit = recent[(len(recent) - 1) // 2]
    for _ in range(habit + FLOOR):
        pulse.look()
        assert pulse.alive(WHO)
    assert silent_until_dead(pulse) <= 6 + FLOOR + 4 * 6


def test_the_habit_of_one_is_not_that_of_another() -> None:
    pulse, other = Pulse(), b"o" * 32
    for _ in range(40):
        pulse.heard(other)
        for _ in range(5):
            pulse.look()
        pulse.heard(WHO)
    pulse.heard(other)
    for _ in range(FLOOR + 4):
        pulse.look()
        pulse.heard(other)
    assert pulse.alive(WHO) and pulse.alive(other)
