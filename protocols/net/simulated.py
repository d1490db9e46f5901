"""The same transport inside one process, in virtual time, with every fault on request.

A `Network` joins `SimulatedTransport`s by address. Its verdict decides what happens to each message: a list of
delays, one for each copy that arrives; empty drops it. Messages are copied to bytes when they are sent, so nothing
is shared between peers. Who may speak to whom follows the same rules as on ZeroMQ: a client reaches a server whose
CURVE key it expects and which admitted its own; until then its messages wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..errors import Failed, Misused
from ..wire import Buffer
from .transport import QUEUE_BYTES, Arrival, NotSent, not_connected, queue_full

Verdict: TypeAlias = Callable[[bytes, bytes, int], list[float]]  # (source, destination, ordinal): delays in s

DELAY_S = 0.01
DOOR_MESSAGES = 64  # unread ones of unknown peers at one server, and how many such peers it answers


def in_order(source: bytes, destination: bytes, ordinal: int) -> list[float]:
    """Deliver everything once, after the same time."""
    return [DELAY_S]


@dataclass
class _Link:
    """One direction between two identities. `waiting`: sent before the connection was up."""

    ordinal: int = 0
    size_bytes: int = 0  # waiting, on the way, or not yet read
    waiting: deque[tuple[bytes, ...]] = field(default_factory=deque)


class Network:
    """What carries messages, and what may go wrong on the way.

    Args:
        verdict: `verdict(source, destination, ordinal)` gives the delays of the copies of the ordinal-th message
            (counted from 0) on this link.
    """

    def __init__(self, verdict: Verdict = in_order) -> None:
        self.verdict = verdict
        self._listening: dict[str, SimulatedTransport] = {}
        self._started: list[SimulatedTransport] = []
        self._links: dict[tuple[bytes, bytes], _Link] = {}
        self._ports = 0

    def listen(self, transport: SimulatedTransport, bind: str) -> str:
        """Give a server its address."""
        if bind.endswith(":*"):
            self._ports += 1
            bind = f"{bind[:-1]}{self._ports}"
        if bind in self._listening:
            raise Misused(
                701,
                f"cannot listen at {bind}: Address already in use",
                todo=f"Another process listens on port {bind.rpartition(':')[2]}. Choose another port.",
            )
        self._listening[bind] = transport
        return bind

    def server_at(self, address: str) -> SimulatedTransport | None:
        """Who listens there."""
        return self._listening.get(address)

    def link(self, source: bytes, destination: bytes) -> _Link:
        """One direction of traffic."""
        return self._links.setdefault((source, destination), _Link())

    def enter(self, transport: SimulatedTransport) -> None:
        """A process has started."""
        self._started.append(transport)

    def leave(self, transport: SimulatedTransport) -> None:
        """A process has ended: what was sent to it and not read is lost, and what it had not sent."""
        self._started = [other for other in self._started if other is not transport]
        self._listening = {a: t for a, t in self._listening.items() if t is not transport}
        for (source, destination), link in self._links.items():
            if source == transport.identity:
                link.waiting.clear()
            if destination == transport.identity:
                link.size_bytes = sum(map(_size, link.waiting))

    def settle(self) -> None:
        """Send what waited for connections that are up now."""
        for client in self._started:
            for to in client.servers:
                if (server := client.server(to)) is not None:
                    waiting = self.link(client.identity, to).waiting
                    while waiting:
                        self.carry(client, server, None, waiting.popleft())

    def client_of(self, server: SimulatedTransport, identity: bytes) -> SimulatedTransport | None:
        """The client with a connection to `server` that it knows, or has greeted, by this identity."""
        for client in self._started:
            known = server.admitted.get(client.curve) or server.greeted.get(client.curve)
            if known == identity and any(client.server(to) is server for to in client.servers):
                return client
        return None

    def carry(
        self, source: SimulatedTransport, target: SimulatedTransport, proven: bytes | None, parts: tuple[bytes, ...]
    ) -> None:
        """Put one message on its way.

        Args:
            proven: the server's identity, for a message to its client; None from a client, whose key the server
                looks up when the message arrives.
        """
        link = self.link(source.identity, target.identity)
        delays = self.verdict(source.identity, target.identity, link.ordinal)
        link.ordinal += 1
        size_bytes = _size(parts)
        link.size_bytes += size_bytes * (len(delays) - 1)
        loop = asyncio.get_running_loop()
        for delay_s in delays:
            loop.call_later(delay_s, target.put, Arrival(proven, source.curve, parts), link, size_bytes)


class SimulatedTransport:
    """A `Transport` on a `Network`.

    Args:
        identity: name of this process in verdicts. curve: its public CURVE key.
        bind: address to listen at; empty for a process that only connects.
        open_door: hear unknown clients too.
    """

    def __init__(
        self,
        network: Network,
        identity: bytes,
        curve: bytes,
        *,
        bind: str = "",
        open_door: bool = False,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.identity, self.curve, self.open_door = identity, curve, open_door
        self.lost: Callable[[bytes, NotSent], None] = lambda to, error: None
        self.up: Callable[[bytes], None] = lambda to: None
        self.admitted: dict[bytes, bytes] = {}  # CURVE key: identity
        self.greeted: dict[bytes, bytes] = {}
        self.servers: dict[bytes, tuple[bytes, str]] = {}  # identity: CURVE key, address
        self._network, self._bind, self._queue_bytes = network, bind, queue_bytes
        self._inbox: deque[tuple[_Link, int, Arrival]] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._started, self._closed, self._address = False, False, ""

    @property
    def address(self) -> str:
        """Where it listens; empty if it only connects."""
        return self._address

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            Misused: E701.
        """
        if not self._started:
            if self._bind:
                self._address = self._network.listen(self, self._bind)
            self._started = True
            self._network.enter(self)
            self._network.settle()

    def admit(self, identity: bytes, curve: bytes) -> None:
        """Let a client connect, under this identity."""
        if not self._bind:
            raise Misused(703, "a process that does not listen cannot admit peers")
        self.admitted = {c: i for c, i in self.admitted.items() if i != identity} | {curve: identity}
        self.greeted.pop(curve, None)
        self._network.settle()

    def greet(self, identity: bytes, curve: bytes) -> None:
        """Make `send(identity, ...)` answer an unknown client."""
        if identity not in self.admitted.values() and curve not in self.admitted:
            self.greeted.pop(curve, None)
            self.greeted[curve] = identity
            if len(self.greeted) > DOOR_MESSAGES:
                del self.greeted[next(iter(self.greeted))]

    def connect(self, identity: bytes, curve: bytes, address: str) -> None:
        """Open and keep a connection to a server."""
        self.servers[identity] = (curve, address)
        self._network.settle()

    def server(self, identity: bytes) -> SimulatedTransport | None:
        """The server of this identity, if our connection to it is up."""
        curve, address = self.servers[identity]
        server = self._network.server_at(address)
        if server is None or self._closed or server.curve != curve:
            return None
        return server if server.open_door or self.curve in server.admitted else None

    def send(self, to: bytes, parts: Sequence[Buffer]) -> None:
        """Queue one message.

        Raises:
            NotSent: E208 or E213.
        """
        target = self.server(to) if to in self.servers else self._network.client_of(self, to)
        if self._closed or (target is None and to not in self.servers):
            raise not_connected(to)
        copied = tuple(bytes(part) for part in parts)
        link = self._network.link(self.identity, target.identity if target is not None else to)
        if (queued := link.size_bytes + _size(copied)) > self._queue_bytes:
            raise queue_full(to, queued, self._queue_bytes)
        link.size_bytes = queued
        if target is None:
            link.waiting.append(copied)
        else:
            proven = (
                None
                if to in self.servers
                else next(identity for identity in target.servers if target.server(identity) is self)
            )
            self._network.carry(self, target, proven, copied)

    async def receive(self) -> Arrival:
        """The next message, of any peer."""
        while not self._inbox:
            if self._closed:
                raise Failed(702, "this transport is closed")
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        link, size_bytes, arrival = self._inbox.popleft()
        link.size_bytes -= size_bytes
        return arrival

    async def close(self, flush_s: float = 2.0) -> None:
        """End. What is on its way still arrives."""
        if not self._closed and self._started:
            self._closed = True
            self._network.leave(self)
            self._inbox.clear()
            self._wake()

    def put(self, arrival: Arrival, link: _Link, size_bytes: int) -> None:
        """Take in one message (called by the network)."""
        if self._closed:
            return
        peer = arrival.peer or self.admitted.get(arrival.curve)
        unread = sum(other.peer is None for _, _, other in self._inbox) if peer is None else 0
        if peer is None and (not self.open_door or unread >= DOOR_MESSAGES):
            link.size_bytes -= size_bytes
            return
        self._inbox.append((link, size_bytes, Arrival(peer, arrival.curve, arrival.parts)))
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


def _size(parts: Sequence[bytes]) -> int:
    return sum(map(len, parts))
