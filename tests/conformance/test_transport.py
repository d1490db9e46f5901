"""Every transport keeps the promises of `protocols.net.transport`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Protocol

import pytest
import zmq
from zmq.utils import z85

from interlock.protocols.errors import Failed, Misused, Refused
from interlock.protocols.net import virtual
from interlock.protocols.net.simulated import Network, SimulatedTransport
from interlock.protocols.net.transport import NotSent, Transport
from interlock.protocols.net.zeromq import Door, ZeroMQTransport
from interlock.vault import Identity, Secret

QUEUE_BYTES = 10 << 20
PATIENCE_S = 20.0


class World(Protocol):
    """Makes transports of one kind and runs a test on its loop."""

    def make(self, who: Identity, *, bind: str = "", open_door: bool = False) -> Transport: ...

    def run(self, main: Coroutine[Any, Any, None]) -> None: ...


class Simulated:
    def __init__(self) -> None:
        self.network = Network()

    def make(self, who: Identity, *, bind: str = "", open_door: bool = False) -> Transport:
        return SimulatedTransport(
            self.network, who.public, who.curve_public, bind=bind, open_door=open_door, queue_bytes=QUEUE_BYTES
        )

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        virtual.run(main)


class ZeroMQ:
    def make(self, who: Identity, *, bind: str = "", open_door: bool = False) -> Transport:
        door = Door() if open_door else None
        return ZeroMQTransport(who.curve_secret, bind=bind, door=door, queue_bytes=QUEUE_BYTES)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        asyncio.run(main)


@pytest.fixture(params=[Simulated, ZeroMQ], ids=["simulated", "zeromq"])
def world(request: pytest.FixtureRequest) -> World:
    made: World = request.param()
    return made


def identity(number: int) -> Identity:
    return Identity(Secret(hashlib.sha256(f"identity {number}".encode()).digest()))


SERVER, CLIENT, OTHER = identity(0), identity(1), identity(2)
ANYWHERE = "tcp://127.0.0.1:*"


class Cast:
    """Transports of one test, closed at its end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.made: list[Transport] = []

    async def server(self, *, bind: str = ANYWHERE, open_door: bool = False) -> Transport:
        return await self._start(self.world.make(SERVER, bind=bind, open_door=open_door))

    async def client(self, who: Identity, server: Transport, *, of: Identity = SERVER) -> Transport:
        client = await self._start(self.world.make(who))
        client.connect(SERVER.public, of.curve_public, server.address)
        return client

    async def _start(self, transport: Transport) -> Transport:
        self.made.append(transport)
        await transport.start()
        return transport

    async def close(self) -> None:
        for transport in self.made:
            await transport.close(0)


def play(world: World, scene: Callable[[Cast], Awaitable[None]]) -> None:
    async def main() -> None:
        cast = Cast(world)
        try:
            await asyncio.wait_for(scene(cast), PATIENCE_S)
        finally:
            await cast.close()

    world.run(main())


async def take(transport: Transport) -> tuple[bytes | None, list[bytes]]:
    """The next message, copied."""
    arrival = await transport.receive()
    return arrival.peer, [bytes(part) for part in arrival.parts]


async def introduce(server: Transport, client: Transport, who: Identity) -> None:
    """Exchange a message each way, so that both sides know the connection is up."""
    client.send(SERVER.public, [b"hello"])
    assert await take(server) == (who.public, [b"hello"])
    server.send(who.public, [b"welcome"])
    assert await take(client) == (SERVER.public, [b"welcome"])


def test_messages_of_a_link_arrive_in_order(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(CLIENT, server)
        sent = [[b"%d" % n, bytes(n), b""] for n in range(500)]
        for parts in sent:
            client.send(SERVER.public, parts)
        for parts in sent:
            assert await take(server) == (CLIENT.public, parts)
        for parts in sent:
            server.send(CLIENT.public, parts)
        for parts in sent:
            assert await take(client) == (SERVER.public, parts)

    play(world, scene)


def test_large_blobs_arrive_whole(world: World) -> None:
    blob = bytes(range(256)) * (8 << 12)
    assert len(blob) == 8 << 20

    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(CLIENT, server)
        client.send(SERVER.public, [b"up", memoryview(blob)])
        arrival = await server.receive()
        server.send(CLIENT.public, arrival.parts)  # passed on as it came
        peer, parts = await take(client)
        assert peer == SERVER.public
        assert parts[0] == b"up"
        assert parts[1] == blob

    play(world, scene)


def test_a_server_answers_each_of_many_peers_by_identity(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        crowd = [identity(100 + n) for n in range(20)]
        clients = {}
        for who in crowd:
            server.admit(who.public, who.curve_public)
            clients[who.public] = await cast.client(who, server)
            clients[who.public].send(SERVER.public, [who.public])
        for _ in crowd:
            peer, parts = await take(server)
            assert parts == [peer]
            assert peer is not None
            server.send(peer, [b"for", peer])
        for name, client in clients.items():
            assert await take(client) == (SERVER.public, [b"for", name])

    play(world, scene)


def test_sending_to_an_unknown_peer_is_an_error(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(OTHER, server)
        for transport, to in ((server, OTHER), (server, CLIENT), (client, CLIENT)):
            with pytest.raises(NotSent) as caught:
                transport.send(to.public, [b"lost"])
            assert caught.value.number == 208

    play(world, scene)


def test_a_peer_that_was_not_admitted_is_heard_once_it_is(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        early = await cast.client(OTHER, server)
        early.send(SERVER.public, [b"early"])
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(CLIENT, server)
        await introduce(server, client, CLIENT)  # the first thing the server hears
        server.admit(OTHER.public, OTHER.curve_public)
        assert await take(server) == (OTHER.public, [b"early"])

    play(world, scene)


def test_a_client_sends_nothing_to_a_server_with_another_key(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server(open_door=True)
        deceived = await cast.client(OTHER, server, of=CLIENT)
        deceived.send(SERVER.public, [b"secret"])
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(CLIENT, server)
        await introduce(server, client, CLIENT)

    play(world, scene)


def test_an_open_door_lets_unknown_peers_speak_without_a_name(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server(open_door=True)
        client = await cast.client(CLIENT, server)
        client.send(SERVER.public, [b"may I"])
        arrival = await server.receive()
        assert (arrival.peer, arrival.curve) == (None, CLIENT.curve_public)
        with pytest.raises(NotSent):
            server.send(CLIENT.public, [b"who"])
        server.greet(CLIENT.public, arrival.curve)
        server.send(CLIENT.public, [b"you may"])
        assert await take(client) == (SERVER.public, [b"you may"])
        server.admit(CLIENT.public, CLIENT.curve_public)
        await introduce(server, client, CLIENT)  # the same connection, now with a name

    play(world, scene)


def test_an_unknown_peer_cannot_take_a_members_answers(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server(open_door=True)
        server.admit(CLIENT.public, CLIENT.curve_public)
        thief = await cast.client(OTHER, server)
        thief.send(SERVER.public, [b"I am the client"])
        arrival = await server.receive()
        client = await cast.client(CLIENT, server)
        server.greet(CLIENT.public, arrival.curve)
        await introduce(server, client, CLIENT)

    play(world, scene)


def test_a_client_reconnects_to_a_restarted_server(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(CLIENT, server)
        await introduce(server, client, CLIENT)
        await server.close()
        again = await cast.server(bind=server.address)
        again.admit(CLIENT.public, CLIENT.curve_public)
        # What was on its way into the old connection may be lost; repeat, as protocols do.
        answer = asyncio.ensure_future(take(again))
        while not answer.done():
            client.send(SERVER.public, [b"still here"])
            await asyncio.wait([answer], timeout=0.1)
        assert answer.result() == (CLIENT.public, [b"still here"])
        again.send(CLIENT.public, [b"welcome back"])
        assert await take(client) == (SERVER.public, [b"welcome back"])

    play(world, scene)


def test_a_client_is_told_whenever_its_connection_has_come_up() -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(CLIENT, server)
        told: list[bytes] = []
        client.up = told.append
        await introduce(server, client, CLIENT)
        await server.close()
        again = await cast.server(bind=server.address)
        again.admit(CLIENT.public, CLIENT.curve_public)
        before = len(told)
        answer = asyncio.ensure_future(take(again))
        while not answer.done():
            client.send(SERVER.public, [b"still here"])
            await asyncio.wait([answer], timeout=0.1)
        assert told == [SERVER.public] * (before + 1)

    play(ZeroMQ(), scene)


def test_a_second_connection_to_a_peer_replaces_the_first(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(CLIENT, server, of=OTHER)  # expects another key there
        client.connect(SERVER.public, SERVER.curve_public, server.address)
        await introduce(server, client, CLIENT)

    play(world, scene)


def test_a_restarted_client_is_answered_at_its_new_connection(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        for _ in range(3):
            client = await cast.client(CLIENT, server)
            await introduce(server, client, CLIENT)
            await client.close()

    play(world, scene)


def test_what_a_server_sends_to_a_peer_that_left_is_not_lost_silently(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(CLIENT, server)
        await introduce(server, client, CLIENT)
        told: list[tuple[bytes, int]] = []
        server.lost = lambda peer, error: told.append((peer, error.number))
        await client.close()
        try:
            while not told:
                server.send(CLIENT.public, [b"gone"])
                await asyncio.sleep(0)  # the other callbacks' turn
        except NotSent as error:
            told.append((CLIENT.public, error.number))
        assert told == [(CLIENT.public, 208)]

    play(world, scene)


def test_a_full_queue_is_an_error_and_nothing_of_it_is_lost(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        client = await cast.client(CLIENT, server)  # not admitted: everything waits
        sent = QUEUE_BYTES // (1 << 20) - 1  # their first parts need a few bytes too
        for n in range(sent):
            client.send(SERVER.public, [b"%d" % n, bytes(1 << 20)])
        with pytest.raises(NotSent) as caught:
            client.send(SERVER.public, [b"one too many", bytes(1 << 20)])
        assert caught.value.number == 213
        server.admit(CLIENT.public, CLIENT.curve_public)
        for n in range(sent):
            assert (await take(server))[1][0] == b"%d" % n
        for _ in range(sent):
            client.send(SERVER.public, [b"room again", bytes(1 << 20)])
            assert (await take(server))[1][0] == b"room again"

    play(world, scene)


def test_closing_sends_what_is_queued(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        client = await cast.client(CLIENT, server)
        await introduce(server, client, CLIENT)
        for n in range(400):
            client.send(SERVER.public, [b"%d" % n, bytes(20_000)])
        closing = asyncio.ensure_future(client.close(PATIENCE_S))
        for n in range(400):
            assert (await take(server))[1][0] == b"%d" % n
        await closing

    play(world, scene)


def test_a_closing_servers_last_words_arrive(world: World) -> None:
    async def scene(cast: Cast) -> None:
        for _ in range(10):
            server = await cast.server()
            server.admit(CLIENT.public, CLIENT.curve_public)
            client = await cast.client(CLIENT, server)
            await introduce(server, client, CLIENT)
            for n in range(3):
                server.send(CLIENT.public, [b"%d" % n, bytes(100_000)])
            await server.close()
            for n in range(3):
                assert (await take(client))[1][0] == b"%d" % n
            await client.close()

    play(world, scene)


def test_a_closed_transport_sends_and_hears_nothing(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        client = await cast.client(CLIENT, server)
        waiting = asyncio.ensure_future(client.receive())
        await asyncio.wait([waiting], timeout=0.01)
        await client.close(0)
        with pytest.raises(Failed):
            await waiting
        with pytest.raises(NotSent):
            client.send(SERVER.public, [b"late"])
        await client.close()

    play(world, scene)


def test_an_address_in_use_names_the_port(world: World) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        with pytest.raises(Misused) as caught:
            await cast.server(bind=server.address)
        assert caught.value.number == 701
        assert server.address.rpartition(":")[2] in caught.value.todo

    play(world, scene)


def test_only_servers_admit(world: World) -> None:
    async def scene(cast: Cast) -> None:
        client = await cast.client(CLIENT, await cast.server())
        with pytest.raises(Misused):
            client.admit(OTHER.public, OTHER.curve_public)

    play(world, scene)


# What only real sockets can get wrong.


@pytest.fixture
def dealer() -> Iterator[zmq.Socket[bytes]]:
    """A socket of somebody else's making."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = context.socket(zmq.DEALER)
    yield made
    made.close(0)
    context.term()


def test_plain_sockets_get_nothing(dealer: zmq.Socket[bytes]) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server(open_door=True)
        server.admit(CLIENT.public, CLIENT.curve_public)
        dealer.connect(server.address)
        dealer.send(b"no key")
        host, _, port = server.address.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client = await cast.client(CLIENT, server)
            await introduce(server, client, CLIENT)  # the first thing the server hears
            server.send(CLIENT.public, [b"private"])
            assert await take(client) == (SERVER.public, [b"private"])
            raw.settimeout(5)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := raw.recv(4096):  # the server's greeting, then it hangs up
                    answer += chunk
            assert b"private" not in answer
        assert not dealer.poll(0)

    play(ZeroMQ(), scene)


def test_a_client_cannot_choose_its_name_by_routing_id(dealer: zmq.Socket[bytes]) -> None:
    async def scene(cast: Cast) -> None:
        server = await cast.server()
        server.admit(CLIENT.public, CLIENT.curve_public)
        server.admit(OTHER.public, OTHER.curve_public)
        dealer.curve_secretkey = z85.encode(OTHER.curve_secret.reveal())
        dealer.curve_publickey = z85.encode(OTHER.curve_public)
        dealer.curve_serverkey = z85.encode(SERVER.curve_public)
        dealer.set(zmq.ROUTING_ID, CLIENT.public)
        dealer.connect(server.address)
        dealer.send(b"mine")
        assert await take(server) == (OTHER.public, [b"mine"])
        with pytest.raises(NotSent):
            server.send(CLIENT.public, [b"not for another"])

    play(ZeroMQ(), scene)


def test_the_door_bounds_rate_and_size() -> None:
    async def scene(cast: Cast) -> None:
        door = Door(messages_per_s=0.001, burst=2, message_bytes=100)
        server = ZeroMQTransport(SERVER.curve_secret, bind=ANYWHERE, door=door)
        cast.made.append(server)
        await server.start()
        server.admit(CLIENT.public, CLIENT.curve_public)
        unknown = await cast.client(OTHER, server)
        unknown.send(SERVER.public, [bytes(100)])
        assert await take(server) == (None, [bytes(100)])
        unknown.send(SERVER.public, [bytes(101)])  # too large
        unknown.send(SERVER.public, [b"in time"])
        unknown.send(SERVER.public, [b"too soon"])
        assert await take(server) == (None, [b"in time"])
        member = await cast.client(CLIENT, server)
        await introduce(server, member, CLIENT)

    play(ZeroMQ(), scene)


def test_the_door_bounds_the_number_of_unknown_keys() -> None:
    async def scene(cast: Cast) -> None:
        server = ZeroMQTransport(SERVER.curve_secret, bind=ANYWHERE, door=Door(peers=2))
        cast.made.append(server)
        await server.start()
        server.admit(CLIENT.public, CLIENT.curve_public)
        for who in (identity(10), identity(11)):
            unknown = await cast.client(who, server)
            unknown.send(SERVER.public, [b"there is room"])
            assert await take(server) == (None, [b"there is room"])
        third = await cast.client(identity(12), server)
        third.send(SERVER.public, [b"there is none"])
        for _ in range(5):  # each a handshake begun after the third's
            member = await cast.client(CLIENT, server)
            await introduce(server, member, CLIENT)
            await member.close(0)

    play(ZeroMQ(), scene)


def test_a_part_above_the_limit_never_arrives() -> None:
    async def scene(cast: Cast) -> None:
        server = ZeroMQTransport(SERVER.curve_secret, bind=ANYWHERE, part_bytes=1000)
        cast.made.append(server)
        await server.start()
        for who in (CLIENT, OTHER):
            server.admit(who.public, who.curve_public)
        client, other = await cast.client(CLIENT, server), await cast.client(OTHER, server)
        client.send(SERVER.public, [bytes(1000)])
        assert await take(server) == (CLIENT.public, [bytes(1000)])
        client.send(SERVER.public, [bytes(1100)])
        other.send(SERVER.public, [b"small"])
        assert await take(server) == (OTHER.public, [b"small"])

    play(ZeroMQ(), scene)


@pytest.mark.parametrize("address", ["ipc:///tmp/x", "inproc://x", "tcp://127.0.0.1:*", "tcp://a;tcp://b:1", ""])
def test_only_tcp_addresses_are_connected_to(address: str) -> None:
    async def scene(cast: Cast) -> None:
        client = ZeroMQTransport(CLIENT.curve_secret)
        cast.made.append(client)
        await client.start()
        with pytest.raises(Refused):
            client.connect(SERVER.public, SERVER.curve_public, address)

    play(ZeroMQ(), scene)


def test_a_verdict_drops_doubles_and_delays() -> None:
    fates = {0: [], 1: [0.5, 0.5], 2: [0.1]}

    async def main() -> None:
        network = Network(lambda source, destination, ordinal: fates[ordinal])
        server = SimulatedTransport(network, SERVER.public, SERVER.curve_public, bind=ANYWHERE)
        client = SimulatedTransport(network, CLIENT.public, CLIENT.curve_public)
        await server.start()
        await client.start()
        server.admit(CLIENT.public, CLIENT.curve_public)
        client.connect(SERVER.public, SERVER.curve_public, server.address)
        for n in range(3):
            reused = bytearray(b"%d" % n)
            client.send(SERVER.public, [memoryview(reused)])
            reused[0] = 0
        heard = [((await take(server))[1], asyncio.get_running_loop().time()) for _ in range(3)]
        assert heard == [([b"2"], 0.1), ([b"1"], 0.5), ([b"1"], 0.5)]

    virtual.run(main())
