"""A relay forwards what the plan names, unchanged, to whom the plan names, and keeps a bounded amount."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.protocols.world import Sent, World, number_of, openings_of
from tests.runs import identity

from interlock.protocols.boundary import Frame, Taken, frame_size, planned
from interlock.protocols.effects import Admit, Announce, Blob, Effects, Send
from interlock.protocols.members import Roster, Welcome
from interlock.protocols.relay import EARLY_MAX, Carried, Relay
from interlock.protocols.release import Ready, draw_members
from interlock.protocols.round import Sealed, make_sealed

TICK = 4
COORDINATOR = identity("coordinator").public
replace = msgspec.structs.replace


class Driven:
    """One relay of the run, as it was when a tick opened."""

    def __init__(self, world: World, *, tick: int = TICK, kept_bytes_max: int = 1 << 30) -> None:
        self.world = world
        self.relay = Relay(
            identity("relay0"),
            world.manifest,
            operator="relay0",
            address="sim://relay0",
            invitation=None,
            kept_bytes_max=kept_bytes_max,
        )
        rosters = [sent.message for sent in world.all_sent(Roster) if sent.to == "relay0"]
        self.admitted = [effect for roster in rosters for effect in self.relay.on_message(COORDINATOR, roster, ())]
        if tick:
            self.open(tick)

    def open(self, tick: int) -> Effects:
        """The opening arrives."""
        return self.relay.on_message(COORDINATOR, openings_of(self.world.rows())[tick], ())

    def hear(self, sent: Sent, *, source: str = "") -> list[Send]:
        """What it sends on."""
        effects = self.relay.on_message(identity(source or sent.source).public, sent.message, sent.blobs)
        return [effect for effect in effects if isinstance(effect, Send)]

    def number(self, sent: Sent, *, source: str = "") -> int:
        """By which number it refuses."""
        return number_of(lambda: self.hear(sent, source=source))


def traffic(world: World, kind: type[Any], tick: int = TICK) -> list[Sent]:
    """What nodes sent to relay0 in a tick."""

    def of(message: Any) -> int:
        return int(message.header.unit.tick if isinstance(message, Frame) else message.tick)

    return [
        s for s in world.all_sent(kind) if s.to == "relay0" and s.source.startswith("node") and of(s.message) == tick
    ]


@pytest.fixture(scope="module")
def frames(world: World) -> list[Sent]:
    """Frames that relay0 carried in the tick."""
    found = traffic(world, Frame)
    assert len(found) == 8
    return found


def test_nodes_are_admitted_and_nobody_else(world: World) -> None:
    admitted = {effect.identity for effect in Driven(world).admitted if isinstance(effect, Admit)}
    assert admitted == {identity(f"node{i}").public for i in range(6)}


def test_frames_go_unchanged_to_the_replica_that_the_plan_names(world: World, frames: list[Sent]) -> None:
    driven, opening = Driven(world), openings_of(world.rows())[TICK]
    members = draw_members(opening, world.manifest)
    for sent in frames:
        (forwarded,) = driven.hear(sent)
        unit = sent.message.header.unit
        assert forwarded.to == planned(opening.plan, members, unit, unit.receiver_stage)
        assert forwarded.message is sent.message
        assert forwarded.blobs[0] is sent.blobs[0]


def test_what_is_announced_holds_hashes_and_sizes_only(world: World, frames: list[Sent]) -> None:
    driven, sent = Driven(world), frames[0]
    effects = driven.relay.on_message(identity(sent.source).public, sent.message, sent.blobs)
    (event,) = (effect.event for effect in effects if isinstance(effect, Announce))
    assert isinstance(event, Carried)
    assert (event.tick, event.size) == (TICK, frame_size(world.manifest))


def test_a_frame_of_another_sender_is_refused(world: World, frames: list[Sent]) -> None:
    driven, sent = Driven(world), frames[0]
    others = {f"node{i}" for i in range(6)} - {sent.source} | {"eve", "relay1"}
    assert {driven.number(sent, source=other) for other in others} == {305}
    for name in ("eve", "ada"):
        header = replace(sent.message.header, sender=identity(name).public)
        claimed = Sent(name, "relay0", Frame(header=header), sent.blobs)
        assert driven.number(claimed) == 305


def test_a_frame_of_another_tick_is_refused(world: World, frames: list[Sent]) -> None:
    assert Driven(world, tick=TICK + 1).number(frames[0]) == 304
    for other in (TICK - 1, TICK + 2):
        for sent in traffic(world, Frame, other):
            assert Driven(world).number(sent) == 304


def test_a_frame_of_another_size_is_refused(world: World, frames: list[Sent]) -> None:
    driven, sent = Driven(world), frames[0]
    data = bytes(sent.blobs[0].data)
    for blobs in ((Blob(data + b"\0"),), (Blob(data[:-1]),), (Blob(b""),), (), (Blob(data), Blob(data))):
        assert driven.number(Sent(sent.source, "relay0", sent.message, blobs)) == 305


def test_a_relay_reads_nothing_else(world: World, frames: list[Sent]) -> None:
    driven = Driven(world)
    assert number_of(lambda: driven.relay.on_message(COORDINATOR, frames[0].message, frames[0].blobs)) == 210
    opening = openings_of(world.rows())[TICK]
    assert number_of(lambda: driven.relay.on_message(identity("node0").public, opening, ())) == 210


def test_a_relay_keeps_the_first_opening_of_a_tick(world: World) -> None:
    driven, opened = Driven(world), openings_of(world.rows())
    assert driven.open(TICK) == []
    assert number_of(lambda: driven.open(TICK - 1)) == 314
    other = replace(opened[TICK], releases=opened[TICK].releases[::-1])
    assert number_of(lambda: driven.relay.on_message(COORDINATOR, other, ())) == 314
    forged = replace(opened[TICK + 1], releases=opened[TICK].releases)
    assert number_of(lambda: driven.relay.on_message(COORDINATOR, forged, ())) == 302


def test_frames_that_come_before_the_opening_wait_for_it(world: World, frames: list[Sent]) -> None:
    driven = Driven(world, tick=TICK - 1)
    assert [driven.hear(sent) for sent in frames] == [[]] * len(frames)
    forwarded = [effect for effect in driven.open(TICK) if isinstance(effect, Send)]
    assert [effect.message for effect in forwarded] == [sent.message for sent in frames]


def test_a_wrong_frame_that_comes_early_costs_nothing_but_itself(world: World, frames: list[Sent]) -> None:
    driven = Driven(world, tick=TICK - 1)
    driven.hear(frames[0], source="eve")
    driven.hear(frames[0])
    effects = driven.open(TICK)
    assert [effect.message for effect in effects if isinstance(effect, Send)] == [frames[0].message]


def test_what_waits_is_bounded(world: World, frames: list[Sent]) -> None:
    driven = Driven(world, tick=TICK - 1)
    for _ in range(EARLY_MAX):
        driven.hear(frames[0])
    assert driven.number(frames[0]) == 304


def receipt(world: World, sent: Sent) -> Sent:
    """What the receiver of a frame said when it had read it."""
    header = sent.message.header
    return next(s for s in traffic(world, Taken) if s.message.header == header.digest)


def test_receipts_go_to_the_sender_of_a_frame_that_was_carried(world: World, frames: list[Sent]) -> None:
    driven, sent = Driven(world), frames[0]
    taken = receipt(world, sent)
    assert driven.number(taken) == 303
    driven.hear(sent)
    (forwarded,) = driven.hear(taken)
    assert forwarded.to == identity(sent.source).public
    wrong = replace(taken.message, sender=identity("eve").public)
    assert driven.number(Sent(taken.source, "relay0", wrong)) == 303


def test_kept_frames_stay_within_the_bound_and_the_oldest_go_first(world: World, frames: list[Sent]) -> None:
    size = frame_size(world.manifest)
    driven = Driven(world, kept_bytes_max=3 * size)
    for sent in frames:
        assert len(driven.hear(sent)) == 1
    known = [driven.number(receipt(world, sent)) == 0 for sent in frames]
    assert known == [False] * (len(frames) - 3) + [True] * 3
    none = Driven(world, kept_bytes_max=size - 1)
    assert len(none.hear(frames[0])) == 1
    assert none.number(receipt(world, frames[0])) == 303


def test_the_next_opening_ends_what_was_kept(world: World, frames: list[Sent]) -> None:
    driven = Driven(world)
    driven.hear(frames[0])
    driven.open(TICK + 1)
    assert driven.number(frames[0]) == 304
    assert driven.number(receipt(world, frames[0])) == 304


# -- sealed traffic ------------------------------------------------------------------------------------------------


def test_sealed_traffic_goes_unchanged_to_the_members_it_names(world: World) -> None:
    driven, sums = Driven(world), traffic(world, Sealed)
    assert sums
    for sent in sums:
        forwarded = driven.hear(sent)
        assert tuple(effect.to for effect in forwarded) == sent.message.to
        assert all(e.message is sent.message and e.blobs[0] is sent.blobs[0] for e in forwarded)


def test_sealed_traffic_is_signed_and_among_members(world: World) -> None:
    driven, sent = Driven(world), traffic(world, Sealed)[0]
    message = sent.message
    assert isinstance(message, Sealed)

    def number(changed: Any, source: str = sent.source, blobs: tuple[Blob, ...] = sent.blobs) -> int:
        return driven.number(Sent(source, "relay0", changed, blobs))

    assert number(replace(message, part=1)) == 206
    assert number(replace(message, run=bytes(32))) == 204
    assert number(replace(message, tick=TICK - 1)) == 304
    assert number(message, source="eve") == 305
    assert number(message, blobs=()) == 305

    def signed(by: str, to: str) -> Sealed:
        return make_sealed(
            identity(by),
            run=world.manifest.run,
            tick=TICK,
            to=(identity(to).public,),
            purpose="sum",
            part=0,
            content=bytes(32),
        )

    assert number(signed(sent.source, "eve")) == 305
    assert number(signed("eve", sent.source), source="eve") == 305
    assert number(signed(sent.source, "node0" if sent.source != "node0" else "node1")) == 0


def test_traffic_of_a_tick_that_it_does_not_know_keeps_no_relay_from_asking(world: World, frames: list[Sent]) -> None:
    """A relay that starts again in the middle of a tick is sent much of which it can make nothing."""
    driven = Driven(world, tick=0)
    driven.relay.on_message(COORDINATOR, Welcome(manifest=b""), ())
    driven.relay.on_timer("look")
    assert driven.number(frames[0]) == 304
    assert any(
        isinstance(effect, Send) and isinstance(effect.message, Ready) for effect in driven.relay.on_timer("look")
    )
    driven.open(TICK)
    driven.relay.on_timer("look")
    driven.hear(frames[0])
    assert not any(isinstance(effect, Send) for effect in driven.relay.on_timer("look"))
