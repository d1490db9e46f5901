"""What is lost is said again: messages, coordinators, gates and relays may fail at any point, and the run goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.protocols.world import Sent, World, openings_of, rows_of
from tests.runs import identity, manifest

from interlock.protocols.boundary import Frame, Here
from interlock.protocols.change import Prepare
from interlock.protocols.coordinator import RunEnded
from interlock.protocols.effects import UP, Blob
from interlock.protocols.errors import Refused
from interlock.protocols.journal import Changed, Committed, Joined, Row, Voided
from interlock.protocols.node import GaveUp
from interlock.protocols.pulse import Beat
from interlock.protocols.release import Ready, Released, draw_members
from interlock.protocols.round import Trouble
from interlock.protocols.service.engine import Engine

TRAINING = dict(rounds=3, epoch_rounds=2)


def states(rows: list[Row]) -> list[Any]:
    """What every tick that moved something ended in."""
    bodies = [row.body for row in rows if isinstance(row.body, Committed | Changed)]
    return [[r.state for r in (b.reports if isinstance(b, Committed) else b.prepared)] for b in bodies]


@pytest.fixture(scope="module")
def undisturbed() -> World:
    return World(manifest(training=TRAINING)).run()


def ended_alike(world: World, undisturbed: World) -> None:
    """The run took all its rounds, nothing was voided, and the text, seeds and order made the same number of states."""
    assert not world.stopped
    assert len(states(world.rows())) == len(states(undisturbed.rows()))
    kinds = [type(row.body) for row in world.rows() if not isinstance(row.body, Joined)]
    assert kinds == [type(row.body) for row in undisturbed.rows() if not isinstance(row.body, Joined)]
    assert not world.all_sent(Trouble)


def test_a_node_asks_for_what_it_misses_as_soon_as_a_relay_is_back() -> None:
    world = World(manifest(training=TRAINING))
    world.run(until=lambda w: len(w.all_sent(Frame)) > 10)
    relay, node = identity("relay0").public, world.roles["node0"]
    (asked,) = node.on_timer(f"{UP}{relay.hex()}")
    assert asked.to == relay and isinstance(asked.message, Here) and asked.message.tick > 0
    (ready,) = node.on_timer(f"{UP}{identity('coordinator').public.hex()}")
    assert isinstance(ready.message, Ready)
    assert node.on_timer(f"{UP}{identity('node1').public.hex()}") == []


def lost_once() -> Callable[[Sent], list[Sent]]:
    """The first message of every kind on every link is lost."""
    seen: set[Any] = set()

    def change(sent: Sent) -> list[Sent]:
        link = (sent.source, sent.to, type(sent.message))
        first, _ = link not in seen, seen.add(link)
        return [] if first else [sent]

    return change


def lost_often(seed: int, share: float) -> Callable[[Sent], list[Sent]]:
    """A share of all messages is lost, but no sign of life: who shows none for long counts as dead, and rightly."""
    chance = random.Random(seed)
    return lambda sent: [] if chance.random() < share and not isinstance(sent.message, Beat) else [sent]


def test_the_first_message_of_every_kind_may_be_lost(undisturbed: World) -> None:
    ended_alike(World(manifest(training=TRAINING), change=lost_once()).run(), undisturbed)


@pytest.mark.parametrize("seed", range(4))
def test_a_fifth_of_all_messages_may_be_lost(seed: int, undisturbed: World) -> None:
    world = World(manifest(training=TRAINING), change=lost_often(seed, 0.2), rings_max=1000)
    ended_alike(world.run(), undisturbed)


@pytest.mark.parametrize("seed", range(2))
def test_messages_may_come_twice(seed: int, undisturbed: World) -> None:
    chance = random.Random(seed)
    world = World(manifest(training=TRAINING), change=lambda sent: [sent] * chance.choice([1, 1, 2]))
    ended_alike(world.run(), undisturbed)


def restart_at_every_row(name: str, world: World, *, steps: int = 0) -> World:
    """Restart one process whenever the journal has grown, `steps` inputs later."""
    while not world.stopped:
        known = len(world.rows())
        world.run(until=lambda w, k=known: len(rows_of(w.stores["coordinator"])) > k)
        if len(world.rows()) == known:
            return world
        for _ in range(steps):
            world.step()
        world.restart(name)
    return world


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("name", ["coordinator", "relay0", "relay1", "bela"])
def test_a_process_may_restart_after_every_row(name: str, steps: int, undisturbed: World) -> None:
    ended_alike(restart_at_every_row(name, World(manifest(training=TRAINING)), steps=steps), undisturbed)


@pytest.mark.parametrize("tick", [2, 4])
def test_a_gate_that_comes_late_or_has_lost_its_store_can_take_anothers_place(tick: int, undisturbed: World) -> None:
    """From some tick on one of two gates is gone, and one that never saw a row answers instead."""

    def now(world: World) -> int:
        opening = world.roles["relay0"]._opening
        return 0 if opening is None else opening.plan.tick

    def change(sent: Sent) -> list[Sent]:
        gone = "cleo" if now(world) < tick else "ada"
        return [] if gone in (sent.source, sent.to) else [sent]

    world = World(manifest(training=TRAINING), change=change)
    ended_alike(world.run(), undisturbed)
    assert {sent.source for sent in world.all_sent(Released)} == {"ada", "bela", "cleo"}


def test_a_relay_that_changes_a_frame_is_named_and_costs_one_void() -> None:
    changed: list[Sent] = []

    def change(sent: Sent) -> list[Sent]:
        if isinstance(sent.message, Frame) and sent.source == "relay1" and not changed:
            changed.append(sent)
            data = bytearray(sent.blobs[0].data)
            data[5] ^= 1
            return [replace(sent, blobs=(Blob(data),))]
        return [sent]

    world = World(manifest(training=TRAINING), change=change).run()
    assert [(event.number, event.suspect) for event in world.seen(GaveUp)] == [(306, identity("relay1").public.hex())]
    (void,) = [row.body for row in world.rows() if isinstance(row.body, Voided)]
    assert void.number == 306
    assert identity("relay1").public.hex()[:12] in void.reason
    assert world.seen(RunEnded)


def test_a_start_that_is_void_is_drawn_anew(undisturbed: World) -> None:
    """Stages are drawn from the opening, so the next attempt gives nodes other stages; nobody keeps anything."""
    failed: list[str] = []

    def fail_once(name: str, engine: Engine, job: object) -> None:
        if isinstance(job, Prepare) and len(failed) < 3:
            failed.append(name)
            raise Refused(503, "the new state cannot be made")

    world = World(manifest(training=TRAINING), before_job=fail_once).run()
    starts = openings_of(world.rows())
    drawn = [draw_members(starts[tick], world.manifest) for tick in (1, 2)]
    assert drawn[0] != drawn[1]
    assert len(states(world.rows())) == len(states(undisturbed.rows()))


def restarts(world: World, seed: int, *, most: int) -> World:
    """Processes start again at random, nodes not so often that a stage could lose all its replicas."""
    rng, left, last = random.Random(seed), most, 0
    names = ["coordinator", "ada", "bela", "cleo", "relay0", "relay1", *world.engines]
    while left and not world.seen(RunEnded) and not any(world.stopped.values()):
        steps = iter(range(rng.randrange(50, 3000)))
        world.run(until=lambda w, steps=steps: next(steps, None) is None)
        name, rows = rng.choice(names), len(world.rows())
        if name in world.engines and rows > 11 and rows - last < 25:
            continue
        last = rows if name in world.engines else last
        left -= 1
        world.restart(name)
    return world.run()


@pytest.mark.parametrize("seed", [0, 1, 2, 6, 18, 34])  # the last three once found a relay that never asked
def test_messages_may_be_lost_while_processes_start_again(seed: int) -> None:
    share = random.Random(seed).choice([0.05, 0.15])
    made = World(manifest(training=TRAINING), change=lost_often(seed, share), rings_max=400, spares=1)
    world = restarts(made, seed, most=6)
    assert world.seen(RunEnded) and not any(world.stopped.values())
    rounds = [row.body.round for row in world.rows() if isinstance(row.body, Committed)]
    assert rounds == sorted(rounds) and rounds[-1] == world.manifest.training.rounds
