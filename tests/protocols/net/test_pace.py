"""An upload limit holds over any span of time, lets large messages pass, and is never a debt for long."""

from __future__ import annotations

import asyncio
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols.net.pace import BURST_S, CONTROL_BYTES, Pace
from interlock.protocols.net.zeromq import ZeroMQTransport
from interlock.vault import Identity, Secret

MESSAGES = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5_000_000)), min_size=1, max_size=40)


@given(st.floats(1_000, 1e8), MESSAGES)
def test_no_span_of_time_sees_more_than_the_limit_a_burst_and_one_message(
    rate: float, messages: list[tuple[float, int]]
) -> None:
    pace, now, left = Pace(rate, 0.0), 0.0, []
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
    pace, now = Pace(rate, 0.0), 0.0
    for size in sizes:
        now += pace.wait_s(now)
        pace.left(size, now)
    assert now <= sum(sizes[:-1]) / rate * (1 + 1e-6) + 1e-6


def test_a_message_that_left_is_paid_for_before_the_next() -> None:
    pace = Pace(1000.0, 0.0)
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
