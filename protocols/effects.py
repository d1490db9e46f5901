"""Roles are pure state machines: an input in, a list of effects out.

A role has no socket, clock, randomness, tensor arithmetic or `await`. Its runner (`protocols.net.runner`, or a
spec's world) calls it and carries out the effects in list order. Tensors reach a role as `Blob` handles; what
must be computed over them is `Work`, done in a worker and returned through `on_done`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import msgspec

from .canonical import Message


class Blob:
    """Opaque bytes beside a message: a frame or sealed data. A role passes it on and never looks inside."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = memoryview(data).cast("B")

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.data.nbytes

    def __repr__(self) -> str:
        return f"Blob({self.size} bytes)"


class Event(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of what a role announces: facts about what it did, no secrets. The class's name is its tag."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send to a peer, named by its 32-byte identity key. Lost if the peer is not connected."""

    to: bytes
    message: Message
    blobs: tuple[Blob, ...] = ()


@dataclass(frozen=True, slots=True)
class After:
    """Call `on_timer(name)` once, `seconds` from now. A later `After` of the same name replaces it."""

    seconds: float
    name: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell observers (journal, display, specs) what happened."""

    event: Event


@dataclass(frozen=True, slots=True)
class Store:
    """Make `value` durable under `key` (replacing what was there; empty: nothing) before any later effect begins."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Work:
    """Compute `job` outside the role; `on_done(job, result)` follows. Jobs of one role run in order."""

    job: Any


@dataclass(frozen=True, slots=True)
class Draw:
    """Ask for `size` random bytes; `on_drawn(name, data)` follows."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Let this peer connect: its identity key and the CURVE key it must use (servers only)."""

    identity: bytes
    curve: bytes


@dataclass(frozen=True, slots=True)
class Connect:
    """Open an outbound connection to a server; `Send(identity, ...)` goes over it from now on."""

    identity: bytes
    curve: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End this process. `error` is None for a clean end, else what went wrong."""

    error: Exception | None = None


Effect: TypeAlias = Send | After | Announce | Store | Work | Draw | Admit | Connect | Stop
Effects: TypeAlias = list[Effect]


UP = "up "  # a timer of this name and a server's identity in hex rings whenever the connection to it has come up


@runtime_checkable
class Timed(Protocol):
    """A role that must know the time, because something that it holds ends by a date."""

    def at(self, seconds: float) -> None:
        """The time of the input that comes next, in seconds since 1970. It may go back: clocks are set."""


class Role(Protocol):
    """What a runner drives. A method may raise `Refused`: the input is dropped, counted and announced."""

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin, from what earlier `Store` effects left (empty the first time)."""

    def on_message(self, source: bytes, message: Message, blobs: tuple[Blob, ...]) -> Effects:
        """A message of an authenticated peer."""

    def on_timer(self, name: str) -> Effects:
        """A timer set by `After` ran out."""

    def on_done(self, job: Any, result: Any) -> Effects:
        """`Work(job)` ended; `result` is its value, or the `InterlockError` it raised."""

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """The bytes of a `Draw`."""
