"""Every error says what, what was expected, what came, and what to do; and each fault of a peer has its own."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tests.protocols.world import Sent, World, openings_of
from tests.runs import identity, manifest

from interlock import protocols
from interlock.kernels.stage import Stage
from interlock.protocols.boundary import Frame, Pass
from interlock.protocols.canonical import decode, encode
from interlock.protocols.coordinator import JOINS_MAX, Coordinator, RunEnded
from interlock.protocols.errors import Failed, InterlockError, Misused, Refused
from interlock.protocols.journal import Voided
from interlock.protocols.manifest import GATES_MAX
from interlock.protocols.members import Join, Roster, make_invitation, make_record
from interlock.protocols.node import Node
from interlock.protocols.obeying import Noted
from interlock.protocols.relay import Relay
from interlock.protocols.wire import Buffer, Envelope, Limits, Replay, pack, unpack
from interlock.vault import VaultError

ROOT = Path(protocols.__file__).parent
SOURCES = [*sorted(ROOT.rglob("*.py")), *sorted((ROOT.parent / "vault").rglob("*.py"))]


def raised() -> list[tuple[str, int, ast.Call]]:
    """Where an error with a number is made: place, number, call."""
    found = []
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or not call.args:
                continue
            number = call.args[0]
            if call.func.id in ("Refused", "Misused", "Failed", "NotSent") and isinstance(number, ast.Constant):
                found.append((f"{path.name}:{call.lineno}", int(number.value), call))
    return found


def test_every_error_says_what_to_do() -> None:
    silent = [
        f"{place} E{number}"
        for place, number, call in raised()
        if not InterlockError(number, "").todo and not any(given.arg == "todo" for given in call.keywords)
    ]
    assert len(raised()) > 100
    assert silent == []


def test_a_number_is_a_persons_a_peers_or_this_processes_and_no_two_of_them() -> None:
    kinds: dict[int, set[str]] = {}
    for _, number, call in raised():
        assert isinstance(call.func, ast.Name)
        kinds.setdefault(number, set()).add(call.func.id)
    assert {number: found for number, found in kinds.items() if len(found) > 1 and number != 208} == {}


def test_an_error_is_shown_with_what_it_has() -> None:
    assert str(Failed(700, "what")) == "E700 what"
    assert str(Misused(700, "what", expected="a")) == "E700 what: expected a"
    assert str(Refused(700, "what", expected=0, actual=1)) == "E700 what: expected 0, got 1"
    assert Refused(206, "what").todo.startswith("Suspect who sent it")
    assert Refused(206, "what", todo="Do this.").todo == "Do this."


# --- what a peer may do wrong, as the one that it does it to says it ---

ME, PEER, OTHER = identity("me"), identity("peer"), identity("other")
RUN = b"r" * 32
LIMITS = Limits(body_bytes=1000, blob_bytes=100, blobs=1)


class Note(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    text: str


def note(**changes: Any) -> list[Buffer]:
    """A good message; changes of its envelope are not signed again."""
    message: Any = Note(text="hello")
    parts = pack(message, (), run=RUN, sender=PEER, to=ME.public, sequence=1)
    return [encode(msgspec.structs.replace(decode(parts[0], Envelope), **changes)), *parts[1:]]


def heard(parts: list[Buffer], peer: bytes = PEER.public) -> None:
    unpack(parts, kinds=Note, run=RUN, me=ME.public, peer=peer, limits=LIMITS)


def twice() -> None:
    guard = Replay()
    guard.check(PEER.public, 5)
    guard.check(PEER.public, 5)


def short(identity: Any) -> str:
    return str(identity.public.hex()[:12])


ON_THE_WIRE: list[tuple[str, int, Callable[[], None], str, Any, Any]] = [
    ("wrong run", 204, lambda: heard(note(run=bytes(32))), "message of another run", RUN.hex()[:12], "0" * 12),
    ("wrong key", 205, lambda: heard(note(), OTHER.public), "not the connection's peer", short(OTHER), short(PEER)),
    ("for others", 205, lambda: heard(note(to=OTHER.public)), "another recipient", short(ME), short(OTHER)),
    ("forged", 206, lambda: heard(note(sequence=2)), f"signature of message of {short(PEER)} does", None, None),
    ("old version", 203, lambda: heard(note(version=9)), "another wire version", "1", 9),
    ("replay", 207, twice, "replayed message", "a sequence not used before, above -1019", 5),
    ("no body", 201, lambda: heard(note()[:1]), "malformed message", "envelope and body", "1 parts"),
    ("truncated", 201, lambda: heard([bytes(note()[0])[:-1], note()[1]]), "malformed envelope", None, None),
    ("oversized", 202, lambda: heard([note()[0], bytes(1001)]), "oversized body", "at most 1000 bytes", "1001 bytes"),
    ("too much", 202, lambda: heard([*note(), b"", b""]), "too many blobs", "at most 1", 2),
]


@pytest.mark.parametrize(("number", "act", "what", "expected", "actual"), [row[1:] for row in ON_THE_WIRE])
def test_a_bad_message_is_refused_with_all_that_a_reader_needs(
    number: int, act: Callable[[], None], what: str, expected: Any, actual: Any
) -> None:
    heard(note())
    with pytest.raises(Refused) as caught:
        act()
    error = caught.value
    assert (error.number, error.expected, error.actual) == (number, expected, actual)
    assert what in error.what
    assert error.todo


# --- the same inside a run ---


def told(role: Coordinator | Node | Relay, source: str, message: Any, blobs: tuple[Any, ...] = ()) -> Refused:
    with pytest.raises(Refused) as caught:
        role.on_message(identity(source).public, message, blobs)
    assert caught.value.todo
    return caught.value


def a_frame(world: World, tick: int) -> Sent:
    return next(s for s in world.all_sent(Frame) if s.to == "relay0" and s.message.header.unit.tick == tick)


@pytest.fixture(scope="module")
def relay(world: World) -> Relay:
    """A relay to which tick 5 is open."""
    made, coordinator = world.manifest, identity("coordinator").public
    relay = Relay(identity("relay0"), made, operator="relay0", address="sim://relay0", invitation=None)
    relay.on_message(coordinator, next(s.message for s in world.all_sent(Roster) if s.to == "relay0"), ())
    for roster in [s.message for s in world.all_sent(Roster) if s.to == "relay0"]:
        relay.on_message(coordinator, roster, ())
    relay.on_message(coordinator, openings_of(world.rows())[5], ())
    return relay


def test_a_frame_of_a_tick_that_is_over_is_refused_with_both_ticks(world: World, relay: Relay) -> None:
    stale = a_frame(world, 4)
    error = told(relay, stale.source, stale.message, stale.blobs)
    assert (error.number, error.expected, error.actual) == (304, "tick 5", "tick 4")
    assert identity(stale.source).public.hex()[:12] in error.what


def test_an_opening_that_is_over_is_refused(world: World, relay: Relay) -> None:
    error = told(relay, "coordinator", openings_of(world.rows())[4])
    assert (error.number, error.expected) == (314, "> 5")


def test_a_frame_of_a_wrong_shape_or_length_is_refused_with_both(world: World, relay: Relay) -> None:
    sent = a_frame(world, 5)
    header = sent.message.header
    bent = Frame(header=msgspec.structs.replace(header, shape=(1, *header.shape[1:])))
    error = told(relay, sent.source, bent, sent.blobs)
    assert (error.number, error.expected, error.actual) == (305, header.shape, (1, *header.shape[1:]))
    blob = type(sent.blobs[0])(bytes(sent.blobs[0].data)[:-1])
    error = told(relay, sent.source, sent.message, (blob,))
    assert (error.number, error.expected, error.actual) == (305, blob.size + 1, blob.size)


def test_a_join_without_an_invitation_says_where_to_get_one(world: World) -> None:
    stranger = identity("stranger")
    error = told(
        world.roles["coordinator"],
        "stranger",
        Join(record=make_record(stranger, "node", "stranger"), invitation=None),
    )
    assert (error.number, error.what) == (209, "node stranger has no invitation")
    assert "interlock keyholder invite" in error.todo


@pytest.mark.parametrize(("role", "most"), [("node", 6), ("relay", 2), ("asker", 0)])
def test_more_of_a_role_than_a_run_may_have_are_refused(
    role: Any, most: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(JOINS_MAX, role, most)
    error = told(world.roles["coordinator"], "late", a_join(world, "late", label="late", role=role))
    assert (error.number, error.what) == (212, f"{most} {role}s have joined this run: no more can")


def test_everyone_whom_a_run_may_have_fits_into_one_roster() -> None:
    joins, *_ = msgspec.inspect.type_info(Roster).fields
    assert sum(JOINS_MAX.values()) + GATES_MAX <= joins.type.max_length


def test_an_operator_takes_part_once(world: World) -> None:
    error = told(world.roles["coordinator"], "late", a_join(world, "late", label="node3"))
    assert (error.number, error.what) == (220, "node3 takes part with another node")


def test_an_invitation_that_has_expired_lets_nobody_in_and_whoever_is_in_stays(world: World) -> None:
    coordinator = world.roles["coordinator"]
    late = a_join(world, "later", label="later", expires=1_000_000)
    coordinator.at(1_003_600.0)
    try:
        error = told(coordinator, "later", late)
        assert (error.number, error.what) == (221, "the invitation of 'later' expired 1.0 hours ago")
        coordinator.at(999_999.0)
        assert coordinator.on_message(identity("later").public, late, ())
        coordinator.at(1_003_600.0)
        assert coordinator.on_message(identity("later").public, late, ())
    finally:
        coordinator.at(0.0)


def test_whom_the_coordinator_took_for_a_bearer_of_an_order_thinks_nothing_of_it(world: World) -> None:
    noted = Noted(order=bytes(32), number=0, what="")
    for name in ("ada", "relay0", "node0"):
        assert world.roles[name].on_message(identity("coordinator").public, noted, ()) == []


def a_join(world: World, name: str, *, label: str, expires: int = 0, role: Any = "node") -> Join:
    """A join with an invitation."""
    nonce = name.encode().rjust(16, b"-")
    invitation = make_invitation(
        identity("ada"), run=world.manifest.run, role=role, label=label, nonce=nonce, expires=expires
    )
    return Join(record=make_record(identity(name), role, name), invitation=invitation)


def poison(chosen: Callable[[str], bool]) -> Callable[[str, Any, Any], None]:
    """A stage of a node breaks down: its weights are not numbers any more."""

    def before(name: str, engine: Any, job: Any) -> None:
        if chosen(name) and isinstance(job, Pass) and job.kind == "train":
            stage: Stage = engine._stage
            with torch.no_grad():
                for weight in stage._leaves.values():
                    weight.fill_(math.nan)

    return before


def test_a_stage_that_is_not_finite_voids_its_ticks_and_ends_the_run_with_the_reason() -> None:
    made = manifest(stages=2, replicas=1, relays=1)
    world = World(made, before_job=poison(lambda name: name == "node0")).run()
    voids = [row.body for row in world.rows() if isinstance(row.body, Voided)]
    assert {void.number for void in voids} == {401}
    assert all(re.search(r"not finite", void.reason) for void in voids)
    error = world.stopped["coordinator"]
    assert isinstance(error, Failed)
    assert (error.number, bool(error.todo)) == (320, True)
    assert not world.seen(RunEnded)


def test_vault_errors_have_numbers_of_their_own() -> None:
    numbers = [kind.number for kind in VaultError.__subclasses__()]
    assert sorted(set(numbers)) == sorted(numbers)
    assert set(numbers).isdisjoint(number for _, number, _ in raised())
