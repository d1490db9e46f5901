"""A coordinator that lost rows, or all, learns from others what it forgot, and the run goes on as one history."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.protocols.world import Sent, World, openings_of, rows_of
from tests.runs import identity, manifest, text

from interlock.protocols import corpus
from interlock.protocols.canonical import decode
from interlock.protocols.coordinator import Coordinator, RunEnded, Waiting
from interlock.protocols.errors import Failed
from interlock.protocols.journal import GENESIS, Committed, Joined, Opened, Planned, Row, Voided, verify_chain
from interlock.protocols.kept import key_of
from interlock.protocols.recovery import Recovered
from interlock.protocols.release import Opening

TRAINING = dict(rounds=3, epoch_rounds=2)
LONG = dict(rings_max=200)


def begin(world: World, rows: int) -> World:
    """Run until the journal has so many rows."""
    return world.run(until=lambda w: len(rows_of(w.stores["coordinator"])) >= rows)


def forget(world: World, keep: int, *, recover: bool = True, without: tuple[str, ...] = ()) -> None:
    """The coordinator dies, and starts again with its first `keep` rows only."""
    made, whole = world.manifest, text()
    index = corpus.index(whole)
    world.stores["coordinator"] = {key_of(n): world.stores["coordinator"][key_of(n)] for n in range(keep)}
    world._makers["coordinator"] = lambda: Coordinator(
        identity("coordinator"),
        made,
        index=index,
        chunk=lambda n: corpus.chunk(whole, n),
        recover=recover,
        without=frozenset(identity(name).public for name in without),
    )
    world.restart("coordinator")


def one_history(world: World) -> list[Row]:
    """The run took all its rounds, and nobody saw two histories."""
    assert not world.stopped
    rows = world.rows()
    made = world.manifest
    verify_chain(rows, run=made.run, coordinator=made.coordinator, previous=GENESIS, number=0)
    opened = openings_of(rows)
    for sent in world.all_sent(Opening):
        assert opened[sent.message.plan.tick].plan == sent.message.plan
    assert list(opened) == list(range(1, len(opened) + 1))
    commits = [row.body for row in rows if isinstance(row.body, Committed)]
    rounds = [body.round for body in commits]
    assert rounds == sorted(rounds)
    assert rounds[-1] == made.training.rounds
    assert len(world.seen(RunEnded)) >= 1
    return rows


def voided(rows: list[Row]) -> list[int]:
    return [row.body.number for row in rows if isinstance(row.body, Voided)]


WHEN = (14, 20, 26, 31, 35)


@pytest.mark.parametrize("rows", WHEN)
def test_a_journal_that_is_lost_comes_back_from_the_gates(rows: int) -> None:
    world = begin(World(manifest(training=TRAINING), **LONG), rows)
    before = world.rows()
    forget(world, 0)
    after = one_history(world.run())
    (recovered,) = world.seen(Recovered)
    assert recovered.fetched > 0
    newest = max(tick for tick, _ in openings_of(before).items())
    assert recovered.tick in (newest, newest - 1)  # the last opening may have reached nobody but the lost disk
    final = next(row for row in reversed(before) if isinstance(row.body, Opened))  # what it was opened after is final
    plan = openings_of(before)[final.body.tick].plan
    end = next(row.number for row in before if isinstance(row.body, Planned) and row.body.plan == plan)
    kept = end if recovered.tick == newest else 0
    assert after[:kept] == before[:kept]


@pytest.mark.parametrize("drop", [1, 2, 4])
@pytest.mark.parametrize("rows", [20, 31])
def test_a_tail_that_is_lost_unnoticed_comes_back_too(rows: int, drop: int) -> None:
    """Nobody told it: as when a backup was restored, or a disk lied about what it had written."""
    world = begin(World(manifest(training=TRAINING), **LONG), rows)
    forget(world, rows - drop, recover=False)
    after = one_history(world.run())
    assert set(voided(after)) <= {333}


def test_a_gate_that_came_late_or_was_away_has_the_whole_chain_in_the_end() -> None:
    """From tick 2 to 5 a gate hears nothing; then another is away for good, and its place is taken."""

    def change(sent: Sent) -> list[Sent]:
        opening = world.roles["relay0"]._opening
        now = 0 if opening is None else opening.plan.tick
        return [] if 2 <= now <= 5 and "ada" in (sent.source, sent.to) else [sent]

    world = World(manifest(training=dict(rounds=6, epoch_rounds=3)), change=change, **LONG)
    world.run()
    for _ in range(5):  # gates say now and then what they have
        world._ring()
        while world._queue:
            world.step()
    rows = world.rows()
    for name in ("ada", "bela", "cleo"):
        kept = [decode(value, Row) for key, value in sorted(world.stores[name].items()) if key.startswith("row ")]
        assert kept == rows[: len(kept)], name
        assert len(kept) > len(rows) - 10


def test_it_waits_for_every_gate_by_name_and_goes_on_when_they_are_there() -> None:
    gone: set[str] = set()
    world = World(
        manifest(training=TRAINING),
        change=lambda sent: [] if gone & {sent.source, sent.to} else [sent],
        rings_max=30,
    )
    begin(world, 30)
    gone |= {"cleo"}
    forget(world, 0)
    world.run()
    assert not world.rows()
    assert world.seen(Waiting)[-1].what == "gates that may know more of this run: cleo"
    gone.clear()
    one_history(world.run())


def test_a_gate_that_is_lost_for_good_can_be_named() -> None:
    gone: set[str] = set()
    world = World(
        manifest(training=TRAINING),
        change=lambda sent: [] if gone & {sent.source, sent.to} else [sent],
        **LONG,
    )
    begin(world, 30)
    gone |= {"cleo"}
    forget(world, 0, without=("cleo",))
    one_history(world.run())


def number_of_stop(world: World) -> int:
    error = world.stopped["coordinator"]
    assert isinstance(error, Failed)
    return error.number


def test_an_empty_journal_by_mistake_stops_before_it_makes_a_second_history() -> None:
    world = begin(World(manifest(training=TRAINING), **LONG), 30)
    forget(world, 0, recover=False)
    world.run()
    assert number_of_stop(world) == 335


Change = Callable[[dict[str, bytes]], Any]
DAMAGE: dict[str, Change] = {
    "a row is missing": lambda stored: stored.pop(key_of(12)),
    "the first row is missing": lambda stored: stored.pop(key_of(0)),
    "a row is cut": lambda stored: stored.update({key_of(12): stored[key_of(12)][:-1]}),
    "a row is changed": lambda stored: stored.update({key_of(12): stored[key_of(12)][:-9] + bytes(9)}),
    "two rows change places": lambda stored: stored.update({key_of(12): stored[key_of(13)]}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_journal_is_never_gone_on_from(name: str) -> None:
    world = begin(World(manifest(training=TRAINING), **LONG), 30)
    DAMAGE[name](world.stores["coordinator"])
    before = dict(world.stores["coordinator"])
    world.restart("coordinator")
    world.run()
    assert number_of_stop(world) == 334
    assert world.stores["coordinator"] == before


@pytest.mark.parametrize("steps", [4, 11, 19, 30])
def test_recovering_may_itself_be_cut_at_any_point(steps: int) -> None:
    world = begin(World(manifest(training=TRAINING), **LONG), 32)
    forget(world, 0)
    for _ in range(steps):
        if not world._queue:
            world._ring()
        world.step()
    world.restart("coordinator")
    one_history(world.run())


def test_a_joined_row_of_anybody_else_waits_until_the_history_is_known() -> None:
    world = begin(World(manifest(training=TRAINING), **LONG), 30)
    forget(world, 3)
    rows = one_history(world.run())
    joined = [row.body.join.record.identity for row in rows if isinstance(row.body, Joined)]
    assert len(joined) == len(set(joined))


def test_no_tick_is_given_up_before_gates_have_told_what_they_know() -> None:
    world = begin(World(manifest(training=TRAINING), **LONG), 20)
    opened = [row for row in world.rows() if isinstance(row.body, Opened)][-1]
    for gate in ("ada", "bela", "cleo"):
        world.kill(gate)
    forget(world, opened.number + 1, recover=False)
    for timer in (f"patience {opened.body.tick}", "orphaned"):
        world.tell("coordinator", partial(Coordinator.on_timer, name=timer))
    world.run(until=lambda w: not w._queue)
    assert world.rows()[-1] == opened
    for gate in ("ada", "bela", "cleo"):
        world.restart(gate)
    one_history(world.run())
