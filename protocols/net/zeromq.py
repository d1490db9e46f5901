"""Parts between processes over ZeroMQ: one ROUTER where a server listens, one DEALER for each server.

Every socket speaks CURVE, so a client knows it talks to the server's key and a server knows each client's. ZAP
admits clients by that key (an unknown one is told nothing and tries again, so it may connect before it is
admitted); ROUTER hands on the key beside each message, and that key, never a routing id that the client could
choose, says who sent it. A client sends an empty message whenever its connection comes up: from then on the server
can send to it, by the routing id of its key's newest message.

Sockets are read and written on the asyncio loop directly, without `zmq.asyncio`, whose futures cost more for each
message than the rest of the way. A received part stays in libzmq's memory; passing it on passes a reference.

With an upload limit, messages larger than `CONTROL_BYTES` wait until it lets them go, in turn: one of each connection,
and of each peer at a server. A small message overtakes none to the same peer, and waits for none to others.

Bounds: `queue_bytes` waiting for each peer and in the inbox (a full inbox stops reading, so TCP holds the sender
back), 64 messages a peer inside libzmq each way, `part_bytes` for each part, `Door` for unknown peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.backend
from nacl.bindings import crypto_scalarmult_base
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from interlock.vault import Secret

from ..errors import Failed, Misused, Refused
from ..wire import Buffer, Limits
from .pace import CONTROL_BYTES, Pace
from .transport import QUEUE_BYTES, Arrival, NotSent, not_connected, queue_full

INBOX_BYTES = 16 << 20
HIGH_WATER = 64  # messages of one peer inside libzmq, each way
TURN = 32  # messages read before other callbacks of the loop have their turn
RETRY_S = 0.005  # a peer for whom libzmq has enough is tried again after this time
# Measured with frames of 768 KiB: larger than the system's defaults saves a tenth of a relay's time.
SOCKET_BUFFER_BYTES = 1 << 20
# A refused client is not told, and the server closes its connection after this time: then it tries again.
HANDSHAKE_MS = 2000
# Heartbeats wait behind a part that is under way: the timeout is what one large part may take on a slow line.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS, HEARTBEAT_TTL_MS = 5_000, 20_000, 30_000
RECONNECT_MS, RECONNECT_MAX_MS = 100, 2_000
CURVE_OVERHEAD_BYTES = 64  # nonce, flags and tag, which MAXMSGSIZE counts too
_DOMAIN = "interlock"
# The compiled socket and plain numbers: the wrappers' enumerations and exceptions cost 0.2 ms a frame, measured.
_Socket: Any = zmq.backend.Socket
_NOBLOCK, _NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_ADDRESS = re.compile(r"tcp://[A-Za-z0-9._-]+:(\*|[0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What peers that nobody admitted may do at a server whose door is open.

    Args:
        peers: how many keys at a time.
        idle_s: after this many silent seconds another key may take a key's place.
        messages_per_s, burst: all of them together.
        message_bytes: all parts of a message.
    """

    peers: int = 64
    idle_s: float = 60.0
    messages_per_s: float = 20.0
    burst: int = 100
    message_bytes: int = 128 << 10


class _Outbox:
    """What waits for one peer."""

    __slots__ = ("queue", "size_bytes")

    def __init__(self) -> None:
        self.queue: deque[tuple[int, list[Buffer | zmq.Frame]]] = deque()
        self.size_bytes = 0


class _Line:
    """One socket on the loop, and what waits to be written to it.

    ZeroMQ's descriptor reports a change once, and any call on the socket may make it quiet. So after each read and
    write the socket is asked whether there is something to read.
    """

    def __init__(self, socket: zmq.Socket[bytes], transport: ZeroMQTransport) -> None:
        self.socket, self.transport = socket, transport
        self.boxes: dict[bytes, _Outbox] = {}
        self._blocked: set[bytes] = set()  # libzmq has enough for them for now
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(socket.get(zmq.FD))
        self._scheduled, self.closed, self.connected = False, False, False
        self._retry: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._descriptor, self._pump)
        self.schedule()

    def enqueue(self, to: bytes, parts: Sequence[Buffer]) -> None:
        """Write a message, or keep it until libzmq takes it."""
        size_bytes = sum(memoryview(part).nbytes for part in parts)
        box = self.boxes.get(to) or _Outbox()
        if (queued := box.size_bytes + size_bytes) > self.transport.queue_bytes:
            raise queue_full(to, queued, self.transport.queue_bytes)
        box.queue.append((size_bytes, [_sendable(part) for part in parts]))
        box.size_bytes = queued
        self.boxes[to] = box
        if self.connected and to not in self._blocked:
            self._write(to, box)
            if self._readable():
                self.schedule()

    def schedule(self) -> None:
        if not self._scheduled and not self.closed:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def prefix(self, to: bytes) -> list[bytes] | None:
        """What ROUTER wants before the parts; None if the peer is not connected."""
        return []

    def arrived(self, frames: list[zmq.Frame]) -> None:
        raise NotImplementedError

    def close(self, linger_ms: int) -> None:
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._descriptor)
            if self._retry is not None:
                self._retry.cancel()
            self.socket.close(linger_ms)

    def _pump(self) -> None:
        self._scheduled = False
        if self.closed:
            return
        for _ in range(TURN):
            if not self._readable():
                return
            self.arrived(_read(self.socket))
        self.schedule()

    def write(self) -> None:
        """Write what can be written."""
        if self.closed:
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._blocked.clear()
        if self.connected:
            for to, box in list(self.boxes.items()):
                self._write(to, box)
        self.schedule()

    def _readable(self) -> bool:
        """Whether a message is there and wanted. Asks libzmq always: that is what makes the descriptor quiet."""
        return bool(_Socket.get(self.socket, _EVENTS) & _POLLIN) and not self.transport.full

    def _write(self, to: bytes, box: _Outbox) -> None:
        """Write what libzmq takes; come back for the rest."""
        while box.queue:
            size_bytes, parts = box.queue[0]
            if size_bytes > CONTROL_BYTES and not self.transport.may_leave(self):
                return
            try:
                if (prefix := self.prefix(to)) is None:
                    raise zmq.ZMQError(errno.EHOSTUNREACH)
                _write(self.socket, [*prefix, *parts])
            except zmq.Again:
                self._blocked.add(to)
                if self._retry is None:
                    self._retry = self._loop.call_later(RETRY_S, self.write)
                return
            except zmq.ZMQError as error:
                if error.errno != errno.EHOSTUNREACH:
                    raise
                self._lose(to)
                return
            box.queue.popleft()
            box.size_bytes -= size_bytes
            self.transport.left(size_bytes)
            if self.transport.paced and len(self.boxes) > 1:
                self.boxes[to] = self.boxes.pop(to)  # behind the others, should the rest have to wait
        del self.boxes[to]
        self.transport.flushed()

    def _lose(self, to: bytes) -> None:
        for _ in self.boxes.pop(to).queue:
            self.transport.lost(to, not_connected(to))
        self.transport.flushed()


class _Client(_Line):
    """The DEALER to one server, whose key proves every message.

    libzmq tells by its monitor when the connection is up, encrypted and admitted. Only then is anything written.
    (ZMQ_IMMEDIATE and ZMQ_PROBE_ROUTER would do both, but drop what has arrived when a connection ends.)
    """

    def __init__(self, socket: zmq.Socket[bytes], transport: ZeroMQTransport, identity: bytes, curve: bytes) -> None:
        self.identity, self.curve = identity, curve
        super().__init__(socket, transport)
        self._monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._loop.add_reader(self._monitor, self._watch)
        self._loop.call_soon(self._watch)

    def arrived(self, frames: list[zmq.Frame]) -> None:
        self.transport.put(Arrival(self.identity, self.curve, [frame.buffer for frame in frames]))

    def close(self, linger_ms: int) -> None:
        if not self.closed:
            self._loop.remove_reader(self._monitor)
            self.socket.disable_monitor()
            self._monitor.close(0)
            super().close(linger_ms)

    def _watch(self) -> None:
        if self.closed:
            return
        while int(self._monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
            self.connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self.connected:
                with contextlib.suppress(zmq.Again):  # full: then the messages in it say who we are
                    self.socket.send(b"", zmq.NOBLOCK)
                self.write()
                self.transport.up(self.identity)


class _Server(_Line):
    """The ROUTER, who may speak to it, and where they are."""

    def __init__(self, socket: zmq.Socket[bytes], transport: ZeroMQTransport, door: Door | None) -> None:
        self.door = door
        self.admitted: dict[str, bytes] = {}  # CURVE key in z85, as ZAP and ROUTER give it: identity
        self.keys: dict[bytes, str] = {}  # the other way round
        self.greeted: OrderedDict[bytes, str] = OrderedDict()
        self.guests: dict[str, float] = {}  # unknown key: when it was last heard
        self.routes: dict[str, tuple[bytes, bytes]] = {}  # routing id, CURVE key in 32 bytes
        self._tokens, self._filled = 0.0, float("-inf")
        super().__init__(socket, transport)
        self.connected = True  # to each peer that has a route

    def callback(self, domain: str, key: bytes) -> bool:
        """ZAP's question: may this key connect?"""
        name = key.decode("ascii")
        return name in self.admitted or self._guest(name)

    def prefix(self, to: bytes) -> list[bytes] | None:
        route = self.routes.get(self.keys.get(to) or self.greeted.get(to, ""))
        return None if route is None else [route[0]]

    def admit(self, identity: bytes, curve: bytes) -> None:
        name = z85.encode(curve).decode("ascii")
        if (old := self.keys.pop(identity, name)) != name:
            self.admitted.pop(old, None)
            self.routes.pop(old, None)
        self.keys[identity], self.admitted[name] = name, identity
        self.guests.pop(name, None)
        self.greeted.pop(identity, None)

    def greet(self, identity: bytes, curve: bytes) -> None:
        name = z85.encode(curve).decode("ascii")
        if name in self.guests:  # a member's own key goes before it, see `prefix`
            self.greeted[identity] = name
            self.greeted.move_to_end(identity)
            while self.door is not None and len(self.greeted) > self.door.peers:
                self.greeted.popitem(last=False)

    def arrived(self, frames: list[zmq.Frame]) -> None:
        route, parts = frames[0].bytes, frames[1:]
        name = str(parts[0].get("User-Id"))
        identity = self.admitted.get(name)
        if identity is None and not self._guest(name):
            return
        known = self.routes.get(name)
        if known is None or known[0] != route:
            known = self.routes[name] = (route, z85.decode(name))
        if len(parts) == 1 and len(parts[0]) == 0:
            return  # a fresh connection says whose it is
        if identity is None and not self._takes(sum(len(part) for part in parts)):
            return
        self.transport.put(Arrival(identity, known[1], [part.buffer for part in parts]))

    def _guest(self, name: str) -> bool:
        """Whether an unknown key has, or gets, one of the door's places."""
        if self.door is None:
            return False
        now = self._loop.time()
        if name not in self.guests and len(self.guests) >= self.door.peers:
            for other in [key for key, heard in self.guests.items() if now - heard > self.door.idle_s]:
                del self.guests[other]
                self.routes.pop(other, None)
            if len(self.guests) >= self.door.peers:
                return False
        self.guests[name] = now
        return True

    def _takes(self, size_bytes: int) -> bool:
        """Whether a message of an unknown peer is within the door's rate and size (a token bucket)."""
        assert self.door is not None
        now, door = self._loop.time(), self.door
        self._tokens = min(door.burst, self._tokens + (now - self._filled) * door.messages_per_s)
        self._filled = now
        if size_bytes > door.message_bytes or self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Admission(AsyncioAuthenticator):
    """Answers ZAP. A refusal is "temporary" (300): after a 400 libzmq's client would never try again."""

    def _send_zap_reply(
        self, request_id: bytes, status_code: bytes, status_text: bytes, user_id: str = "anonymous"
    ) -> None:
        status_code = b"200" if status_code == b"200" else b"300"
        super()._send_zap_reply(request_id, status_code, status_text, user_id)


class ZeroMQTransport:
    """A `Transport` over ZeroMQ.

    Args:
        curve_secret: the 32-byte CURVE key of this process.
        bind: "tcp://host:port" to listen at, "*" for any free port; empty for a process that only connects.
        door: lets unknown peers speak, within these bounds; None keeps them out.
        part_bytes: largest part that is received; libzmq closes a connection that sends a larger one.
        queue_bytes: most that may wait for one peer.
        upload_bytes_per_s: limit on what is sent; None for none.

    Attributes:
        sent_bytes: handed to connections so far.
    """

    def __init__(
        self,
        curve_secret: Secret,
        *,
        bind: str = "",
        door: Door | None = None,
        part_bytes: int = Limits().part_bytes,
        queue_bytes: int = QUEUE_BYTES,
        inbox_bytes: int = INBOX_BYTES,
        upload_bytes_per_s: float | None = None,
    ) -> None:
        if bind and not _ADDRESS.fullmatch(bind):
            raise Misused(701, f"cannot listen at {bind!r}", todo="Give an address like tcp://0.0.0.0:7700")
        self.queue_bytes = queue_bytes
        self.lost: Callable[[bytes, NotSent], None] = lambda to, error: None
        self.up: Callable[[bytes], None] = lambda to: None
        self._secret, self._bind, self._door = curve_secret, bind, door
        self._part_bytes, self._inbox_bytes = part_bytes, inbox_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._admission: _Admission | None = None
        self._server: _Server | None = None
        self._clients: dict[bytes, _Client] = {}
        self._inbox: deque[tuple[int, Arrival]] = deque()
        self._unread_bytes = 0
        self._arrival: asyncio.Future[None] | None = None
        self._flush: asyncio.Future[None] | None = None
        self._closed, self._address = False, ""
        self.sent_bytes = 0
        self._pace = None if upload_bytes_per_s is None else Pace(upload_bytes_per_s)
        self._paced: dict[_Line, None] = {}  # connections that wait for the limit, in turn
        self._next: _Line | None = None  # whose turn it is
        self._turn: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        """Where it listens, with the real port; empty if it only connects."""
        return self._address

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            Misused: E701.
        """
        if self._context is not None:
            return
        context = self._context = zmq.Context(1)
        if not self._bind:
            return
        socket = self._socket(zmq.ROUTER)
        socket.curve_server = True
        socket.set(zmq.ZAP_DOMAIN, _DOMAIN.encode())
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)  # no answer to ZAP, no connection
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        try:
            self._admission = _Admission(context)
            self._admission.start()
            self._server = _Server(socket, self, self._door)
            self._admission.configure_curve_callback(domain=_DOMAIN, credentials_provider=self._server)
            socket.bind(self._bind)
        except zmq.ZMQError as error:
            await self.close(0)
            raise _cannot_listen(self._bind, error) from None
        self._address = str(socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")

    def admit(self, identity: bytes, curve: bytes) -> None:
        """Let a client connect, under this identity."""
        if self._server is None:
            raise Misused(703, "a process that does not listen cannot admit peers")
        self._server.admit(identity, curve)

    def greet(self, identity: bytes, curve: bytes) -> None:
        """Make `send(identity, ...)` answer an unknown client."""
        if self._server is not None:
            self._server.greet(identity, curve)

    def connect(self, identity: bytes, curve: bytes, address: str) -> None:
        """Open and keep a connection to a server.

        Raises:
            Refused: E201, the address is not of the form "tcp://host:port".
        """
        if not _ADDRESS.fullmatch(address):
            raise Refused(201, f"address of {identity.hex()[:12]}", expected="tcp://host:port", actual=address)
        if (old := self._clients.pop(identity, None)) is not None:
            old.close(0)
        socket = self._socket(zmq.DEALER)
        socket.curve_serverkey = z85.encode(curve)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        # Watched before it connects: the handshake may be over at once, and is told only once.
        client = _Client(socket, self, identity, curve)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            client.close(0)
            raise Refused(201, f"address {address} of {identity.hex()[:12]}: {error.strerror}") from None
        self._clients[identity] = client

    def send(self, to: bytes, parts: Sequence[Buffer]) -> None:
        """Queue one message.

        Raises:
            NotSent: E208 or E213.
        """
        line: _Line | None = self._clients.get(to)
        if line is None and self._server is not None and self._server.prefix(to) is not None:
            line = self._server
        if line is None or line.closed:
            raise not_connected(to)
        line.enqueue(to, parts)

    async def receive(self) -> Arrival:
        """The next message, of any peer."""
        while not self._inbox:
            if self._closed:
                raise Failed(702, "this transport is closed")
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        was_full = self.full
        size_bytes, arrival = self._inbox.popleft()
        self._unread_bytes -= size_bytes
        if was_full and not self.full:
            for line in self._lines():
                line.schedule()
        return arrival

    async def close(self, flush_s: float = 2.0) -> None:
        """Send what is queued, for at most `flush_s` seconds, and end."""
        if self._closed or self._context is None:
            return
        self._closed = True
        if self._waiting() and flush_s > 0:
            self._flush = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._flush], timeout=flush_s)
        if self._turn is not None:
            self._turn.cancel()
        for line in self._lines():
            line.close(int(1000 * min(flush_s, 0.5)))
        if self._admission is not None:
            self._admission.stop()
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        # It returns when the last bytes are out or the sockets' linger time is over.
        await asyncio.get_running_loop().run_in_executor(None, self._context.term)

    @property
    def waiting_bytes(self) -> int:
        """What waits to be sent, to all peers. Threads beside the loop may ask: each list is copied in one step."""
        return sum(box.size_bytes for line in self._lines() for box in list(line.boxes.values()))

    @property
    def full(self) -> bool:
        """Whether the inbox is full, so that nothing more is read."""
        return self._unread_bytes >= self._inbox_bytes

    def put(self, arrival: Arrival) -> None:
        """Take in one message (called by a line)."""
        # Each message counts for something, so that their number is bounded too.
        size_bytes = 1024 + sum(memoryview(part).nbytes for part in arrival.parts)
        self._inbox.append((size_bytes, arrival))
        self._unread_bytes += size_bytes
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def flushed(self) -> None:
        """Hear that a line has nothing left to write (called by a line)."""
        if self._flush is not None and not self._flush.done() and not self._waiting():
            self._flush.set_result(None)

    def may_leave(self, line: _Line) -> bool:
        """Whether a large message may leave over this line now; if not, it is called when it may (called by a line)."""
        if self._pace is None:
            return True
        wait_s = self._pace.wait_s(asyncio.get_running_loop().time())
        if wait_s == 0 and (self._next is line or not (self._next or self._paced)):
            self._next = None
            return True
        self._paced[line] = None
        self._set_turn(wait_s)
        return False

    def left(self, size_bytes: int) -> None:
        """Take note of what left (called by a line)."""
        self.sent_bytes += size_bytes
        if self._pace is not None:
            self._pace.left(size_bytes, asyncio.get_running_loop().time())

    @property
    def paced(self) -> bool:
        """Whether there is an upload limit."""
        return self._pace is not None

    def _set_turn(self, wait_s: float) -> None:
        if self._turn is None and self._paced:
            self._turn = asyncio.get_running_loop().call_later(wait_s, self._next_turn)

    def _next_turn(self) -> None:
        """Let one line write, unless small messages have used up what there was; then come back for the others."""
        assert self._pace is not None
        loop, self._turn = asyncio.get_running_loop(), None
        if not self._pace.wait_s(loop.time()):
            self._next = next(iter(self._paced))
            del self._paced[self._next]
            self._next.write()  # does nothing while its connection is down: then it comes again by itself
            self._next = None
        self._set_turn(self._pace.wait_s(loop.time()))

    def _waiting(self) -> bool:
        return any(line.boxes for line in self._lines())

    def _lines(self) -> list[_Line]:
        return [*self._clients.values(), *([self._server] if self._server is not None else [])]

    def _socket(self, kind: zmq.SocketType) -> zmq.Socket[bytes]:
        """A socket with our CURVE key and every option that both sides share."""
        assert self._context is not None, "started"
        socket = self._context.socket(kind)
        secret = self._secret.reveal()
        socket.curve_secretkey = z85.encode(secret)
        socket.curve_publickey = z85.encode(crypto_scalarmult_base(secret))
        options = {
            zmq.SNDHWM: HIGH_WATER,
            zmq.RCVHWM: HIGH_WATER,
            zmq.SNDBUF: SOCKET_BUFFER_BYTES,
            zmq.RCVBUF: SOCKET_BUFFER_BYTES,
            zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
            zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS,
            zmq.HEARTBEAT_TTL: HEARTBEAT_TTL_MS,
            zmq.MAXMSGSIZE: self._part_bytes + CURVE_OVERHEAD_BYTES,
            zmq.LINGER: 0,
        }
        for option, value in options.items():
            socket.set(option, value)
        return socket


def _read(socket: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """Read one message that is there."""
    frames = [_Socket.recv(socket, _NOBLOCK, False)]
    while frames[-1].more:
        frames.append(_Socket.recv(socket, _NOBLOCK, False))
    return frames


def _write(socket: zmq.Socket[bytes], parts: list[Buffer | zmq.Frame]) -> None:
    """Write one message, or none of it: after its first part libzmq takes the others too."""
    for part in parts[:-1]:
        _Socket.send(socket, part, _NOBLOCK_MORE, False)
    _Socket.send(socket, parts[-1], _NOBLOCK, False)


def _sendable(part: Buffer) -> Buffer | zmq.Frame:
    """The frame itself where a part is a received frame's buffer: libzmq then passes a reference on."""
    if isinstance(part, memoryview):
        owner: object = part.obj
        if isinstance(owner, zmq.Frame) and len(owner) == part.nbytes:
            return owner
    return part


def _cannot_listen(address: str, error: zmq.ZMQError) -> Misused:
    port = address.rpartition(":")[2]
    todo = "Give an address of this machine."
    if error.errno == errno.EADDRINUSE:
        todo = f"Another process listens on port {port}. Stop it, or choose another port."
    elif error.errno == errno.EACCES:
        todo = "Ports below 1024 belong to the system: choose another one."
    return Misused(701, f"cannot listen at {address}: {error.strerror}", todo=todo)
