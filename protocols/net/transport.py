"""What a runner needs of a transport: parts to and from peers named by identity, over proven connections.

Both transports keep these promises (tests/conformance):

- Parts arrive whole, unchanged and in the order sent on each link, or not at all.
- A server hears only peers it admitted. With its door open it also hears unknown ones, with peer None.
- `send` never blocks. What cannot be queued raises `NotSent`; what is lost after queueing is told to `lost`.
- A client's connection is tried again until it is closed; what it was given in the meantime waits, up to the
  bound of its queue. A server sends only to peers that are connected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ..errors import InterlockError
from ..wire import Buffer

QUEUE_BYTES = 256 << 20  # for each peer


class NotSent(InterlockError):
    """A message was not sent: E208, the peer is unknown or not connected; E213, its queue is full."""


class Arrival(NamedTuple):
    """One message as it arrived. `peer`: proven identity, None if unknown. `curve`: the CURVE key it used."""

    peer: bytes | None
    curve: bytes
    parts: Sequence[Buffer]


class Transport(Protocol):
    """Carries parts between this process and its peers."""

    lost: Callable[[bytes, NotSent], None]  # called for what was queued and then could not be sent
    # Called whenever the connection to a server has come up, again perhaps. (Where time is virtual it never is: there
    # connections are up from the beginning, and roles must do without being told.)
    up: Callable[[bytes], None]

    @property
    def address(self) -> str:
        """Where it listens, with the real port; empty if it only connects."""

    async def start(self) -> None:
        """Begin to listen. Starting twice does nothing.

        Raises:
            Misused: E701, the address cannot be had.
        """

    def admit(self, identity: bytes, curve: bytes) -> None:
        """Let a peer in, under the identity given. Connections it has already are its own from now on."""

    def greet(self, identity: bytes, curve: bytes) -> None:
        """Make `send(identity, ...)` answer an unknown peer that signed with this identity. It stays unknown."""

    def connect(self, identity: bytes, curve: bytes, address: str) -> None:
        """Open a connection to a server and keep it; a second call for a peer replaces the first."""

    def send(self, to: bytes, parts: Sequence[Buffer]) -> None:
        """Queue one message.

        Raises:
            NotSent: E208 or E213.
        """

    async def receive(self) -> Arrival:
        """The next message."""

    async def close(self, flush_s: float = 2.0) -> None:
        """Send what is queued, for at most `flush_s` seconds, and end. Closing twice does nothing."""


def not_connected(to: bytes) -> NotSent:
    """E208 for one peer."""
    return NotSent(208, f"peer {to.hex()[:12]} is unknown or not connected")


def queue_full(to: bytes, queued_bytes: int, bound_bytes: int) -> NotSent:
    """E213 for one peer."""
    return NotSent(
        213,
        f"queue to {to.hex()[:12]} is full",
        expected=f"at most {bound_bytes} bytes",
        actual=f"{queued_bytes} bytes",
    )
