"""Boundary: no mask serves two values, and a frame that was changed, swapped or replayed is refused and blamed.

The relay lies as it likes with frames, a lead may deal its group another first bridge than it keeps, the coordinator
may lose its tail, and everybody may crash. What relays saw is judged symbolically: each frame is a mask plus a
plaintext, both by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from interlock.protocols.boundary import Frame
from interlock.protocols.change import Rotated
from interlock.protocols.changing import Changing
from interlock.protocols.effects import Announce, Blob, Effects, Event, Send
from interlock.protocols.node import Adopted, GaveUp, Node
from interlock.protocols.relay import Relay
from interlock.protocols.round import Sealed
from interlock.protocols.seat import FrameRead

from .fork import Liar
from .history import Seen
from .run import COORDINATOR, RunSpec, key
from .spec import action, always, sometimes
from .symbolic import Term, term

WAYS = ("change", "swap", "replay")


class Tampered(Event, frozen=True, kw_only=True):
    """The relay hands on a frame otherwise than it got it. header: of the frame, in hex."""

    header: str
    way: str


class Tampering:
    """A relay that changes one frame in a while.

    Args:
        honest: does everything else.
    """

    def __init__(self, honest: Relay) -> None:
        self._honest = honest
        self._ways: list[str] = []
        self._frames: list[Send] = []

    def tamper(self, way: str) -> Effects:
        """Do this to the next frame that can be treated so."""
        self._ways.append(way)
        return []

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """As a relay does."""
        return self._honest.restore(stored)

    def on_timer(self, name: str) -> Effects:
        """As a relay does."""
        return self._honest.on_timer(name)

    def on_message(self, source: bytes, message: Any, blobs: tuple[Blob, ...]) -> Effects:
        """As a relay does, but for one frame in a while."""
        effects: Effects = []
        for effect in self._honest.on_message(source, message, blobs):
            if isinstance(effect, Send) and isinstance(effect.message, Frame):
                effects += self._hand_on(effect)
                self._frames.append(effect)
            else:
                effects.append(effect)
        return effects

    def _hand_on(self, send: Send) -> Effects:
        header = send.message.header.digest.hex()  # type: ignore[attr-defined]  # a Frame, as asked above
        if not self._ways or (self._ways[0] != "change" and not self._frames):
            return [send]
        way = self._ways.pop(0)
        told = Announce(Tampered(header=header, way=way))
        if way == "change":
            data = bytearray(send.blobs[0].data)
            data[20] ^= 1
            return [told, replace(send, blobs=(Blob(data),))]
        earlier = self._frames[0]
        if way == "swap":
            return [told, replace(send, blobs=earlier.blobs)]
        return [told, Send(send.to, earlier.message, earlier.blobs), send]


class TwoBridges(Node):
    """A node that may come to lie: where it leads, it deals its group another first bridge or turn than it keeps."""

    lies = False

    def on_done(self, job: object, result: object) -> Effects:
        """As a node does; the group gets a matrix of another seed."""
        part = self._part
        if not self.lies or not isinstance(part, Changing):
            return super().on_done(job, result)
        if isinstance(result, Rotated):
            effects = [e for e in super().on_done(job, result) if not _is_matrix(e)]
            assert part._group is not None
            other = bytes(reversed(result.matrix.data))
            return [*effects, *part.seat.seal_and_send(part._group, part.seat.others, "matrix", 0, other)]
        return super().on_done(job, result)


def _is_matrix(effect: Any) -> bool:
    return isinstance(effect, Send) and isinstance(effect.message, Sealed) and effect.message.purpose == "matrix"


class Boundary(RunSpec):
    """Boundary: no mask serves two values, and nothing that relays saw cancels to a plaintext."""

    name = "boundary"
    rounds = 1
    node_role = TwoBridges
    faults = ("drop", "twice", "delay", "reorder", "slow", "crash")
    crashing = ("coordinator", "g0", "g1", "g2", "r0", "n0", "n1", "n2", "n3")
    may_stop = (308, 320, 330)

    def role(self, name: bytes) -> Any:
        """As in any run, but for the relay, and a coordinator that may lose its tail."""
        honest = super().role(name)
        if name == key(COORDINATOR):
            return Liar(lambda: RunSpec.role(self, name), (*self.named("g"), *self.named("n")), ())
        return Tampering(honest) if isinstance(honest, Relay) else honest

    @action(by=Tampering, way=st.sampled_from(WAYS))
    def tamper(self, role: Tampering, way: str) -> Effects:
        "The relay changes the next frame, gives it the bytes of an earlier one, or sends an earlier one again."
        return role.tamper(way)

    @action(by=Liar, drop=st.integers(0, 8), void=st.booleans())
    def roll_back(self, role: Liar, drop: int, void: bool) -> Effects:
        "The coordinator loses its last rows, or says that a tick was void, and goes on from there."
        return role.roll_back(drop, void)

    @action(by=TwoBridges)
    def deal_two(self, role: TwoBridges) -> Effects:
        "A node deals its group another matrix than it keeps, if it leads."
        role.lies = True
        return []

    @always
    def one_value_a_mask(self, seen: Seen) -> bool:
        "No mask serves two values, whatever was sent again, voided, restarted or dealt twice."
        values: dict[bytes, bytes] = {}
        return all(values.setdefault(t.mask, t.plain) == t.plain for t in terms(seen))

    @always
    def nothing_cancels(self, seen: Seen) -> bool:
        "No sum of frames, added and subtracted, is a plaintext or a difference of plaintexts of different inputs."
        return not leaks(terms(seen))

    @always
    def changed_is_refused(self, seen: Seen) -> bool:
        "A frame is read only with the bytes that its signed header names."
        whole = {
            (got.receiver, got.header.digest.hex())
            for got in seen.messages(Frame)
            if hashlib.sha256(got.blobs[0]).digest() == got.header.frame
        }
        return all((event.by, event.header) in whole for event in seen(FrameRead))

    @always
    def author_named(self, seen: Seen) -> bool:
        "Who gives a tick up for a frame's bytes names the relay, who changed them, and never the honest signer."
        relays = {name.hex() for name in self.named("r")}
        return all(event.suspect in relays for event in seen(GaveUp) if event.number in (306, 405))

    @sometimes
    def blamed(self, seen: Seen) -> bool:
        "A node blames the relay for a frame."
        return bool(seen(GaveUp, number=306))

    @sometimes
    def trained(self, seen: Seen) -> bool:
        "A state that was trained becomes the base."
        return any(event.made > 1 for event in seen(Adopted))


def terms(seen: Seen) -> list[Term]:
    """All frames that nodes sent, as mask and plaintext."""
    return [term(sent.blobs[0]) for sent in seen.sent(Frame) if sent.by.startswith("n")]


def leaks(frames: list[Term]) -> bool:
    """Whether some whole-number combination of frames, in which all masks cancel, leaves anything of plaintexts.

    Each frame is one mask and one plaintext, so the combinations without masks are spanned by differences of two
    frames under one mask (and by frames without one). They leave nothing exactly if these do.
    """
    by_mask: dict[bytes, list[bytes]] = {}
    for frame in frames:
        by_mask.setdefault(frame.mask, []).append(frame.plain)
    unmasked = by_mask.pop(bytes(16), [])
    return bool(unmasked) or any(plain != plains[0] for plains in by_mask.values() for plain in plains)
