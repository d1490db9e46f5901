"""Members come, go and die while the run goes on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from tests.protocols.world import Sent, World
from tests.runs import identity, manifest

from interlock.protocols.change import Export
from interlock.protocols.coordinator import RunEnded
from interlock.protocols.errors import InterlockError
from interlock.protocols.journal import Changed, Committed, Joined, Planned, Voided
from interlock.protocols.members import Roster
from interlock.protocols.node import NodeOpened
from interlock.protocols.release import lead
from interlock.protocols.round import Members

TRAINING = dict(rounds=3, epoch_rounds=2)
KEY = {identity(f"node{i}").public: f"node{i}" for i in range(12)}


def names(members: Members) -> list[list[str]]:
    """Who holds each stage."""
    return [sorted(KEY[who] for who in stage) for stage in members]


def members(world: World) -> list[list[str]]:
    """Who holds each stage at the end."""
    return names([row.body.members for row in world.rows() if isinstance(row.body, Changed)][-1])


def everyone(stages: list[list[str]]) -> set[str]:
    """All of them."""
    return {who for stage in stages for who in stage}


def bodies(world: World, kind: type[Any]) -> list[Any]:
    """Rows of a kind."""
    return [row.body for row in world.rows() if isinstance(row.body, kind)]


def opened(kind: str, round: int) -> Any:
    """Until a tick of this kind and round is open."""

    def yes(world: World) -> bool:
        plans = [body.plan for body in bodies(world, Planned)]
        ticks = {event.tick for event in world.seen(NodeOpened)}
        return any(p.kind == kind and p.round == round and p.tick in ticks for p in plans)

    return yes


def ended(world: World) -> bool:
    """Whether all rounds are taken, and each once."""
    rounds = [body.round for body in bodies(world, Committed)]
    return bool(world.seen(RunEnded)) and sorted(set(rounds)) == [0, 1, 2, 3] and len(rounds) == 4


def test_a_run_goes_on_without_a_node_that_died() -> None:
    world = World(manifest(training=TRAINING))
    world.run(until=opened("train", 1))
    victim = members(world)[1][0]
    world.kill(victim)
    world.run()
    assert ended(world)
    assert [len(stage) for stage in members(world)] == [2, 1, 2] and victim not in everyone(members(world))
    died = [body for body in bodies(world, Voided) if body.number == 332]
    assert len(died) == 1 and victim in died[0].reason


def test_a_waiting_node_takes_the_place_of_one_that_died() -> None:
    world = World(manifest(training=TRAINING), spares=1)
    world.run(until=opened("train", 1))
    held = members(world)
    waits = next(name for name in KEY.values() if name in world.roles and name not in everyone(held))
    victim = held[2][1]
    world.kill(victim)
    world.run()
    assert ended(world)
    now = members(world)
    assert now[:2] == held[:2] and now[2] == sorted([held[2][0], waits])


def test_a_node_that_starts_again_gets_its_own_stage_back() -> None:
    world = World(manifest(training=TRAINING))
    world.run(until=opened("train", 1))
    held = members(world)
    world.restart(held[0][0])
    world.run()
    assert ended(world)
    assert members(world) == held


def test_a_node_that_waits_has_nothing_to_do_at_each_tick() -> None:
    """Else it would never find that it is quiet, and a coordinator that has started again would not hear of it."""
    jobs: list[tuple[str, Any]] = []
    world = World(manifest(training=TRAINING), spares=1, before_job=lambda name, engine, job: jobs.append((name, job)))
    world.run(until=opened("train", 1))
    waits = next(name for name in KEY.values() if name in world.roles and name not in everyone(members(world)))
    world.run()
    assert ended(world)
    assert not [job for name, job in jobs if name == waits]


def test_a_node_that_gets_its_state_back_is_not_taken_for_dead_meanwhile() -> None:
    world = World(manifest(training=TRAINING))
    world.run(until=opened("train", 1))
    back = members(world)[0][0]
    world.restart(back)

    def gets_it(world: World) -> bool:
        gives = {body.plan.tick for body in bodies(world, Planned) if body.plan.change == "members"}
        ticks = {event.tick for event in world.seen(NodeOpened)}
        return any(body.plan.candidates and body.plan.tick in gives & ticks for body in bodies(world, Planned))

    world.run(until=gets_it)
    for _ in range(3):
        world.tell("coordinator", lambda role: role.on_timer("look"))
    world.run()
    assert ended(world)
    assert len([body for body in bodies(world, Voided) if body.number == 332]) == 1  # the round that it died in


def test_a_node_that_leaves_goes_without_a_void() -> None:
    world = World(manifest(training=TRAINING))
    world.run(until=opened("train", 1))
    goes = members(world)[1][0]
    world.tell(goes, lambda role: role.on_timer("hand over"))
    world.run()
    assert ended(world)
    assert world.stopped == {goes: None}
    assert not [body for body in bodies(world, Voided) if body.number == 332]


def test_the_last_of_a_stage_leaves_once_somebody_has_taken_over() -> None:
    made = manifest(training=TRAINING, replicas=1)
    world = World(made, spares=1)
    world.run(until=opened("train", 1))
    goes = members(world)[1][0]
    world.tell(goes, lambda role: role.on_timer("hand over"))
    world.run()
    assert ended(world)
    assert world.stopped == {goes: None}
    assert goes not in everyone(members(world))
    both = [names(body.members)[1] for body in bodies(world, Changed) if len(body.members[1]) == 2]
    assert len(both) == 1 and goes in both[0]


def test_a_run_whose_stage_nobody_holds_ends() -> None:
    world = World(manifest(training=TRAINING))
    world.run(until=opened("train", 1))
    for victim in members(world)[1]:
        world.kill(victim)
    world.run()
    assert not ended(world)
    world.tell("coordinator", lambda role: role.on_timer("orphaned"))
    world.run()
    error = world.stopped["coordinator"]
    assert isinstance(error, InterlockError) and error.number == 360


@pytest.mark.parametrize("back", [False, True])
def test_a_relay_may_die(back: bool) -> None:
    world = World(manifest(training=TRAINING))
    world.run(until=opened("train", 1))
    world.kill("relay0")
    if back:
        world.run(until=lambda w: bool(bodies(w, Voided)))
        world.restart("relay0")
    world.run()
    assert ended(world)
    assert [len(stage) for stage in members(world)] == [2, 2, 2]
    assert len(bodies(world, Joined)) == 3 + 2 + 6


@pytest.mark.parametrize("number", [520, 502])
def test_a_replica_that_sends_a_wrong_state_is_found_and_another_asked(number: int) -> None:
    world = World(manifest(training=TRAINING, replicas=3), spares=1)
    world.run(until=opened("train", 1))
    held = members(world)
    world.kill(held[1][0])
    left = tuple(sorted(identity(who).public for who in held[1][1:]))
    liar = KEY[lead(left, 0, 1)]  # the tick that died was the first try
    engine = world.engines[liar]
    honest = engine._export

    def lie(job: Export) -> Any:
        """Something that is no state, or a state of another round."""
        base = engine._base
        assert base is not None
        if number == 520:
            engine._base = replace(base, tensors=dict(list(base.tensors.items())[1:]))
        else:
            engine._base = replace(base, round=7)
        try:
            return honest(job)
        finally:
            engine._base = base

    engine._export = lie  # type: ignore[method-assign]
    world.run()
    assert ended(world)
    voids = [body for body in bodies(world, Voided) if body.number == number]
    assert len(voids) == 1 and len(members(world)[1]) == 3
    if number == 520:
        assert identity(liar).public.hex()[:12] in voids[0].reason


def test_work_goes_to_whoever_is_faster() -> None:
    training = TRAINING | dict(microbatches=6)
    world = World(manifest(training=training))
    for number, engine in enumerate(world.engines.values()):
        ticking = itertools.count(step=3 if number % 2 else 1)
        engine._clock = lambda ticking=ticking: float(next(ticking))  # type: ignore[misc]
    world.run()
    assert ended(world)
    plan = [body.plan for body in bodies(world, Planned) if body.plan.kind == "train"][-1]
    for stage, group in enumerate(plan.members):
        done = [sum(assigned[stage] == replica for assigned in plan.work) for replica in range(2)]
        slow = [int(KEY[who][4:]) % 2 for who in group]
        if slow == [0, 0] or slow == [1, 1]:
            assert done == [3, 3]
        else:
            assert done[slow.index(0)] == 4 or done[slow.index(0)] == 5


def test_after_the_last_round_a_node_hands_over_to_one_that_waits() -> None:
    world = World(manifest(training=TRAINING, replicas=1), spares=1)
    world.run()
    assert ended(world)
    held = members(world)
    goes = held[1][0]
    world.events.clear()
    world.tell(goes, lambda role: role.on_timer("hand over"))
    world.run(until=lambda w: goes in w.stopped)
    assert world.stopped == {goes: None}
    assert [len(stage) for stage in members(world)] == [1, 1, 1] and goes not in everyone(members(world))


def test_who_waits_is_drawn_only_for_the_stage_that_its_operator_held() -> None:
    world = World(manifest(training=TRAINING), spares=2)
    world.run(until=opened("train", 1))
    held = members(world)
    goes = held[0][0]
    world.kill(goes)
    world.run(until=lambda w: len(bodies(w, Changed)) >= 2 and goes not in everyone(members(w)))
    world.restart(goes)  # its place is taken by now
    world.kill(held[2][0])
    world.run()
    assert ended(world)
    assert goes not in members(world)[2] and len(members(world)[2]) == 2


def test_a_replica_hands_nothing_over_that_coordinator_and_gates_would_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that held stage 0 is to get stage 2: gates that look away release it, and its peer refuses."""
    world = World(manifest(training=TRAINING), spares=1)
    world.run(until=opened("train", 1))
    held = members(world)
    back, goes = held[0][0], held[2][0]
    world.kill(back)
    world.run(until=lambda w: back not in everyone(members(w)))
    monkeypatch.setattr("interlock.protocols.lawful._verify_change", lambda *given: None)
    monkeypatch.setattr("interlock.protocols.admitted.Admitted.verify_grants", lambda self, members: None)
    world.run(until=opened("train", 1))
    world.roles["coordinator"]._ledger.held.clear()
    world.restart(back)
    world.kill(goes)
    world.run()
    refusals = [body for body in bodies(world, Voided) if body.number == 316]
    assert refusals and f"{back} has held stage 0 and may not hold stage 2" in refusals[0].reason
    assert back not in members(world)[2]


def test_who_joins_is_told_of_everybody_and_the_others_of_one_more() -> None:
    world = World(manifest(training=TRAINING)).run()
    told: set[str] = set()
    for sent in world.all_sent(Roster):
        assert sent.message.whole == (sent.to not in told)
        assert sent.message.whole or len(sent.message.joins) == 1
        told.add(sent.to)
    assert len(told) == 8


def test_a_roster_that_was_lost_comes_again() -> None:
    """Node 0 hears of nobody who joins after it, until it says of how many it knows."""

    def change(sent: Sent) -> list[Sent]:
        one = isinstance(sent.message, Roster) and not sent.message.whole
        return [] if one and sent.to == "node0" else [sent]

    world = World(manifest(training=TRAINING), change=change).run()
    assert ended(world)
    assert len(world.roles["coordinator"]._ledger.joins) == 11
    assert world.roles["node0"]._belonging.joins == 11
    assert max(len(sent.message.joins) for sent in world.all_sent(Roster) if sent.to == "node0") == 11


@pytest.mark.parametrize("times", [1, 2])
def test_a_node_may_start_again_while_the_run_starts(times: int) -> None:
    world = World(manifest(training=TRAINING))
    for tick in range(1, times + 2):
        world.run(until=lambda w, tick=tick: tick in {event.tick for event in w.seen(NodeOpened)})
        if tick <= times:
            world.restart("node3")
    world.tell("coordinator", lambda coordinator: coordinator.on_timer("look"))
    assert ended(world.run())
    assert [void.reason for void in bodies(world, Voided)] == ["gone: node3"] * times
