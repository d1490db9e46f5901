"""Every attack ends as the threat model says, and the programs that judge them can tell."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.runs import manifest, play

from interlock.protocols.net.runner import Refusal
from interlock.protocols.node import GaveUp

from . import bases, glue, listening, two_time_pads
from .__main__ import main
from .attack import Attack, Cost, Found
from .table import ATTACKS


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_ends_as_the_threat_model_says(attack: Attack) -> None:
    found = attack.carry_out(short=True)
    assert (found.won, found.control) in ((attack.wins, True), (True, None)), found
    assert attack.holds(found)


def test_every_attack_has_a_name_of_its_own_and_says_who() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert all(attack.who and attack.target and "|" not in attack.name + attack.who for attack in ATTACKS)


# -- what judges ---------------------------------------------------------------------------------------------------


def found(*, won: bool, control: bool | None) -> Found:
    return Found(won=won, recovered="something", measures={}, cost=Cost(), control=control)


@pytest.mark.parametrize(
    ("wins", "won", "control", "holds"),
    [
        (True, True, None, True),
        (True, True, True, True),
        (True, False, None, False),
        (True, True, False, False),
        (False, False, True, True),
        (False, False, None, False),
        (False, False, False, False),
        (False, True, True, False),
    ],
)
def test_a_failure_counts_only_beside_a_control_that_won(
    wins: bool, won: bool, control: bool | None, holds: bool
) -> None:
    attack = Attack(name="a", who="b", wins=wins, run=lambda: found(won=won, control=control))
    assert attack.holds(attack.carry_out()) == holds


@pytest.mark.parametrize(("wins", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_says_whether_all_hold(wins: bool, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    attack = Attack(name="a", who="b", wins=wins, run=lambda: found(won=True, control=None))
    assert main([], (attack,)) == status
    assert main(["--json"], (attack,)) == status
    assert main(["--markdown", "--short"], (attack,)) == status
    assert main(["--only", "nothing of that name"], (attack,)) == 1
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    (row,) = json.loads(shown[0])["attacks"]
    assert (row["won"], row["holds"], row["expected"]) == (True, wins, attack.outcome)


def noise(seed: int, size: int) -> listening.Words:
    return np.random.default_rng(seed).integers(0, listening.TOP, size, dtype=np.uint32)


def test_uniform_words_pass_and_p_values_are_uniform() -> None:
    p = np.array([listening.all_tests(noise(2 * s, 50_000), noise(2 * s + 1, 50_000), row=16) for s in range(40)])
    assert p.min() * p.size > listening.ALPHA
    assert 0.02 < np.mean(p < 0.05) < 0.09


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda a, b: (a & 0xFFFFFE, b),  # a bit that is always zero
        lambda a, b: (a, np.where(np.arange(b.size) % 50 == 0, a, b)),  # every fiftieth word masked alike
        lambda a, b: (a, (a + (b & 0xFFFF)) % listening.TOP),  # one mask, two inputs
        lambda a, b: (np.where(np.arange(a.size) % 40 == 0, np.roll(a, 1), a), b),  # a keystream that repeats itself
        lambda a, b: (np.where(a % 2, a, a // 2), b),
    ],
)
def test_words_that_are_not_uniform_or_not_independent_are_found(spoilt: object) -> None:
    assert callable(spoilt)
    one, other = spoilt(noise(1, 300_000), noise(2, 300_000))
    p = listening.all_tests(np.asarray(one, np.uint32), np.asarray(other, np.uint32), row=16)
    assert min(p) * len(p) < listening.ALPHA


def test_a_run_that_nobody_tampers_with_names_nobody() -> None:
    run = play(manifest(training=dict(rounds=1, epoch_rounds=1)))
    assert not run.seen(GaveUp)
    assert not [event for event in run.seen(Refusal) if event.number in (206, 305, 306, 405)]


@pytest.mark.parametrize("name", two_time_pads.CASES)
def test_the_real_nonce_separates_each_case_by_itself(name: str) -> None:
    pair = two_time_pads.subtract(two_time_pads.CASES[name], Cost(), weakened=False)
    assert not pair.found
    assert pair.equal == (name == "a stale device copy")


def test_procrustes_and_clouds_find_a_turn_of_what_has_a_shape() -> None:
    rng = np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    rows = rng.exponential(1.0, (4000, 6)) * np.arange(1, 7)
    assert bases.error(bases.procrustes(rows, rows @ turn.T), turn) < 1e-12
    matched = glue.match(rows[:2000], rows[2000:] @ turn.T, points=500, rng=rng)
    assert bases.error(matched.matrix, turn) < 0.2
