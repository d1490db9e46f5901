"""An upload limit holds over any span of time, lets large messages pass, and is never a debt for long."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols.net.pace import BURST_S, CONTROL_BYTES, Pace
from interlock.protocols.net.virtual import run as run_virtual
from interlock.protocols.net.zeromq import ZeroMQTransport
from interlock.vault import Identity, Secret

MESSAGES = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5_000_000)), min_size=1, max_size=40)


@given(st.floats(1_000, 1e8), MESSAGES)
def test_no_span_of_time_sees_more_than_the_limit_a_burst_and_one_message(
    rate: float, messages: list[tuple[float, int]]
) -> None:
    pace, now, left = Pace(rate), 0.0, []
    for idle_s, size in messages:
        now += idle_s
        now += pace.wait_s(now)
        pace.left(size, now)
        left.append((now, size))
    for i, (began, _) in enumerate(left):
        for j in range(i, len(left)):
            sent = sum(size for _, size in left[i : j + 1])
            bound = rate * (left[j][0] - began + BURST_S) + left[j][1]
            assert sent <= bound * (1 + 1e-6) + 1


@given(st.floats(1_000, 1e8), st.lists(st.integers(1, 5_000_000), min_size=2, max_size=40))
def test_who_always_has_something_to_send_uses_all_of_it(rate: float, sizes: list[int]) -> None:
    pace, now = Pace(rate), 0.0
    for size in sizes:
        now += pace.wait_s(now)
        pace.left(size, now)
    assert now <= sum(sizes[:-1]) / rate * (1 + 1e-6) + 1e-6


def test_a_message_that_left_is_paid_for_before_the_next() -> None:
    pace = Pace(1000.0)
    assert pace.wait_s(0.0) == 0.0
    pace.left(1250, 0.0)  # 250 of them were free
    assert pace.wait_s(0.0) == 1.0
    assert pace.wait_s(0.75) == 0.25
    assert pace.wait_s(1.0) == 0.0


# --- over sockets ---


def identity(name: str) -> Identity:
    return Identity(Secret(hashlib.sha256(f"pace {name}".encode()).digest()))


def test_frames_wait_in_turn_and_control_messages_do_not_wait_for_frames_to_others() -> None:
    me, servers = identity("me"), {name: identity(name) for name in "ab"}
    frame = bytes(10 * CONTROL_BYTES)

    async def main() -> tuple[list[tuple[str, int]], float, int]:
        transport = ZeroMQTransport(me.curve_secret, upload_bytes_per_s=2_000_000.0)
        await transport.start()
        listening, heard = {}, []
        for name, server in servers.items():
            at = listening[name] = ZeroMQTransport(server.curve_secret, bind="tcp://127.0.0.1:*")
            await at.start()
            at.admit(me.public, me.curve_public)
            transport.connect(server.public, server.curve_public, at.address)
        loop = asyncio.get_running_loop()

        async def hear(name: str, count: int) -> None:
            for _ in range(count):
                arrival = await listening[name].receive()
                heard.append((name, len(memoryview(arrival.parts[0]))))

        for name in "ab":  # both are up
            transport.send(servers[name].public, [b"up"])
            await hear(name, 1)
        heard.clear()
        began = loop.time()
        for _ in range(6):
            transport.send(servers["a"].public, [frame])
        transport.send(servers["a"].public, [b"after the frames"])
        transport.send(servers["b"].public, [b"at once"])
        transport.send(servers["b"].public, [frame])
        await asyncio.wait_for(asyncio.gather(hear("a", 7), hear("b", 2)), 30)
        took = loop.time() - began
        for each in (transport, *listening.values()):
            await each.close(0)
        return heard, took, transport.sent_bytes

    heard, took, sent = asyncio.run(main())
    assert [size for name, size in heard if name == "a"] == [len(frame)] * 6 + [16]  # in the order sent
    assert [size for name, size in heard if name == "b"] == [7, len(frame)]
    position = {entry: at for at, entry in enumerate(heard)}
    assert position["b", 7] <= 4  # some frames went at once, the small one right after them
    assert position["b", len(frame)] < len(heard) - 2  # its turn came before all of the others' frames
    assert sent == 7 * len(frame) + 16 + 7 + 4
    assert took >= (6 * len(frame) - 2_000_000 * BURST_S) / 2_000_000  # the last one paid for waits for nobody


def test_a_server_sends_to_each_peer_in_turn() -> None:
    me, peers = identity("server"), {name: identity(name) for name in "ab"}
    frame = bytes(10 * CONTROL_BYTES)

    async def main() -> list[str]:
        server = ZeroMQTransport(me.curve_secret, bind="tcp://127.0.0.1:*", upload_bytes_per_s=1_000_000.0)
        await server.start()
        there, heard = {}, []
        for name, peer in peers.items():
            at = there[name] = ZeroMQTransport(peer.curve_secret)
            await at.start()
            server.admit(peer.public, peer.curve_public)
            at.connect(me.public, me.curve_public, server.address)
            at.send(me.public, [b"up"])
            await server.receive()
        for name in "aaaab":
            server.send(peers[name].public, [frame])

        async def hear(name: str, count: int) -> None:
            for _ in range(count):
                await there[name].receive()
                heard.append(name)

        await asyncio.wait_for(asyncio.gather(hear("a", 4), hear("b", 1)), 30)
        for each in (server, *there.values()):
            await each.close(0)
        return heard

    heard = asyncio.run(main())
    assert heard.index("b") < 4  # not behind all that was queued before for another


class Line:
    """A connection with `count` large messages to write."""

    def __init__(self, name: str, count: int, transport: ZeroMQTransport, written: list[tuple[str, float]]) -> None:
        self.name, self.count, self._transport, self._written = name, count, transport, written

    def write(self) -> None:
        line: Any = self
        while self.count and self._transport.may_leave(line):
            self.count -= 1
            self._transport.left(100_000)
            self._written.append((self.name, asyncio.get_running_loop().time()))


def test_nobody_overtakes_those_who_wait_for_the_limit() -> None:
    written: list[tuple[str, float]] = []

    async def main() -> None:
        transport = ZeroMQTransport(identity("me").curve_secret, upload_bytes_per_s=100_000.0)
        a, b = Line("a", 1, transport, written), Line("b", 2, transport, written)

        def says_more() -> None:
            a.count = 1
            a.write()

        # At the very moment when b's turn comes, and before it is told.
        asyncio.get_running_loop().call_later(0.75, says_more)
        a.write()
        b.write()
        await asyncio.sleep(10)

    run_virtual(main(), seconds_max=100)
    assert written == [("a", 0.0), ("b", 0.75), ("a", 1.75), ("b", 2.75)]
