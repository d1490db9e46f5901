"""A whole run in one process: real roles and the real engine over the simulated transport in virtual time."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

from interlock.protocols import corpus, messages
from interlock.protocols.coordinator import Coordinator, RunEnded
from interlock.protocols.effects import Event
from interlock.protocols.gate import Gate
from interlock.protocols.manifest import Committee, Keyholder, Manifest, Model, Training
from interlock.protocols.members import Invitation, make_invitation
from interlock.protocols.net.runner import MemoryStore, Runner, SimulatedWorker, ThreadWorker
from interlock.protocols.net.simulated import Network, SimulatedTransport, Verdict, in_order
from interlock.protocols.net.virtual import run as run_virtual
from interlock.protocols.net.zeromq import Door, ZeroMQTransport
from interlock.protocols.node import Node
from interlock.protocols.relay import Relay
from interlock.protocols.service.engine import Engine
from interlock.vault import Identity, Secret


def identity(name: str) -> Identity:
    """The identity of a test process, fixed by its name."""
    return Identity(Secret(hashlib.sha256(f"test identity {name}".encode()).digest()))


class Draws:
    """Random bytes of one test process, fixed by its name."""

    def __init__(self, name: str) -> None:
        self._name, self._count = name, 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._name} {self._count}".encode()).digest(size)


TEXT = b"".join(b"line %d: the quick brown fox jumps over %d lazy dogs\n" % (i, i * i % 97) for i in range(1200))


def text() -> corpus.Corpus:
    """A small corpus."""
    return corpus.Corpus(TEXT[:50_000], TEXT[50_000:54_000])


def manifest(**changes: Any) -> Manifest:
    """A small run: 3 stages x 2 replicas, 3 keyholders, 2 relays."""
    training = dict(
        rounds=4, epoch_rounds=2, microbatches=4, rows=2, rate=0.02, warmup=0, decay=2, evaluate_every=0
    ) | changes.pop("training", {})
    committee = dict(release=2, halt=2, resume=3, lying=0) | changes.pop("committee", {})
    keyholders = tuple(Keyholder(name=n, key=identity(n).public) for n in ("ada", "bela", "cleo"))
    fields: dict[str, Any] = dict(
        version=1,
        name="test",
        nonce=bytes(16),
        coordinator=identity("coordinator").public,
        committee=Committee(keyholders=keyholders, **committee),
        model=Model(width=16, heads=2, layers_per_stage=1, hidden=32, mlp="relu2", context=16),
        stages=3,
        replicas=2,
        relays=2,
        data=corpus.describe(corpus.index(text())),
        training=Training(**training),
        admission="invited",
        release="automatic",
        frame_width=24,
        frame_fraction=12,
        gradient_exponent=-10,
    )
    made = Manifest(**(fields | changes))
    made.verify()
    return made


@dataclass
class Run:
    """What is left of a run."""

    manifest: Manifest
    stores: dict[str, MemoryStore] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)
    engines: dict[str, Engine] = field(default_factory=dict)
    runners: dict[str, Runner] = field(default_factory=dict)
    network: Network = field(default_factory=Network)

    def seen(self, kind: type[Event]) -> list[Any]:
        """All events of a kind, of all processes."""
        return [event for events in self.events.values() for event in events if isinstance(event, kind)]


def play(
    made: Manifest,
    *,
    verdict: Verdict = in_order,
    network: type[Network] = Network,
    relay: type[Relay] = Relay,
    engine: type[Engine] = Engine,
    seconds_max: float = 3000.0,
) -> Run:
    """Play a run to its end over the simulated transport in virtual time.

    Args:
        network, relay, engine: other classes, for runs in which somebody does not keep to the protocol.
    """
    result = Run(made, network=network(verdict))
    run_virtual(_play(result, _Simulated(result.network), relay, engine), seconds_max=seconds_max)
    return result


def play_zeromq(made: Manifest, *, seconds_max: float = 120.0) -> Run:
    """Play a run over ZeroMQ on loopback: every role has its own sockets and worker thread, in this process."""
    result = Run(made)
    asyncio.run(asyncio.wait_for(_play(result, _ZeroMQ(made)), seconds_max))
    return result


class _Simulated:
    """Transports and workers in virtual time."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def transport(self, who: Identity, *, serves: str, door: bool) -> Any:
        bind = f"sim://{serves}" if serves else ""
        transport = SimulatedTransport(self._network, who.public, who.curve_public, bind=bind, open_door=door)
        await transport.start()
        return transport

    def worker(self, compute: Any) -> Any:
        return SimulatedWorker(compute, lambda job: 0.01)


class _ZeroMQ:
    """Real sockets and threads."""

    def __init__(self, made: Manifest) -> None:
        self._part_bytes = messages.limits(made).part_bytes

    async def transport(self, who: Identity, *, serves: str, door: bool) -> Any:
        bind = "tcp://127.0.0.1:*" if serves else ""
        transport = ZeroMQTransport(
            who.curve_secret, bind=bind, door=Door() if door else None, part_bytes=self._part_bytes
        )
        await transport.start()
        return transport

    def worker(self, compute: Any) -> Any:
        return ThreadWorker(compute)


async def _play(
    result: Run, world: _Simulated | _ZeroMQ, a_relay: type[Relay] = Relay, an_engine: type[Engine] = Engine
) -> None:
    made = result.manifest
    ended = asyncio.get_running_loop().create_future()
    whole, keyholder, coordinator = text(), identity("ada"), identity("coordinator")
    index = corpus.index(whole)
    where = ""

    async def start(name: str, make: Any, kinds: Any, *, serves: str = "", door: Any = None, engine: Any = None) -> str:
        who = identity(name)
        transport = await world.transport(who, serves=serves, door=door is not None)
        if where:
            transport.connect(coordinator.public, coordinator.curve_public, where)
        events = result.events.setdefault(name, [])

        def observe(event: Event) -> None:
            events.append(event)
            if isinstance(event, RunEnded) and not ended.done():
                ended.set_result(None)

        result.runners[name] = Runner(
            make(transport.address),
            transport,
            run=made.run,
            signer=who,
            kinds=kinds,
            door_kinds=door,
            limits=messages.limits(made),
            store=result.stores.setdefault(name, MemoryStore()),
            worker=world.worker(engine or (lambda job: None)),
            draw=Draws(name),
            observe=observe,
            clock=lambda: 0.0,
        )
        return str(transport.address)

    def invitation(name: str, role: Any) -> Invitation:
        return make_invitation(keyholder, run=made.run, role=role, label=name, nonce=Draws(name + "i")(16))

    where = await start(
        "coordinator",
        lambda _: Coordinator(coordinator, made, index=index, chunk=lambda n: corpus.chunk(whole, n)),
        messages.BY_COORDINATOR,
        serves="coordinator",
        door=messages.BY_STRANGERS,
    )
    for name in ("ada", "bela", "cleo"):
        await start(name, lambda _, n=name: Gate(identity(n), made, operator=n), messages.BY_GATE)
    for name in [f"relay{i}" for i in range(made.relays)]:

        def relay(address: str, n: str = name) -> Relay:
            return a_relay(identity(n), made, operator=n, address=address, invitation=invitation(n, "relay"))

        await start(name, relay, messages.BY_RELAY, serves=name)
    for name in [f"node{i}" for i in range(made.stages * made.replicas)]:
        engine = result.engines[name] = an_engine(made, clock=lambda: 0.0)

        def node(_: str, n: str = name) -> Node:
            return Node(identity(n), made, operator=n, invitation=invitation(n, "node"))

        await start(name, node, messages.BY_NODE, engine=engine)
    tasks = [asyncio.ensure_future(runner.run(flush_s=0.1)) for runner in result.runners.values()]
    await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
    for runner in result.runners.values():
        runner.interrupt("leave")
    await asyncio.gather(*tasks)
