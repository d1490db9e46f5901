"""A relay that changes what it carries, and a member that masks under a wrong key: each is refused and named.

The run is whole: real roles and engines over the simulated transport, and one relay (or one node) that does one
thing each tick. A frame that was changed must not be computed with, whoever is at fault must be named, and the run
must end with as many rounds as it should.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import Any, ClassVar

import msgspec
from tests.runs import Run, identity, manifest, play

from interlock.protocols.boundary import Crossing, Departure, Frame, Pass
from interlock.protocols.coordinator import RunEnded
from interlock.protocols.effects import Blob, Effects, Send
from interlock.protocols.net.runner import Refusal
from interlock.protocols.node import GaveUp
from interlock.protocols.passing import NodeReported
from interlock.protocols.relay import Relay
from interlock.protocols.service.engine import Engine
from interlock.vault import PairKey, Secret

from .attack import Cost, Found

replace = msgspec.structs.replace
RELAY = identity("relay0").public
TRAINING = dict(rounds=3, epoch_rounds=3, microbatches=8)

Sends = list[Send]
Trick = Callable[[Sends], Sends]  # what goes out instead of some frames for one receiver


def _header(send: Send) -> Any:
    message = send.message
    assert isinstance(message, Frame)
    return message.header


def flip_a_bit(sends: Sends) -> Sends:
    """One bit of the frame."""
    first, *rest = sends
    data = bytearray(first.blobs[0].data)
    data[len(data) // 2] ^= 1
    return [Send(first.to, first.message, (Blob(data),)), *rest]


def offset_a_header(sends: Sends) -> Sends:
    """The header's micro-batch is one of the same sender's others: the signature is the one for the old."""
    first, *rest = sends
    header = _header(first)
    moved = replace(header, unit=replace(header.unit, microbatch=_header(rest[0]).unit.microbatch))
    return [Send(first.to, Frame(header=moved), first.blobs), *rest]


def swap_two_headers(sends: Sends) -> Sends:
    """Each of two frames under the other's header; both headers are as they were signed."""
    one, other, *rest = sends
    return [Send(one.to, other.message, one.blobs), Send(other.to, one.message, other.blobs), *rest]


def truncate(sends: Sends) -> Sends:
    """The last word of the frame is left out."""
    first, *rest = sends
    return [Send(first.to, first.message, (Blob(first.blobs[0].data[:-3]),)), *rest]


class Tampering(Relay):
    """Relay 0, when its turn has come; otherwise a relay like any other.

    It holds back the frames for one receiver until it has two of one sender, plays its trick on them and sends them.
    """

    trick: ClassVar[Trick]
    tick: ClassVar[int] = 4
    seen: ClassVar[int] = 0
    done: ClassVar[list[tuple[bytes, bytes]]] = []  # sender and receiver of what was changed
    late: ClassVar[bool] = False  # keep it for the next tick instead

    def on_message(self, source: bytes, message: object, blobs: tuple[Blob, ...]) -> Effects:
        """What a relay does, and then the trick."""
        kind, effects = type(self), super().on_message(source, message, blobs)
        if self._join.record.identity != RELAY:
            return effects
        found: Effects = []
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Frame):
                found += self._carried(kind, effect)
            else:
                found.append(effect)
        return found

    def _carried(self, kind: type[Tampering], send: Send) -> Effects:
        header = _header(send)
        kind.seen += sum(blob.size for blob in send.blobs)
        held = self.__dict__.setdefault("held", [])
        if header.unit.tick < kind.tick or kind.done or header.unit.direction != "forward":
            if kind.late and kind.done and header.unit.tick == kind.tick + 1 and held:
                return [send, held.pop()]
            return [send]
        if held and (held[0].to, _header(held[0]).sender) != (send.to, header.sender):
            return [send]
        held.append(send)
        if kind.late:
            kind.done.append((header.sender, send.to))
            return [send]
        if len(held) < 2:
            return []
        kind.done.append((header.sender, send.to))
        taken = list(held)
        held.clear()
        return list(kind.trick(taken))


class WrongKey(Engine):
    """The engine of a member that masks one frame under a key that is not the pair's."""

    by: ClassVar[list[Engine]] = []

    def _depart(self, job: Pass, out: Crossing, values: Any, read: bytes) -> Departure:
        if job.tick == Tampering.tick and out.unit.direction == "forward" and not self.by:
            self.by.append(self)
            out = with_fields(out, pair=PairKey(Secret(bytes(32))))
        return super()._depart(job, out, values, read)


@dataclass(frozen=True)
class Case:
    """A trick, the number by which it is refused, and whose fault the refusal names."""

    number: int
    trick: Trick | None
    late: bool = False


CASES: dict[str, Case] = {
    "a bit of a frame": Case(306, flip_a_bit),
    "a header's offset": Case(206, offset_a_header),
    "two headers swapped": Case(306, swap_two_headers),
    "a frame replayed in the next tick": Case(304, None, late=True),
    "a frame cut short": Case(305, truncate),
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
    case = CASES[name]
    trick = staticmethod(case.trick) if case.trick is not None else None
    kind = type("TamperingOnce", (Tampering,), dict(trick=trick, late=case.late, done=[], seen=0))
    run = play(manifest(training=TRAINING), relay=kind)
    return _judged(run, RELAY, number=case.number, seen=kind.seen, played=bool(kind.done))


def member() -> Found:
    """A member of the sending stage masks under another key than the pair's."""
    WrongKey.by.clear()
    run = play(manifest(training=TRAINING), engine=WrongKey)
    author = next(identity(name).public for name, engine in run.engines.items() if engine in WrongKey.by)
    return _judged(run, author, number=405, seen=0, played=True)


def _judged(run: Run, author: bytes, *, number: int, seen: int, played: bool) -> Found:
    """Refused under its number, with its author and nobody else named, and the run took all its rounds."""
    named = _named(run, number)
    computed = [event for event in run.seen(NodeReported) if event.tick == Tampering.tick]
    ended = bool(run.seen(RunEnded))
    committed = len({event.tick for event in run.seen(NodeReported)})
    refused = named == {author.hex()}
    return Found(
        won=not (refused and ended),
        recovered=f"nothing: refused as E{number}, {'its author named' if refused else f'{len(named)} named'}",
        measures={"number": number, "reports in its tick": len(computed), "ticks that moved": committed},
        cost=Cost(seen_bytes=seen),
        control=played,
    )
