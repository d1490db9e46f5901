"""How many bytes a relay passes on for each second of its CPU time, CURVE included, and how much memory it takes.

Three processes: a sender, a relay that only forwards (no role, no checks of headers), a receiver. The relay has a
core of its own where there are two. Frames are 1024 x 256 words of 24 bits. The receiver gives a credit for each
frame it reads, as nodes do, so at most `UNDER_WAY` frames are between sender and receiver. The receiver comes
late: the relay holds that many frames at once, and its peak memory shows it.

    python tests/benchmarks/relay_throughput.py [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bars import Bar, report
from nacl.bindings import crypto_box_afternm, crypto_box_open_afternm

from interlock.protocols.net.zeromq import ZeroMQTransport
from interlock.protocols.wire import Buffer
from interlock.vault import Identity, Secret

FRAME_BYTES = 1024 * 256 * 3
ENVELOPE, HEADER, CREDIT = bytes(110), bytes(600), bytes(80)  # sizes as on the wire
UNDER_WAY = 64
TIMEOUT_S = 120.0
RELAY, SENDER, RECEIVER = b"relay" + bytes(27), b"sender" + bytes(26), b"receiver" + bytes(24)


@dataclass(frozen=True)
class Throughput:
    """Megabytes are 10**6 bytes.

    peak_megabytes: the relay's largest resident set. cipher_megabytes_a_cpu_second: frames that CURVE's cipher alone
    opens and seals again in a CPU second, measured in the relay's process right after: what no relay can pass, and
    how busy the machine is (other work slows both).
    """

    megabytes_a_cpu_second: float
    megabytes_a_second: float
    peak_megabytes: float
    cipher_megabytes_a_cpu_second: float


def measure(frames: int = 1500) -> Throughput:
    """Send frames through a relay in a process of its own and weigh it."""
    # Fresh interpreters: the relay's memory must not include what this process has imported.
    start = multiprocessing.get_context("spawn")
    keys = {name: Identity.generate() for name in (RELAY, SENDER, RECEIVER)}
    public = {name: key.curve_public for name, key in keys.items()}
    children: dict[bytes, tuple[Any, Connection]] = {}

    def begin(name: bytes, address: str) -> None:
        ours, theirs = start.Pipe()
        secret = keys[name].curve_secret.reveal()
        process = start.Process(target=_child, args=(name, theirs, secret, public, address, frames))
        process.start()
        children[name] = (process, ours)

    def hear(name: bytes) -> Any:
        """The child's next report; an error, not an endless wait, if it dies."""
        process, pipe = children[name]
        deadline = time.monotonic() + TIMEOUT_S
        while not pipe.poll(0.1):
            if not process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the {name.strip(bytes(1)).decode()} gave no result")
        return pipe.recv()

    try:
        begin(RELAY, "")
        address = hear(RELAY)
        begin(SENDER, address)
        hear(RELAY)  # it holds all frames that may be under way
        begin(RECEIVER, address)
        wall_s = hear(RECEIVER)
        cpu_s, peak_bytes, cipher_s = hear(RELAY)
        for name in (SENDER, RECEIVER, RELAY):
            children[name][1].send("end")
            children[name][0].join(10)
    finally:
        for process, _ in children.values():
            process.kill()
    size = frames * FRAME_BYTES / 1e6
    return Throughput(size / cpu_s, size / wall_s, peak_bytes / 1e6, FRAME_BYTES / 1e6 / cipher_s)


def _child(name: bytes, pipe: Connection, secret: bytes, public: dict[bytes, bytes], address: str, frames: int) -> None:
    """First function of each child process."""
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(0, cores[:1] if name == RELAY else cores[1:])
    transport = ZeroMQTransport(Secret(secret), bind="" if address else "tcp://127.0.0.1:*")

    async def main() -> None:
        await transport.start()
        if name == RELAY:
            for client in (SENDER, RECEIVER):
                transport.admit(client, public[client])
            await _relay(transport, pipe, frames)
        else:
            transport.connect(RELAY, public[RELAY], address)
            await (_send if name == SENDER else _receive)(transport, pipe, frames)
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await transport.close()

    asyncio.run(main())


async def _relay(transport: ZeroMQTransport, pipe: Connection, frames: int) -> None:
    """Pass frames one way and credits the other; hold the first frames until the receiver is there."""
    pipe.send(transport.address)
    began_s = time.process_time()
    held: list[Sequence[Buffer]] = []
    receiving, credits = False, 0
    while credits < frames:  # the last credit says that the last frame was read
        arrival = await transport.receive()
        if arrival.peer == RECEIVER and not receiving:
            receiving = True
            for parts in held:
                transport.send(RECEIVER, parts)
            held.clear()
        elif arrival.peer == RECEIVER:
            transport.send(SENDER, arrival.parts)
            credits += 1
        elif receiving:
            transport.send(RECEIVER, arrival.parts)
        else:
            held.append(arrival.parts)
            if len(held) == UNDER_WAY:
                pipe.send("held")
    cpu_s = time.process_time() - began_s
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    pipe.send((cpu_s, peak_bytes, _cipher_s()))


def _cipher_s(rounds: int = 100) -> float:
    """CPU seconds to open and seal one frame with XSalsa20-Poly1305, CURVE's cipher (CurveZMQ, ZeroMQ RFC 26)."""
    key, nonce = bytes(32), bytes(24)
    sealed = crypto_box_afternm(bytes(FRAME_BYTES), nonce, key)
    began_s = time.process_time()
    for _ in range(rounds):
        sealed = crypto_box_afternm(crypto_box_open_afternm(sealed, nonce, key), nonce, key)
    return (time.process_time() - began_s) / rounds


async def _send(transport: ZeroMQTransport, pipe: Connection, frames: int) -> None:
    words = memoryview(os.urandom(FRAME_BYTES))
    for sent in range(frames):
        if sent >= UNDER_WAY:
            await transport.receive()
        transport.send(RELAY, [ENVELOPE, HEADER, words])


async def _receive(transport: ZeroMQTransport, pipe: Connection, frames: int) -> None:
    transport.send(RELAY, [ENVELOPE, b"ready"])
    began_s = time.perf_counter()
    for _ in range(frames):
        arrival = await transport.receive()
        assert len(arrival.parts[2]) == FRAME_BYTES
        transport.send(RELAY, [ENVELOPE, CREDIT])
    pipe.send(time.perf_counter() - began_s)


def main() -> None:
    """Measure, print, and fail below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.frames)
    bars = [
        Bar("relay: CPU time to pass on 1 MB", 1e3 / found.megabytes_a_cpu_second, 2.5, "ms"),
        Bar("relay: peak memory, 64 frames under way", found.peak_megabytes, 150, "MB"),
    ]
    extra = {
        "MB a CPU second": round(found.megabytes_a_cpu_second),
        "MB a second": round(found.megabytes_a_second),
        "MB a CPU second of the cipher alone": round(found.cipher_megabytes_a_cpu_second),
    }
    report(bars, extra, as_json=arguments.json)


if __name__ == "__main__":
    main()
