"""A relay that changes what it carries, and a member that masks under a wrong key: each is refused and named.

The run is whole: real roles and engines over the simulated transport, and one relay (or one node) that does one
thing in one tick. A frame that was changed must not be computed with, whoever is at fault must be named, and the run
must end with as many rounds as it should.
"""

from __future__ import annotations

from dataclasses import replace as with_fields
from functools import cache
from typing import Any, ClassVar

import msgspec
import numpy as np
from tests.protocols.world import rows_of
from tests.runs import Run, identity, manifest, play

from interlock.protocols.boundary import Crossing, Departure, Frame, Header
from interlock.protocols.coordinator import RunEnded
from interlock.protocols.effects import Blob, Effects, Send
from interlock.protocols.journal import Closed, Committed
from interlock.protocols.net.runner import Refusal
from interlock.protocols.node import GaveUp
from interlock.protocols.relay import Relay
from interlock.protocols.service.engine import Engine
from interlock.vault import GroupKey, PairKey, Secret

from .attack import Cost, Found

replace = msgspec.structs.replace
RELAY = identity("relay0").public
TRAINING = dict(rounds=3, epoch_rounds=3, microbatches=8)
TICK = 4  # in which it happens: a round like any other


class Tampering(Relay):
    """Relay 0 plays one trick on two frames of one sender to one receiver; otherwise, and everywhere else, a relay."""

    number: ClassVar[int]  # by which the trick is refused

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held: list[Send] = []
        self.played = False
        self.seen_bytes = 0

    def on_message(self, source: bytes, message: object, blobs: tuple[Blob, ...]) -> Effects:
        """What a relay does, and then the trick."""
        effects = super().on_message(source, message, blobs)
        if self._join.record.identity != RELAY:
            return effects
        found: Effects = []
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Frame):
                found += self.carry(effect)
            else:
                found.append(effect)
        return found

    def carry(self, send: Send) -> list[Send]:
        """What goes out instead of a frame: the first of two waits for the second."""
        header = _header(send)
        self.seen_bytes += send.blobs[0].size
        if self.played or header.unit.tick < TICK or header.unit.direction != "forward":
            return [send]
        if self.held and (self.held[0].to, _header(self.held[0]).sender) != (send.to, header.sender):
            return [send]
        self.held.append(send)
        if len(self.held) < 2:
            return []
        self.played = True
        return self.trick(*self.held)

    def trick(self, one: Send, other: Send) -> list[Send]:
        """What goes out instead of these two."""
        raise NotImplementedError


def _header(send: Send) -> Header:
    message = send.message
    assert isinstance(message, Frame)
    return message.header


class FlipABit(Tampering):
    """One bit of the frame."""

    number = 306

    def trick(self, one: Send, other: Send) -> list[Send]:
        """As its name says."""
        data = bytearray(one.blobs[0].data)
        data[len(data) // 2] ^= 1
        return [Send(one.to, one.message, (Blob(data),)), other]


class OffsetHeader(Tampering):
    """The header says another micro-batch of the same sender; its signature is the one for the old."""

    number = 206

    def trick(self, one: Send, other: Send) -> list[Send]:
        """As its name says."""
        header = _header(one)
        moved = replace(header, unit=replace(header.unit, microbatch=_header(other).unit.microbatch))
        return [Send(one.to, Frame(header=moved), one.blobs), other]


class SwapHeaders(Tampering):
    """Each of two frames under the other's header; both headers are as they were signed."""

    number = 306

    def trick(self, one: Send, other: Send) -> list[Send]:
        """As its name says."""
        return [Send(one.to, other.message, one.blobs), Send(other.to, one.message, other.blobs)]


class CutShort(Tampering):
    """The last word of the frame is left out."""

    number = 305

    def trick(self, one: Send, other: Send) -> list[Send]:
        """As its name says."""
        return [Send(one.to, one.message, (Blob(one.blobs[0].data[:-3]),)), other]


class Replay(Tampering):
    """A frame that was carried faithfully comes again in the next tick."""

    number = 304

    def carry(self, send: Send) -> list[Send]:
        """Keep the first frame of the tick; send it again beside the first one of the next."""
        tick = _header(send).unit.tick
        self.seen_bytes += send.blobs[0].size
        if tick == TICK and not self.held:
            self.held.append(send)
        if tick == TICK + 1 and not self.played:
            self.played = True
            return [Send(send.to, send.message, send.blobs), *self.held]
        return [send]


class WrongKey(Engine):
    """The engine of a member that masks one frame under a key that is not the pair's."""

    by: ClassVar[list[Engine]] = []

    def _depart(self, group: GroupKey, out: Crossing, values: Any, read: bytes) -> Departure:
        if out.unit.tick == TICK and out.unit.direction == "forward" and not self.by:
            self.by.append(self)
            out = with_fields(out, pair=PairKey(Secret(bytes(32))))
        return super()._depart(group, out, values, read)


CASES: dict[str, type[Tampering]] = {
    "a bit of a frame": FlipABit,
    "a header's offset": OffsetHeader,
    "two headers swapped": SwapHeaders,
    "a frame replayed in the next tick": Replay,
    "a frame cut short": CutShort,
}


def _named(run: Run, number: int) -> set[str]:
    """Whom the nodes' events name for a refusal of this number."""
    found: set[str] = set()
    for name, events in run.events.items():
        if not name.startswith("node"):
            continue
        for event in events:
            if isinstance(event, GaveUp) and event.number == number:
                found.add(event.suspect)
            if isinstance(event, Refusal) and event.number == number and event.peer is not None:
                found.add(event.peer.hex())
    return found


def relay(*, name: str) -> Found:
    """One of a relay's tricks in a whole run."""
    kind = CASES[name]
    run = play(manifest(training=TRAINING), relay=kind)
    role = run.runners["relay0"]._role
    assert isinstance(role, kind)
    return _judged(run, RELAY, number=kind.number, seen=role.seen_bytes, played=role.played)


def member() -> Found:
    """A member of the sending stage masks under another key than the pair's."""
    WrongKey.by.clear()
    run = play(manifest(training=TRAINING), engine=WrongKey)
    author = next(identity(name).public for name, engine in run.engines.items() if engine in WrongKey.by)
    return _judged(run, author, number=405, seen=0, played=True)


def _judged(run: Run, author: bytes, *, number: int, seen: int, played: bool) -> Found:
    """Refused under its number, with its author and nobody else named, and the run learned what it would have."""
    named = _named(run, number)
    # What came late was added to the gradients late, and float32 sums round by their order.
    losses, expected = learned(run), _undisturbed()
    unharmed = np.shape(losses) == np.shape(expected) and bool(np.allclose(losses, expected, rtol=0, atol=1e-3))
    refused = named == {author.hex()}
    return Found(
        won=not (refused and unharmed),
        recovered=f"nothing: refused as E{number}, {'its author named' if refused else f'{len(named)} named'}",
        measures={"number": number, "named": len(named), "rounds as without it": len(losses) * unharmed},
        cost=Cost(seen_bytes=seen),
        control=played and bool(run.seen(RunEnded)),
    )


def learned(run: Run) -> list[list[float]]:
    """The loss on every micro-batch of each round that was taken, in order."""
    rows = rows_of(run.stores["coordinator"].values)
    closed = {row.body.tick: row.body.commitments for row in rows if isinstance(row.body, Closed)}
    taken = [closed[row.body.tick] for row in rows if isinstance(row.body, Committed)]
    losses = [[loss for c in commitments for loss in c.losses] for commitments in taken]
    return [[loss.nats for loss in sorted(found, key=lambda loss: loss.microbatch)] for found in losses]


@cache
def _undisturbed() -> list[list[float]]:
    return learned(play(manifest(training=TRAINING)))
