"""Wire: what is read is exactly what was written, and no bytes bring a process down.

One reader of every kind gets messages of all classes, well formed, out of place, cut, changed or made up, each in an
envelope that it accepts, so that they reach the role.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import strategies as st

from interlock.protocols import messages as known
from interlock.protocols.asker import Asker
from interlock.protocols.canonical import Message, decode, encode
from interlock.protocols.effects import Announce, Blob, Effects, Event
from interlock.protocols.errors import Refused
from interlock.protocols.inquiry import Continuation
from interlock.protocols.manifest import Manifest
from interlock.protocols.members import Invitation
from interlock.protocols.session import Sampling
from interlock.vault import Identity

from .history import Seen
from .messages import messages
from .run import COORDINATOR, RunSpec, key
from .spec import Spec, action, always, sometimes

KINDS = {
    COORDINATOR: known.BY_COORDINATOR,
    "g0": known.BY_GATE,
    "r0": known.BY_RELAY,
    "n0": known.BY_NODE,
    "a0": known.BY_ASKER,
}
SENDERS = (COORDINATOR, "g1", "r0", "n1", "n2", "a0")


class Read(Event, frozen=True, kw_only=True):
    """Bytes were a message. again: its canonical bytes; same: whether reading these gives an equal message."""

    data: str
    again: str
    same: bool


class NotRead(Event, frozen=True, kw_only=True):
    """Bytes were no message that this process reads."""

    number: int


class Reader:
    """A role with the codec before it.

    Args:
        role: a real one. kinds: the union of messages that it reads.
    """

    def __init__(self, role: Any, kinds: Any) -> None:
        self._role, self._kinds = role, kinds
        self._started = False

    def read(self, source: bytes, data: bytes, blobs: tuple[Blob, ...]) -> Effects:
        """Decode, and hand to the role; what it wants to do about it stays here."""
        if not self._started:
            self._role.restore({})
            self._started = True
        try:
            message: Message = self.decode(data)
        except Refused as refused:
            return [Announce(NotRead(number=refused.number))]
        again = encode(message)
        same = self.decode(again) == message
        with suppress(Refused):
            self._role.on_message(source, message, blobs)
        return [Announce(Read(data=data.hex(), again=again.hex(), same=same))]

    def decode(self, data: bytes) -> Message:
        """Read strictly."""
        message: Message = decode(data, self._kinds)
        return message


def _mutated(data: bytes, how: tuple[str, int, int]) -> bytes:
    """Bytes that nearly are a message."""
    way, at, value = how
    at %= len(data)
    if way == "cut":
        return data[:at]
    if way == "flip":
        return data[:at] + bytes([data[at] ^ (value or 1)]) + data[at + 1 :]
    if way == "insert":
        return data[:at] + bytes([value]) + data[at:]
    return data + bytes([value])


def _respelled(data: bytes) -> bytes:
    """The same values in MessagePack's widest forms: as good to a lenient reader, and not canonical."""
    return _widely(msgspec.msgpack.decode(data))


def _widely(value: Any) -> bytes:
    match value:
        case list():
            return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(_widely, value))
        case bytes():
            return b"\xc6" + len(value).to_bytes(4, "big") + value
        case str():
            data = value.encode()
            return b"\xdb" + len(data).to_bytes(4, "big") + data
        case int() if not isinstance(value, bool):
            return b"\xd3" + value.to_bytes(8, "big", signed=True)
    return msgspec.msgpack.encode(value)


ANY = messages(known.EVERY).map(encode)
NEARLY = st.builds(
    _mutated,
    ANY,
    st.tuples(st.sampled_from(("cut", "flip", "insert", "append")), st.integers(0, 4000), st.integers(0, 255)),
)
DATA = st.one_of(ANY, ANY.map(_respelled), NEARLY, st.binary(max_size=80)).map(bytes.hex)


class Wire(Spec):
    """Wire: decode(encode(m)) = m, re-encoding is identical, and no bytes crash a role."""

    name = "wire"
    messages = known.EVERY
    inputs_max = 12

    def reader(self, role: Any, kinds: Any) -> Reader:
        """A reader of one kind."""
        return Reader(role, kinds)

    def cast(self) -> Mapping[str, Any]:
        """One reader of every kind."""
        run = _Run()
        return {label: self.reader(run.role(key(label)), kinds) for label, kinds in KINDS.items()}

    @action(
        source=st.sampled_from(SENDERS), data=DATA, blobs=st.lists(st.binary(max_size=64).map(bytes.hex), max_size=2)
    )
    def feed(self, role: Reader, source: str, data: str, blobs: list[str]) -> Effects:
        "Bytes arrive from somebody."
        return role.read(key(source), bytes.fromhex(data), tuple(Blob(bytes.fromhex(blob)) for blob in blobs))

    @always
    def same(self, seen: Seen) -> bool:
        "Reading what was written gives the same message."
        return all(event.same for event in seen(Read))

    @always
    def canonical(self, seen: Seen) -> bool:
        "Only one sequence of bytes is a message: writing it again gives these bytes."
        return all(event.again == event.data for event in seen(Read))

    @sometimes
    def accepted(self, seen: Seen) -> bool:
        "Bytes are a message."
        return bool(seen(Read))

    @sometimes
    def refused(self, seen: Seen) -> bool:
        "Bytes are refused."
        return bool(seen(NotRead))


class _Run(RunSpec):
    """Where the roles come from."""

    askers = 1

    def asker(self, who: Identity, made: Manifest, label: str, invitation: Invitation) -> Asker:
        """Asks for a few bytes."""
        inquiry = Continuation(b"a", 4, Sampling(temperature=0.0, top_p=1.0, seed=0), made, told=lambda byte: None)
        return Asker(who, made, operator=label, invitation=invitation, inquiry=inquiry)
