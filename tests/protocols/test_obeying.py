"""Whole runs that are paused, halted and resumed: nothing moves in between, and nothing is lost or counted twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.protocols.ordered import ALL, HOUR, NOW, halt, make, pause, resume, signed
from tests.protocols.test_gate import Answering as GateUnderTest
from tests.protocols.test_gate import bodies, rebuilt
from tests.protocols.test_session import GREEDY, PROMPT, settle
from tests.protocols.world import Sent, World, rows_of
from tests.runs import identity, manifest

from interlock.protocols.boundary import Frame
from interlock.protocols.canonical import decode
from interlock.protocols.coordinator import Coordinator, RunEnded, text_hash
from interlock.protocols.effects import After, Announce, Send
from interlock.protocols.inquiry import Continuation
from interlock.protocols.journal import Committed, Joined, Measured, Opened, Ordered, Planned, Voided
from interlock.protocols.members import Welcome
from interlock.protocols.node import Adopted, Forgot
from interlock.protocols.obeying import (
    STORED,
    TIMER,
    Equivocated,
    Known,
    Learnt,
    Noted,
    Obeyed,
    Ordering,
    Resumed,
)
from interlock.protocols.orders import Signed
from interlock.protocols.proposal import Propose
from interlock.protocols.release import Declined, Opening, Released
from interlock.protocols.round import Sealed

TRAINING = dict(rounds=3, epoch_rounds=3)
SMALL: dict[str, Any] = dict(stages=2, relays=1)
MADE = manifest(training=TRAINING, **SMALL)
EVERYBODY = {"coordinator", *ALL, "relay0", *(f"node{i}" for i in range(4))}
COORDINATOR = identity("coordinator").public


def note(order: Signed) -> str:
    """Its text."""
    return order.note(MADE.committee)


def final(world: World) -> dict[str, str]:
    """What every node holds at the end."""
    found = {}
    for name, engine in world.engines.items():
        assert engine._base is not None
        found[name] = engine._base.digest().hex()
    return found


def begun(rows: int, steps: int = 0) -> World:
    """A run that has written so many rows, and gone a few steps further."""
    world = World(MADE)
    world.run(until=lambda w: len(w.rows()) >= rows)
    for _ in range(steps):
        world.step()
    return world


def opened(kind: str, steps: int) -> World:
    """A run in which a tick of this kind is open, and so many steps further."""
    world = World(MADE)

    def is_open(world: World) -> bool:
        plan = world.roles["coordinator"]._ledger.plan
        return plan is not None and plan.kind == kind and world.roles["coordinator"]._ledger.is_open

    world.run(until=is_open)
    for _ in range(steps):
        world.step()
    return world


def obeying(world: World) -> set[str]:
    """Who stands still."""
    return {name for name, role in world.roles.items() if role.orders.in_force is not None}


def order(world: World, name: str, given: Signed) -> World:
    """Somebody is handed an order, and everything comes to rest."""
    world.order(name, given.note(world.manifest.committee))
    return settle(world)


def goes_on(world: World) -> World:
    """Play it to its end."""
    world.run(until=lambda w: any(isinstance(event, RunEnded) for _, event in w.events))
    assert not world.stopped
    assert any(isinstance(event, RunEnded) for _, event in world.events)
    return world


@pytest.fixture(scope="module")
def undisturbed() -> World:
    return World(MADE).run()


PHASES = [
    ("evaluate", 10, "bela"),
    ("measure", 0, "node3"),
    ("measure", 25, "coordinator"),
    ("train", 0, "relay0"),
    ("train", 20, "node0"),
    ("train", 45, "coordinator"),
    ("train", 70, "ada"),
    ("train", 95, "relay0"),
    ("train", 110, "node1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps", "to"), PHASES)
def test_a_run_that_is_halted_anywhere_and_resumed_ends_as_if_it_never_was(
    kind: str, steps: int, to: str, undisturbed: World
) -> None:
    world = opened(kind, steps)
    order(world, to, halt(MADE))
    assert obeying(world) == EVERYBODY
    written, said = len(world.rows()), len(world.sent)
    for _ in range(3):
        world._ring()
        settle(world)
    assert len(world.rows()) == written
    kinds = {type(sent.message) for sent in world.sent[said:]}
    assert not kinds & {Released, Propose, Opening, Frame, Sealed}
    order(world, "cleo", resume(MADE, halt(MADE)))
    assert not obeying(world)
    goes_on(world)
    assert final(world) == final(undisturbed)
    committed = [row.body.round for row in world.rows() if isinstance(row.body, Committed)]
    assert committed == [row.body.round for row in undisturbed.rows() if isinstance(row.body, Committed)]
    losses = [row.body.measurements for row in world.rows() if isinstance(row.body, Measured)]
    expected = [row.body.measurements for row in undisturbed.rows() if isinstance(row.body, Measured)]
    assert [[m.losses for m in one] for one in losses] == [[m.losses for m in one] for one in expected]


@pytest.mark.slow
@pytest.mark.parametrize("rows", range(1, 33, 4))
def test_a_run_may_be_halted_after_any_row(rows: int) -> None:
    """Also before it has begun, and in a turn: what is drawn anew differs, and nothing else."""
    made = manifest(training=dict(rounds=3, epoch_rounds=2), **SMALL)
    world = World(made)
    world.run(until=lambda w: len(w.rows()) >= rows)
    order(world, "ada", halt(made))
    assert {n for n in obeying(world) if n in ("coordinator", "ada", "bela", "cleo")} == {"coordinator", *ALL}
    order(world, "bela", resume(made, halt(made)))
    goes_on(world)
    assert not obeying(world)
    rounds = [row.body.round for row in world.rows() if isinstance(row.body, Committed)]
    assert rounds == [0, 1, 2, 3]
    voids = [row.body.number for row in world.rows() if isinstance(row.body, Voided)]
    assert set(voids) <= {350}


def test_under_a_halt_the_journal_has_its_order_the_void_and_nothing_else() -> None:
    world = order(opened("train", 20), "relay0", halt(MADE))
    *_, ordered, voided = [row.body for row in world.rows()]
    assert isinstance(ordered, Ordered)
    assert ordered.text == note(halt(MADE))
    assert isinstance(voided, Voided)
    assert (voided.number, voided.reason) == (350, "order 1, halt: a test")


def test_what_stood_in_the_journal_stands(undisturbed: World) -> None:
    """The commit was written before the halt came, and nodes had not heard of it."""
    world = World(MADE)
    world.run(until=lambda w: any(isinstance(row.body, Committed) and row.body.round == 2 for row in w.rows()))
    order(world, "coordinator", halt(MADE))
    order(world, "coordinator", resume(MADE, halt(MADE)))
    goes_on(world)
    assert not [row for row in world.rows() if isinstance(row.body, Voided)]
    assert final(world) == final(undisturbed)


def test_nobody_takes_a_step_after_it_has_heard() -> None:
    world = order(opened("train", 100), "node0", halt(MADE))
    heard: dict[str, int] = {}
    for at, (name, event) in enumerate(world.events):
        if isinstance(event, Obeyed):
            heard.setdefault(name, at)
    moved = [(at, name) for at, (name, event) in enumerate(world.events) if isinstance(event, Adopted)]
    assert heard.keys() == EVERYBODY
    assert all(at < heard[name] for at, name in moved)
    for name in world.engines:
        role = world.roles[name]
        assert role._part is None
        assert role._keys is None


def test_an_order_reaches_those_whose_messages_are_lost() -> None:
    """Everything about it is lost once on every link; then each is told by its own next message."""
    world = opened("train", 20)
    seen: set[Any] = set()

    def change(sent: Sent) -> list[Sent]:
        link = (sent.source, sent.to)
        if isinstance(sent.message, Ordering) and link not in seen:
            seen.add(link)
            return []
        return [sent]

    world.change = change
    order(world, "cleo", halt(MADE))
    for _ in range(12):
        world._ring()
        settle(world)
    assert obeying(world) == EVERYBODY
    seen.clear()
    order(world, "ada", resume(MADE, halt(MADE)))
    for _ in range(12):
        world._ring()
        settle(world)
    assert not obeying(world)
    goes_on(world)


@pytest.mark.parametrize("name", ["coordinator", "bela", "relay0"])
def test_a_halt_outlives_whoever_starts_again(name: str) -> None:
    world = order(opened("train", 20), name, halt(MADE))
    world.restart(name)
    world._ring()
    settle(world)
    assert name in obeying(world)
    written = len(world.rows())
    world._ring()
    assert len(settle(world).rows()) == written
    order(world, "cleo", resume(MADE, halt(MADE)))
    world.restart(name)
    goes_on(world)


def test_a_coordinator_that_stored_the_halt_and_no_more_voids_the_tick_when_it_starts() -> None:
    world = opened("train", 20)
    role = world.roles["coordinator"]
    role.at(world.now)
    (stored, *_) = role.on_order(note(halt(MADE)))
    world.stores["coordinator"][stored.key] = stored.value
    world.restart("coordinator")
    for _ in range(3):
        world._ring()
        settle(world)
    assert isinstance(world.rows()[-1].body, Voided)
    assert obeying(world) == EVERYBODY  # told when they said something
    order(world, "ada", resume(MADE, halt(MADE)))
    goes_on(world)


def test_a_coordinator_that_has_only_its_rows_knows_the_orders() -> None:
    world = order(opened("train", 20), "ada", halt(MADE))
    del world.stores["coordinator"][STORED]
    world.restart("coordinator")
    assert "coordinator" in obeying(settle(world))
    for _ in range(3):
        world._ring()
        settle(world)
    order(world, "ada", resume(MADE, halt(MADE)))
    del world.stores["coordinator"][STORED]
    world.restart("coordinator")
    settle(world)
    assert world.roles["coordinator"].orders.standing.answered == 1
    goes_on(world)


def test_a_node_that_comes_under_a_halt_stands_still_too() -> None:
    world = World(MADE)
    world.run(until=lambda w: sum(isinstance(row.body, Joined) for row in w.rows()) >= 6)
    order(world, "ada", halt(MADE))
    for _ in range(3):
        world._ring()
        settle(world)
    assert obeying(world) == EVERYBODY
    assert not [row for row in world.rows() if isinstance(row.body, Planned)]
    order(world, "ada", resume(MADE, halt(MADE)))
    goes_on(world)


# -- proposals, pauses -------------------------------------------------------------------------------------------------


def test_signatures_meet_wherever_they_are_handed_in() -> None:
    world = opened("train", 20)
    whole = make(MADE, 1, "halt")
    order(world, "node2", signed(whole, "ada"))
    assert not obeying(world)
    assert {name for name, event in world.events if isinstance(event, Learnt)} == EVERYBODY
    order(world, "relay0", signed(whole, "cleo"))
    assert obeying(world) == EVERYBODY


def test_a_pause_ends_by_itself_and_the_run_goes_on() -> None:
    world = order(opened("train", 20), "node1", pause(MADE))
    assert obeying(world) == EVERYBODY
    world.now = NOW + HOUR - 1
    world._ring()
    assert obeying(settle(world)) == EVERYBODY
    world.now = NOW + HOUR
    world._ring()
    assert not obeying(settle(world))
    assert [event.order for event in world.seen(Resumed)] == [""] * len(EVERYBODY)
    goes_on(world)


def test_a_pause_may_be_resumed_before_its_end() -> None:
    world = order(opened("train", 20), "node1", pause(MADE))
    order(world, "node1", resume(MADE, pause(MADE)))
    assert not obeying(world)
    goes_on(world)


def test_a_timer_is_set_for_the_end_of_a_pause_and_for_no_longer_than_clocks_are_trusted() -> None:
    for hours in (0.5, 24):
        role = World(MADE).roles["relay0"]
        role.at(NOW)
        (timer,) = [e for e in role.on_order(note(pause(MADE, hours=hours))) if isinstance(e, After)]
        assert timer == After(min(hours, 1) * HOUR, TIMER)


def test_two_texts_for_one_number_are_announced_with_both() -> None:
    world = order(opened("train", 20), "ada", pause(MADE, names=("ada",)))
    order(world, "bela", halt(MADE))
    assert all(role.orders.in_force.order.action == "halt" for role in world.roles.values())
    found = world.seen(Equivocated)
    assert {event.by for event in found} == {identity("ada").public.hex()}
    assert {text for event in found for text in (event.first, event.second)} == {
        note(pause(MADE, names=("ada",))),
        note(halt(MADE)),
    }


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (pause(MADE, begins=NOW - HOUR), 344),
        (pause(MADE, hours=25), 353),
        (resume(MADE, halt(MADE)), 347),
        (halt(manifest()), 341),
    ],
)
def test_an_order_that_can_have_no_effect_is_refused_and_passed_to_nobody(given: Signed, number: int) -> None:
    world = opened("train", 20)
    sent = len(world.all_sent(Ordering))
    for name in ("ada", "node0", "relay0", "coordinator"):
        order(world, name, given)
    assert [refused.number for _, refused in world.refused] == [number] * 4
    assert len(world.all_sent(Ordering)) == sent
    assert not obeying(world)


def test_an_order_is_passed_on_once() -> None:
    world = order(opened("train", 20), "ada", halt(MADE))
    told = len(world.all_sent(Ordering))
    for name in EVERYBODY:
        order(world, name, halt(MADE))
    assert len(world.all_sent(Ordering)) == told


# -- gates -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(undisturbed: World) -> dict[int, Propose]:
    """What the gates were asked, by tick."""
    return {sent.message.plan.tick: sent.message for sent in undisturbed.all_sent(Propose) if sent.to == "ada"}


@pytest.mark.parametrize(("given", "number"), [(halt(MADE), 351), (pause(MADE), 352)])
def test_a_gate_releases_nothing_and_says_why(asked: dict[int, Propose], given: Signed, number: int) -> None:
    gate = GateUnderTest(MADE)
    gate.release(asked[1])
    gate.gate.at(NOW)
    gate.gate.on_order(note(given))
    for tick in (1, 2):  # also what it has released before
        effects = gate.gate.on_message(COORDINATOR, asked[tick], ())
        said = [effect.message for effect in effects if isinstance(effect, Send)]
        assert [type(message) for message in said] == [Declined, Ordering]
        assert said[0].number == number
        assert said[1].text == note(given)


def test_a_release_that_was_being_made_is_not_made(asked: dict[int, Propose]) -> None:
    gate = GateUnderTest(MADE).gate
    gate.at(NOW)
    (draw,) = gate.on_message(COORDINATOR, asked[1], ())
    gate.on_order(note(halt(MADE)))
    assert gate.on_drawn(draw.name, bytes(32)) == []
    gate.on_order(note(resume(MADE, halt(MADE))))
    assert gate.on_drawn(draw.name, bytes(32)) == []


def test_gates_take_orders_between_any_rows_and_check_them(asked: dict[int, Propose]) -> None:
    tick = 3
    gate = GateUnderTest(MADE)
    for earlier in range(1, tick):
        gate.release(asked[earlier])
    rows = bodies(asked[tick])
    for at in range(len(rows) + 1):
        if at:  # the rows begin with the plan
            good = rebuilt(asked[tick], [*rows[:at], Ordered(text=note(halt(MADE))), *rows[at:]])
            assert gate.again().number(good) == 0
            few = Ordered(text=note(halt(MADE, names=("ada",))))
            assert gate.again().number(rebuilt(asked[tick], [*rows[:at], few, *rows[at:]])) == 343
    assert gate.again().number(rebuilt(asked[tick], [*rows, Ordered(text="x")])) == 340


def test_a_gate_waits_for_its_keyholder_where_the_manifest_says_so() -> None:
    made = manifest(training=dict(rounds=3, epoch_rounds=2), release="manual", **SMALL)
    world = World(made).run()
    assert not [row for row in world.rows() if isinstance(row.body, Opened)]
    assert {sent.message.number for sent in world.all_sent(Declined)} == {354}

    def allow(epoch: int, *names: str) -> None:
        for name in names:
            order(world, name, signed(make(made, 0, "release", epoch=epoch), name))

    allow(0, "ada")
    world.run()
    assert not [row for row in world.rows() if isinstance(row.body, Opened)]  # one word is no quorum
    order(world, "bela", signed(make(made, 0, "release", epoch=0), "cleo"))  # it is not bela's, and reaches cleo
    world.run()
    assert [row.body.round for row in world.rows() if isinstance(row.body, Committed)] == [0, 1, 2]
    allow(1, "bela", "cleo")
    goes_on(world)
    assert not [row for row in world.rows() if isinstance(row.body, Ordered)]


# -- sessions ----------------------------------------------------------------------------------------------------------


def asking(world: World, steps: int = 0) -> World:
    """Somebody asks, and has gone so many steps."""
    world.ask("eve", Continuation(PROMPT, 6, GREEDY, world.manifest, told=lambda byte: None))
    for _ in range(steps):
        world.step() if world._queue else world._ring()
    return world


def error_of(world: World) -> Any:
    """How the asker ended."""
    for _ in range(100):
        if "eve" in world.stopped:
            break
        settle(world)._ring()
    return getattr(world.stopped.get("eve"), "number", None)


@pytest.mark.parametrize(("given", "number"), [(halt(MADE), 351), (pause(MADE), 352)])
@pytest.mark.parametrize("ended", [False, True])
def test_who_asks_a_run_that_stands_still_is_told_so_by_keyholders(given: Signed, number: int, ended: bool) -> None:
    world = settle(World(MADE).run()) if ended else opened("train", 20)
    order(world, "cleo", given)
    asking(world)
    assert error_of(world) == number
    assert not world.roles["coordinator"]._asks


@pytest.mark.parametrize(("given", "number"), [(halt(MADE), 351), (pause(MADE), 352)])
@pytest.mark.parametrize("bytes_heard", [0, 3])
def test_a_session_that_is_cut_says_so_and_is_forgotten(given: Signed, number: int, bytes_heard: int) -> None:
    world = settle(World(MADE).run())
    asking(world)
    while not _in_session(world) or len([s for s in world.all_sent(Sealed) if s.to == "eve"]) < bytes_heard:
        world.step() if world._queue else world._ring()
    order(world, "relay0", given)
    assert error_of(world) == number
    world.stopped.clear()
    settle(world)
    assert isinstance(world.rows()[-1].body, Voided)
    forgot = {name for name, event in world.events if isinstance(event, Forgot)}
    assert forgot == set(world.engines)
    assert not world.roles["relay0"]._kept
    order(world, "ada", resume(MADE, given))
    world.restart("eve")
    assert error_of(world) is None


def _in_session(world: World) -> bool:
    ledger = world.roles["coordinator"]._ledger
    return ledger.plan is not None and ledger.plan.session is not None and ledger.is_open


# -- strangers ---------------------------------------------------------------------------------------------------------


def test_a_stranger_may_bring_an_order_and_hears_what_became_of_it() -> None:
    world = opened("train", 20)
    role: Coordinator = world.roles["coordinator"]
    role.at(NOW)
    stranger = identity("nobody").public
    effects = role.on_message(stranger, Ordering(text=note(pause(MADE, hours=25))), ())
    (answer,) = [e.message for e in effects if isinstance(e, Send)]
    assert isinstance(answer, Noted)
    assert answer.number == 353
    assert answer.order == text_hash(note(pause(MADE, hours=25)))
    effects = role.on_message(stranger, Ordering(text=note(halt(MADE))), ())
    answers = [e.message for e in effects if isinstance(e, Send) and e.to == stranger]
    assert [answer.number for answer in answers] == [0]
    assert any(isinstance(e, Announce) and isinstance(e.event, Obeyed) for e in effects)


def test_who_is_stuck_on_an_order_that_has_ended_is_told_what_ended_it() -> None:
    world = order(opened("train", 20), "ada", halt(MADE))
    first = resume(MADE, halt(MADE))
    order(world, "ada", first)
    second = halt(MADE, 3, prev=first.order.hash)
    order(world, "ada", second)
    last = resume(MADE, second)
    order(world, "ada", last)
    lonely = World(MADE).roles["relay0"]
    lonely.at(NOW)
    lonely.on_order(note(halt(MADE)))
    role = world.roles["coordinator"]
    stuck = Ordering(text=note(halt(MADE)), stands=True)
    told = role.on_message(identity("relay0").public, stuck, ())
    assert [e.message.text for e in told] == [note(second), note(last)]
    for effect in told:
        lonely.on_message(COORDINATOR, effect.message, ())
        assert not role.on_message(identity("relay0").public, effect.message, ())  # nobody is told for ever
    assert lonely.orders.in_force is None


def test_what_is_stored_reads_back() -> None:
    world = order(opened("train", 20), "ada", halt(MADE))
    order(world, "ada", resume(MADE, halt(MADE)))
    for name in EVERYBODY:
        known = decode(world.stores[name][STORED], Known)
        assert known.answered == 1
        assert known.answer == note(resume(MADE, halt(MADE)))
        assert set(known.texts) == {note(halt(MADE)), known.answer}
    assert len(rows_of(world.stores["coordinator"])) == len(world.rows())


def test_a_gate_that_was_away_brings_its_proposals_when_it_is_back() -> None:
    world = opened("train", 20)
    cut: Callable[[Sent], list[Sent]] = lambda sent: [] if sent.source == "ada" else [sent]  # noqa: E731
    world.change = cut
    order(world, "ada", signed(make(MADE, 1, "halt"), "ada"))
    assert not world.roles["coordinator"].orders.standing.known
    world.change = lambda sent: [sent]
    world.deliver(Sent("coordinator", "ada", Welcome(manifest=b"")))
    settle(world)
    assert len(world.roles["coordinator"].orders.standing.known) == 1
