"""The runner carries out effects in order, survives its peers' faults and ends on its own."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from interlock.protocols import effects as fx
from interlock.protocols.canonical import Message
from interlock.protocols.effects import After, Announce, Blob, Draw, Effects, Event, Send, Stop, Store, Work
from interlock.protocols.errors import Failed, Misused, Refused
from interlock.protocols.net import virtual
from interlock.protocols.net.runner import (
    REFUSALS_A_WINDOW,
    WINDOW_S,
    MemoryStore,
    Refusal,
    Runner,
    SimulatedWorker,
    ThreadWorker,
    Worker,
)
from interlock.protocols.net.simulated import Network, SimulatedTransport, Verdict, in_order
from interlock.protocols.net.transport import Transport
from interlock.protocols.net.zeromq import Door, ZeroMQTransport
from interlock.protocols.wire import Limits, pack
from interlock.vault import Identity, Secret

RUN = hashlib.sha256(b"run").digest()


def identity(number: int) -> Identity:
    return Identity(Secret(hashlib.sha256(b"%d" % number).digest()))


SERVER, CLIENT, OTHER = identity(0), identity(1), identity(2)
ANYWHERE = "tcp://127.0.0.1:*"


class Ping(Message, frozen=True, array_like=True, kw_only=True):
    number: int


class Pong(Message, frozen=True, array_like=True, kw_only=True):
    number: int


class Join(Message, frozen=True, array_like=True, kw_only=True):
    curve: bytes


class Said(Event, frozen=True, tag=True, kw_only=True):
    what: str


KINDS = Ping | Pong


class Scripted:
    """A role whose answer to each input is given as a function; everything else has no effect."""

    def __init__(self, **answers: Callable[..., Effects]) -> None:
        self.answers = answers

    def _answer(self, kind: str, *arguments: Any) -> Effects:
        return self.answers[kind](*arguments) if kind in self.answers else []

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        return self._answer("restore", stored)

    def on_message(self, source: bytes, message: Message, blobs: tuple[Blob, ...]) -> Effects:
        return self._answer("message", source, message, blobs)

    def on_timer(self, name: str) -> Effects:
        return self._answer("timer", name)

    def on_done(self, job: Any, result: Any) -> Effects:
        return self._answer("done", job, result)

    def on_drawn(self, name: str, data: bytes) -> Effects:
        return self._answer("drawn", name, data)


def say(what: object) -> Announce:
    return Announce(Said(what=str(what)))


class Stage:
    """Makes runners on one simulated network; `heard` has what all of them announced, with times."""

    def __init__(self, verdict: Verdict = in_order) -> None:
        self.network = Network(verdict)
        self.heard: list[tuple[float, Event]] = []

    def transport(self, who: Identity, *, bind: str = "", open_door: bool = False) -> SimulatedTransport:
        return SimulatedTransport(self.network, who.public, who.curve_public, bind=bind, open_door=open_door)

    def runner(self, role: fx.Role, who: Identity = CLIENT, **changes: Any) -> Runner:
        arguments: dict[str, Any] = {
            "transport": changes.pop("transport", None) or self.transport(who),
            "run": RUN,
            "signer": who,
            "kinds": KINDS,
            "limits": Limits(),
            "store": MemoryStore(),
            "worker": SimulatedWorker(lambda job: job),
            "draw": bytes,
            "observe": self.observe,
            "clock": lambda: 1e9,
        }
        return Runner(role, **(arguments | changes))

    def observe(self, event: Event) -> None:
        self.heard.append((asyncio.get_running_loop().time(), event))

    @property
    def said(self) -> list[str]:
        return [event.what for _, event in self.heard if isinstance(event, Said)]


def perform(role: fx.Role, stage: Stage | None = None, **changes: Any) -> Stage:
    """Run one role alone, in virtual time, to its end."""
    stage = stage or Stage()
    virtual.run(stage.runner(role, **changes).run(), seconds_max=1e6)
    return stage


# Effects.


def test_effects_are_carried_out_in_order_and_none_after_stop() -> None:
    store = MemoryStore()
    stored_when_said: list[bytes | None] = []
    stage = Stage()
    observe = stage.observe

    def watch(event: Event) -> None:
        observe(event)
        stored_when_said.append(store.values.get("k"))

    role = Scripted(restore=lambda stored: [say(1), Store("k", b"v"), say(2), Store("k", b"w"), say(3), Stop(), say(4)])
    perform(role, stage, store=store, observe=watch)
    assert stage.said == ["1", "2", "3"]
    assert stored_when_said == [None, b"v", b"w"]


def test_a_role_restarts_from_what_it_stored() -> None:
    store = MemoryStore()
    perform(Scripted(restore=lambda stored: [Store("count", b"1"), Stop()]), store=store)
    stage = perform(Scripted(restore=lambda stored: [say(dict(stored)), Stop()]), store=store)
    assert stage.said == ["{'count': b'1'}"]


def test_timers_ring_once_in_order_and_are_replaced_by_name() -> None:
    def restore(stored: Mapping[str, bytes]) -> Effects:
        return [After(5, "a"), After(3, "b"), After(3, "c"), After(9, "end"), After(1, "a")]

    def timer(name: str) -> Effects:
        return [say(name), *([Stop()] if name == "end" else [])]

    stage = perform(Scripted(restore=restore, timer=timer))
    assert [(time, event) for time, event in stage.heard] == [
        (1.0, Said(what="a")),
        (3.0, Said(what="b")),
        (3.0, Said(what="c")),
        (9.0, Said(what="end")),
    ]


def test_drawn_bytes_come_as_an_input_of_their_own() -> None:
    role = Scripted(
        restore=lambda stored: [Draw("seed", 4), say("first")],
        drawn=lambda name, data: [say((name, data)), Stop()],
    )
    stage = perform(role, draw=lambda n: b"\7" * n)
    assert stage.said == ["first", "('seed', b'\\x07\\x07\\x07\\x07')"]


def test_jobs_run_in_order_and_a_numbered_error_is_a_result() -> None:
    def compute(job: int) -> int:
        if job == 2:
            raise Refused(401, "bad frame")
        return job * 10

    def done(job: int, result: Any) -> Effects:
        return [say((job, str(result))), *([Stop()] if job == 3 else [])]

    role = Scripted(restore=lambda stored: [Work(1), Work(2), Work(3)], done=done)
    stage = perform(role, worker=SimulatedWorker(compute, lambda job: 4.0))
    assert stage.said == ["(1, '10')", "(2, 'E401 bad frame')", "(3, '30')"]
    assert [time for time, _ in stage.heard] == [4.0, 8.0, 12.0]


def test_messages_are_handled_while_a_thread_computes() -> None:
    release = threading.Event()
    said: list[str] = []

    def compute(job: str) -> str:
        assert release.wait(20)
        if job == "bad":
            raise Refused(401, "bad frame")
        return job.upper()

    def timer(name: str) -> Effects:
        release.set()
        return [say("timer")]

    def done(job: str, result: Any) -> Effects:
        return [say(result), *([Stop()] if job == "bad" else [])]

    async def main() -> None:
        role = Scripted(restore=lambda stored: [Work("good"), Work("bad"), After(0, "t")], timer=timer, done=done)
        runner = Stage().runner(
            role,
            transport=ZeroMQTransport(CLIENT.curve_secret),
            worker=ThreadWorker(compute),
            observe=lambda event: said.append(getattr(event, "what", "")),
        )
        await asyncio.wait_for(runner.run(), 20)

    asyncio.run(main())
    assert said == ["timer", "GOOD", "E401 bad frame"]


# Ends.


def test_stop_with_an_error_raises_it() -> None:
    error = Failed(301, "no quorum")
    with pytest.raises(Failed) as caught:
        perform(Scripted(restore=lambda stored: [Stop(error)]))
    assert caught.value is error


def broken(*arguments: Any) -> Any:
    raise ZeroDivisionError("planted")


@pytest.mark.parametrize(
    ("answers", "changes"),
    [
        ({"restore": broken}, {}),
        ({"restore": lambda stored: [After(1, "t")], "timer": broken}, {}),
        ({"restore": lambda stored: [Draw("d", 1)], "drawn": broken}, {}),
        ({"restore": lambda stored: [Work(1)], "done": broken}, {}),
        ({"restore": lambda stored: [Work(1)]}, {"worker": SimulatedWorker(broken)}),
        ({"restore": lambda stored: [say("x")]}, {"observe": broken}),
        ({"restore": lambda stored: [Draw("d", 1)]}, {"draw": broken}),
    ],
)
def test_an_internal_error_ends_the_runner_and_is_carried(
    answers: dict[str, Callable[..., Effects]], changes: dict[str, Any]
) -> None:
    with pytest.raises(Failed, match="planted") as caught:
        perform(Scripted(**answers), **changes)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.number == 790


def test_a_job_that_finds_no_memory_ends_the_runner_as_nobodys_fault() -> None:
    def full(job: Any) -> Any:
        raise MemoryError

    with pytest.raises(Failed, match="E724 there is not enough memory"):
        perform(Scripted(restore=lambda stored: [Work(1)]), worker=SimulatedWorker(full))


def test_endless_effects_end_the_runner() -> None:
    with pytest.raises(Failed, match="too many effects"):
        perform(Scripted(restore=lambda stored: [say(n) for n in range(10_001)]))
    with pytest.raises(Failed, match="too many timers"):
        perform(
            Scripted(
                restore=lambda stored: [After(1, "t")],
                timer=lambda name: [After(9, f"{name}{n}") for n in range(6000)],
            )
        )


def test_an_interrupt_reaches_the_role_and_misuse_its_caller() -> None:
    async def main() -> None:
        stage = Stage()

        def timer(name: str) -> Effects:
            if name == "impossible":
                raise Misused(601, "not now")
            return [say(name), Stop()]

        runner = stage.runner(Scripted(timer=timer))
        running = asyncio.ensure_future(runner.run())
        await asyncio.sleep(1)
        with pytest.raises(Misused):
            runner.interrupt("impossible")
        runner.interrupt("interrupt")
        await running
        runner.interrupt("too late")
        assert stage.said == ["interrupt"]

    virtual.run(main())


def test_cancelling_a_runner_closes_its_transport() -> None:
    async def main() -> None:
        stage = Stage()
        transport = stage.transport(SERVER, bind="tcp://127.0.0.1:7")
        running = asyncio.ensure_future(stage.runner(Scripted(), SERVER, transport=transport).run())
        await asyncio.sleep(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await stage.transport(SERVER, bind="tcp://127.0.0.1:7").start()  # the address is free again

    virtual.run(main())


# Peers.


class Server:
    """Admits the client, answers each Ping with a Pong of the same blobs."""

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        return [fx.Admit(CLIENT.public, CLIENT.curve_public), say("open")]

    def on_message(self, source: bytes, message: Message, blobs: tuple[Blob, ...]) -> Effects:
        if not isinstance(message, Ping):
            raise Refused(301, "not a ping")
        last = [Store("done", b"1"), Stop()] if message.number == 9 else []
        return [Send(source, Pong(number=message.number), blobs), say(f"ping {message.number}"), *last]

    def on_timer(self, name: str) -> Effects:
        return []

    def on_done(self, job: Any, result: Any) -> Effects:
        return []

    def on_drawn(self, name: str, data: bytes) -> Effects:
        return []


class Client:
    """Draws a blob, sends it ten times, each time when the last one came back and was hashed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.blob = Blob(b"")

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        return [fx.Connect(SERVER.public, SERVER.curve_public, self.address), Draw("blob", 100_000)]

    def on_drawn(self, name: str, data: bytes) -> Effects:
        self.blob = Blob(data)
        return [Send(SERVER.public, Ping(number=0), (self.blob,))]

    def on_message(self, source: bytes, message: Message, blobs: tuple[Blob, ...]) -> Effects:
        assert isinstance(message, Pong)
        return [say(f"pong {message.number}"), Work((message.number, blobs[0]))]

    def on_done(self, job: Any, result: Any) -> Effects:
        number, _ = job
        if number == 9:
            return [say(result), Stop()]
        return [say(result), Send(SERVER.public, Ping(number=number + 1), (self.blob,))]

    def on_timer(self, name: str) -> Effects:
        return []


def hashed(job: tuple[int, Blob]) -> str:
    return hashlib.sha256(job[1].data).hexdigest()[:8]


def play_ping_pong(
    make: Callable[[Identity, str], Transport],
    worker: Callable[[], Worker],
    go: Callable[[Coroutine[Any, Any, None]], None],
) -> tuple[list[str], list[str]]:
    """The histories of server and client."""
    histories: tuple[list[str], list[str]] = ([], [])

    async def main() -> None:
        stage = Stage()

        def runner(role: fx.Role, who: Identity, transport: Transport, said: list[str]) -> Runner:
            return stage.runner(
                role,
                who,
                transport=transport,
                worker=worker(),
                draw=lambda n: b"\5" * n,
                observe=lambda event: said.append(getattr(event, "what", "")),
            )

        listening = make(SERVER, ANYWHERE)
        await listening.start()
        server = runner(Server(), SERVER, listening, histories[0])
        client = runner(Client(listening.address), CLIENT, make(CLIENT, ""), histories[1])
        await asyncio.wait_for(asyncio.gather(server.run(), client.run()), 30)

    go(main())
    return histories


def test_ping_pong_has_one_history_over_both_transports() -> None:
    network = Network()
    simulated = play_ping_pong(
        lambda who, bind: SimulatedTransport(network, who.public, who.curve_public, bind=bind),
        lambda: SimulatedWorker(hashed, lambda job: 1.0),
        virtual.run,
    )
    real = play_ping_pong(
        lambda who, bind: ZeroMQTransport(who.curve_secret, bind=bind), lambda: ThreadWorker(hashed), asyncio.run
    )
    assert simulated == real
    assert simulated[0] == ["open"] + [f"ping {n}" for n in range(10)]
    assert len(simulated[1]) == 20


def peers(
    server_role: fx.Role, act: Callable[[SimulatedTransport], Coroutine[Any, Any, None]], **changes: Any
) -> tuple[Stage, Runner]:
    """Run a server role while `act` does with a bare client transport what no honest role would."""
    stage = Stage()
    runners: list[Runner] = []

    async def main() -> None:
        server = stage.transport(SERVER, bind="tcp://127.0.0.1:7", open_door="door_kinds" in changes)
        runners.append(stage.runner(server_role, SERVER, transport=server, **changes))
        running = asyncio.ensure_future(runners[0].run())
        client = stage.transport(CLIENT)
        await client.start()
        client.connect(SERVER.public, SERVER.curve_public, "tcp://127.0.0.1:7")
        await act(client)
        await running

    virtual.run(main(), seconds_max=1000)
    return stage, runners[0]


def ping(number: int, sequence: int, sender: Identity = CLIENT, run: bytes = RUN) -> list[Any]:
    return pack(Ping(number=number), [], run=run, sender=sender, to=SERVER.public, sequence=sequence)


def test_refused_messages_are_counted_announced_and_survived() -> None:
    async def act(client: SimulatedTransport) -> None:
        pong = pack(Pong(number=1), [], run=RUN, sender=CLIENT, to=SERVER.public, sequence=5)
        rubbish = [b"rubbish"]
        for parts in (rubbish, ping(1, 1), ping(1, 1), ping(2, 2, run=bytes(32)), ping(3, 3, OTHER), pong, ping(9, 9)):
            client.send(SERVER.public, parts)

    stage, runner = peers(Server(), act)
    assert stage.said == ["open", "ping 1", "ping 9"]
    assert runner.refused == {201: 1, 207: 1, 204: 1, 205: 1, 301: 1}
    refusals = [event for _, event in stage.heard if isinstance(event, Refusal)]
    assert [refusal.number for refusal in refusals] == [201, 207, 204, 205, 301]
    assert {refusal.peer for refusal in refusals} == {CLIENT.public}


def test_a_flood_of_refusals_is_announced_at_a_bounded_rate() -> None:
    async def act(client: SimulatedTransport) -> None:
        for _ in range(100):
            client.send(SERVER.public, [b"rubbish"])
        await asyncio.sleep(WINDOW_S + 1)
        client.send(SERVER.public, [b"rubbish"])
        client.send(SERVER.public, ping(9, 9))

    stage, runner = peers(Server(), act)
    refusals = [event for _, event in stage.heard if isinstance(event, Refusal)]
    assert runner.refused[201] == 101
    assert [refusal.times for refusal in refusals] == [1] * REFUSALS_A_WINDOW + [101 - REFUSALS_A_WINDOW]


def test_an_unknown_peer_may_send_the_doors_messages_only_and_is_answered() -> None:
    def restore(stored: Mapping[str, bytes]) -> Effects:
        return []

    def message(source: bytes, heard: Message, blobs: tuple[Blob, ...]) -> Effects:
        if isinstance(heard, Join):
            return [Send(source, Pong(number=0)), fx.Admit(source, heard.curve), say("joined")]
        return [say("heard"), Stop()]

    async def act(client: SimulatedTransport) -> None:
        client.send(SERVER.public, ping(1, 1))
        join = Join(curve=CLIENT.curve_public)
        client.send(SERVER.public, pack(join, [], run=RUN, sender=CLIENT, to=SERVER.public, sequence=2))
        assert (await client.receive()).peer == SERVER.public
        client.send(SERVER.public, ping(3, 3))

    stage, runner = peers(Scripted(restore=restore, message=message), act, door_kinds=Join)
    assert stage.said == ["joined", "heard"]
    assert runner.refused == {201: 1}


def test_sending_to_nobody_is_announced() -> None:
    role = Scripted(restore=lambda stored: [Send(OTHER.public, Ping(number=1)), say("on"), Stop()])
    stage = perform(role)
    assert [type(event) for _, event in stage.heard] == [Refusal, Said]
    refusal = stage.heard[0][1]
    assert isinstance(refusal, Refusal)
    assert (refusal.number, refusal.peer) == (208, OTHER.public)
    assert refusal.what == f"peer {OTHER.public.hex()[:12]} is unknown or not connected"
    assert "It must join first" in refusal.todo


def test_a_bad_address_is_announced_not_fatal() -> None:
    events: list[Event] = []

    async def main() -> None:
        role = Scripted(restore=lambda stored: [fx.Connect(OTHER.public, OTHER.curve_public, "ipc://x"), Stop()])
        transport = ZeroMQTransport(CLIENT.curve_secret)
        await Stage().runner(role, transport=transport, observe=events.append).run()

    asyncio.run(main())
    assert [event.number for event in events if isinstance(event, Refusal)] == [201]


def test_a_join_over_zeromq_opens_the_door_for_one() -> None:
    said: list[str] = []

    async def main() -> None:
        def on_server(source: bytes, heard: Message, blobs: tuple[Blob, ...]) -> Effects:
            if isinstance(heard, Join):
                return [fx.Admit(source, heard.curve), Send(source, Pong(number=0))]
            return [say("heard"), Send(source, Pong(number=1)), Stop()]

        listening = ZeroMQTransport(SERVER.curve_secret, bind=ANYWHERE, door=Door())
        await listening.start()
        server = Stage().runner(
            Scripted(message=on_server),
            SERVER,
            transport=listening,
            door_kinds=Join,
            observe=lambda event: said.append(event.what if isinstance(event, Said) else repr(event)),
        )

        def on_client(source: bytes, heard: Message, blobs: tuple[Blob, ...]) -> Effects:
            assert isinstance(heard, Pong)
            return [Stop()] if heard.number else [Send(source, Ping(number=1))]

        connect = fx.Connect(SERVER.public, SERVER.curve_public, listening.address)
        join = Send(SERVER.public, Join(curve=CLIENT.curve_public))
        role = Scripted(restore=lambda stored: [connect, join], message=on_client)
        client = Stage().runner(role, transport=ZeroMQTransport(CLIENT.curve_secret))
        await asyncio.wait_for(asyncio.gather(server.run(), client.run()), 20)

    asyncio.run(main())
    assert said == ["heard"]


# Virtual time.


def test_equal_instants_come_in_the_order_they_were_set() -> None:
    order: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for n in range(100):
            loop.call_at(5.0, order.append, n)
        await asyncio.sleep(6)

    virtual.run(main())
    assert order == list(range(100))


def test_virtual_time_takes_no_time_and_ends_where_it_must() -> None:
    async def sleeper() -> float:
        await asyncio.sleep(86_400 * 90)
        return asyncio.get_running_loop().time()

    assert virtual.run(sleeper()) == pytest.approx(86_400 * 90, abs=1e-6)
    with pytest.raises(virtual.Overrun):
        virtual.run(sleeper(), seconds_max=100)


def test_a_deadlock_names_the_tasks() -> None:
    async def main() -> None:
        waits = asyncio.get_running_loop().create_future()
        asyncio.current_task().set_name("the one that waits")  # type: ignore[union-attr]
        await waits

    with pytest.raises(virtual.Deadlock, match="the one that waits"):
        virtual.run(main())
