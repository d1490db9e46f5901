"""Relays that live, and that somebody does not reach or that do not carry: they are left out, and nobody dies of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.world import Sent, World
from tests.runs import identity, manifest

from interlock.protocols.belonging import ASKED_LOOKS, EAGER_LOOKS, RARE_LOOKS, Belonging
from interlock.protocols.boundary import Frame, Here
from interlock.protocols.coordinator import Coordinator, RunEnded, Waiting
from interlock.protocols.doubt import Doubt
from interlock.protocols.effects import Blob
from interlock.protocols.journal import DIED, Changed, Committed, Planned, Voided
from interlock.protocols.members import Join, make_record
from interlock.protocols.node import OutOfReach
from interlock.protocols.reach import LASTING_LOOKS, Reach

TRAINING = dict(rounds=3, epoch_rounds=3)
RELAY = [identity(f"relay{i}").public for i in range(2)]
A, B, X, Y = b"a", b"b", b"x", b"y"


# --- what nodes said ---


def test_a_relay_is_usable_when_nobody_says_that_it_is_out_of_reach() -> None:
    reach = Reach()
    assert reach.usable([A, B], [X, Y]) == [A, B]
    reach.hear(X, [A])
    assert reach.usable([A, B], [X, Y]) == [B]
    assert reach.usable([A, B], [Y]) == [A, B]
    assert reach.misses(X, [A, B]) == [A]
    reach.hear(X, [])
    assert reach.usable([A, B], [X, Y]) == [A, B]


def test_what_is_said_again_lasts_and_what_is_taken_back_begins_anew() -> None:
    reach = Reach()
    for look in range(LASTING_LOOKS):
        assert reach.lasting([A, B], [X, Y]) == [], look
        reach.hear(X, [A])
        reach.look()
    assert reach.lasting([A, B], [X, Y]) == [(X, A)]
    assert reach.lasting([B], [X, Y]) == []
    reach.hear(X, [])
    reach.hear(X, [A])
    assert reach.lasting([A, B], [X, Y]) == []


@given(st.lists(st.tuples(st.sampled_from([X, Y]), st.sets(st.sampled_from([A, B])), st.booleans()), max_size=40))
def test_who_is_cut_off_has_said_of_every_relay_for_long_that_it_is_out_of_reach(steps: Any) -> None:
    reach, since = Reach(), dict[tuple[bytes, bytes], int]()
    for node, missing, long in steps:
        reach.hear(node, missing)
        for relay in (A, B):
            if relay in missing:
                since.setdefault((node, relay), 0)
            else:
                since.pop((node, relay), None)
        for _ in range(LASTING_LOOKS if long else 1):
            reach.look()
        since = {pair: looks + (LASTING_LOOKS if long else 1) for pair, looks in since.items()}
        lasting = {pair for pair, looks in since.items() if looks >= LASTING_LOOKS}
        assert set(reach.lasting([A, B], [X, Y])) == lasting
        assert reach.cut_off([A, B], [X, Y]) == {n for n in (X, Y) if {(n, A), (n, B)} <= lasting}
    assert reach.cut_off([], [X, Y]) == set()


# --- what nobody knows ---


def test_relays_are_suspected_in_turn_and_never_all() -> None:
    doubt = Doubt()
    assert doubt.without([A, B]) == [A, B]
    doubt.turn([A, B])
    assert doubt.without([A, B]) == [B]
    doubt.turn([B])
    assert doubt.without([A, B]) == [A]
    assert doubt.without([B]) == [B]
    doubt.turn([A])
    assert doubt.without([A, B]) == [B]
    doubt.suspect(B)
    assert doubt.without([A, B]) == [A]
    doubt.trust(A)
    assert doubt.without([A, B]) == [A]
    doubt.trust(B)
    assert doubt.without([A, B]) == [A, B]


# --- how a node finds out ---


def test_a_relay_is_asked_eagerly_and_then_now_and_then_and_is_missing_from_the_second_silence_on() -> None:
    here = Here(tick=0, have=())
    node = Belonging(manifest(), Join(record=make_record(identity("node0"), "node", "node0"), invitation=None))
    node.relays = dict.fromkeys(RELAY, "sim://")
    assert len(node.look(here, quiet=True)) == 2
    node.reach(RELAY[1])
    for silent in range(1, EAGER_LOOKS):
        assert [send.to for send in node.look(here, quiet=False)] == [RELAY[0]], silent
        assert node.missing == ({RELAY[0]} if silent >= ASKED_LOOKS else set())
    later = [bool(node.look(here, quiet=False)) for _ in range(4 * RARE_LOOKS)]
    assert sum(later) == 4
    assert len(node.look(here, quiet=True)) == 2
    assert node.reach(RELAY[0]) and not node.missing
    assert not node.reach(RELAY[0])
    node.reach(RELAY[1])
    assert not node.look(here, quiet=False)


# --- whole runs ---


class Cuts:
    """Nothing passes between these pairs of processes."""

    def __init__(self) -> None:
        self.pairs: set[frozenset[str]] = set()

    def __call__(self, sent: Sent) -> list[Sent]:
        return [] if frozenset((sent.source, sent.to)) in self.pairs else [sent]

    def between(self, *nodes: str, relays: tuple[str, ...]) -> None:
        """Cut these nodes off from these relays, and from nobody else."""
        self.pairs = {frozenset((node, relay)) for node in nodes for relay in relays}


def world(cuts: Cuts, **made: Any) -> World:
    """A run that goes on for long while nothing is written."""
    return World(manifest(training=TRAINING, **made), change=cuts, rings_max=100)


def bodies(world: World, kind: type[Any]) -> list[Any]:
    """Rows of a kind."""
    return [row.body for row in world.rows() if isinstance(row.body, kind)]


def after(rounds: int) -> Callable[[World], bool]:
    """Until so many rounds are taken."""
    return lambda world: any(body.round == rounds for body in bodies(world, Committed))


def whole(world: World) -> bool:
    """Whether all rounds are taken, each once."""
    rounds = [body.round for body in bodies(world, Committed)]
    return bool(world.seen(RunEnded)) and len(set(rounds)) == len(rounds) and max(rounds) == 3


def test_a_relay_that_one_node_does_not_reach_is_left_out() -> None:
    cuts = Cuts()
    run = world(cuts).run(until=after(1))
    planned = len(bodies(run, Planned))
    cuts.between("node0", relays=("relay0",))
    run.run()
    assert whole(run)
    (void,) = bodies(run, Voided)
    assert (void.number, void.reason) == (DIED, "gone: node0 from relay0")
    assert {body.plan.relays for body in bodies(run, Planned)[planned + 1 :]} == {(RELAY[1],)}
    assert not [body for body in bodies(run, Changed)[1:] if body.tick > void.tick]
    assert run.seen(OutOfReach)[-1].relays == (f"{RELAY[0].hex()[:12]} at sim://relay0",)


def test_a_relay_is_used_again_once_all_reach_it() -> None:
    cuts = Cuts()
    run = world(cuts).run(until=after(1))
    cuts.between("node0", relays=("relay0",))
    run.run(until=lambda w: bool(bodies(w, Voided)))
    run.run(until=after(2))
    cuts.between(relays=())
    run.tell("node0", lambda node: node.on_timer("look"))  # it asks again, however much comes by the other relay
    run.run()
    assert whole(run)
    assert set(bodies(run, Planned)[-1].plan.relays) == set(RELAY)
    assert run.seen(OutOfReach)[-1].relays == ()


def test_a_node_that_reaches_no_relay_is_dropped_where_others_hold_its_stage() -> None:
    cuts = Cuts()
    run = world(cuts).run(until=after(1))
    cuts.between("node0", relays=("relay0", "relay1"))
    run.run()
    assert whole(run)
    assert identity("node0").public not in {who for stage in bodies(run, Changed)[-1].members for who in stage}
    assert sum(map(len, bodies(run, Changed)[-1].members)) == 5


def test_who_alone_holds_a_stage_is_waited_for() -> None:
    cuts = Cuts()
    run = world(cuts, replicas=1).run(until=after(1))
    cuts.between("node0", relays=("relay0", "relay1"))
    run.run()
    assert not run.seen(RunEnded) and not any(run.stopped.values())
    waits = "a relay that all members reach: node0 does not reach relay0, relay1"
    assert run.seen(Waiting)[-1].what == waits
    cuts.between(relays=())
    run.run()
    assert whole(run)


def test_a_run_begins_once_everybody_reaches_every_relay_that_it_needs() -> None:
    cuts = Cuts()
    cuts.between("node3", relays=("relay1",))
    run = world(cuts).run()
    assert not bodies(run, Changed)
    assert {body.reason for body in bodies(run, Voided)} == {"gone: node3 from relay1"}
    waits = "6 of 6 nodes, 1 of 2 relays (node3 does not reach relay1), 3 gates"
    assert run.seen(Waiting)[-1].what.startswith(waits)
    cuts.between(relays=())
    assert whole(run.run())


@pytest.mark.parametrize("relay", [0, 1])
def test_a_relay_that_changes_every_frame_costs_one_tick_and_is_used_no_more(relay: int) -> None:
    def spoilt(sent: Sent) -> list[Sent]:
        if not isinstance(sent.message, Frame) or sent.source != f"relay{relay}":
            return [sent]
        data = bytearray(sent.blobs[0].data)
        data[5] ^= 1
        return [replace(sent, blobs=(Blob(data),))]

    run = World(manifest(training=TRAINING), change=spoilt).run()
    assert whole(run)
    (void,) = bodies(run, Voided)
    assert void.number == 306
    later = {body.plan.relays for body in bodies(run, Planned) if body.plan.tick > void.tick}
    assert later == {(RELAY[1 - relay],)}
    assert sum(map(len, bodies(run, Changed)[-1].members)) == 6


@pytest.mark.parametrize("relay", [0, 1])
def test_a_relay_that_swallows_frames_ends_no_run(relay: int) -> None:
    """It is heard and it answers; ticks end for it only when their patience does."""

    def swallowed(sent: Sent) -> list[Sent]:
        return [] if isinstance(sent.message, Frame) and sent.source == f"relay{relay}" else [sent]

    run = World(manifest(training=TRAINING), change=swallowed, rings_max=3)
    for _ in range(4):
        run.run()
        if run.seen(RunEnded):
            break
        tick = bodies(run, Planned)[-1].plan.tick
        run.tell("coordinator", partial(Coordinator.on_timer, name=f"patience {tick}"))
    assert whole(run)
    assert {void.number for void in bodies(run, Voided)} == {330}
    assert bodies(run, Planned)[-1].plan.relays == (RELAY[1 - relay],)


def test_a_relay_that_is_suspected_is_used_again_when_it_starts_again() -> None:
    spoils = True

    def spoilt(sent: Sent) -> list[Sent]:
        if not spoils or not isinstance(sent.message, Frame) or sent.source != "relay0":
            return [sent]
        return [replace(sent, blobs=(Blob(bytes(sent.blobs[0].data)[::-1]),))]

    run = World(manifest(training=TRAINING), change=spoilt).run(until=after(1))
    spoils = False
    run.restart("relay0")
    assert whole(run.run())
    assert set(bodies(run, Planned)[-1].plan.relays) == set(RELAY)
