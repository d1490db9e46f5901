"""The code: the runner that drives real processes, on a loop of virtual time, over the simulated transport.

Messages are packed, signed, sent, read and checked as on the wire, and every effect goes the runner's way; only the
clock, the network's delays and the store are the schedule's. What differs from the model is therefore a fault of one
of the two. Participants are connected each to each.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from interlock.protocols import effects as fx
from interlock.protocols.errors import InterlockError
from interlock.protocols.net import virtual
from interlock.protocols.net.runner import Refusal, Runner, SimulatedWorker
from interlock.protocols.net.simulated import Network, SimulatedTransport
from interlock.protocols.net.transport import Arrival as Arrived
from interlock.protocols.wire import Buffer, Limits

from .history import Step
from .judge import Judge, Run
from .links import CLOCK_S, Actor, Crashed
from .schedule import Schedule
from .spec import Spec
from .stage import Arrival, Stage

RUN = hashlib.sha256(b"interlock/spec").digest()
LIMITS = Limits()


def play(spec: type[Spec], schedule: Schedule, *, only: Collection[str] | None = None) -> Run:
    """Run a schedule to its end.

    Args:
        only: the properties to judge; None is all of them.

    Raises:
        Misused: the schedule or a property is not one of this spec's (E802 to E806).
    """
    made = spec()
    return Code(made, schedule, Judge(made, only)).play()


class Code(Stage):
    """One run of the code."""

    world = "code"

    def __init__(self, spec: Spec, schedule: Schedule, judge: Judge) -> None:
        self._identities = {name: spec.identity(name) for name in _names(spec)}
        super().__init__(spec, schedule, judge)
        self.network = Network(lambda source, destination, ordinal: [self.delay_s])
        self.delay_s = 0.0  # of the message that is being sent
        self.under_way: dict[Buffer, tuple[int, Actor]] = {}  # envelope: index of its send step, sender
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Future[None]
        self._failure: BaseException | None = None
        self._ports: dict[Any, Port] = {}
        self._runners: dict[Any, Runner] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the clock ---

    def now(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Set a timer of the loop."""
        self._loop.call_at(when, self._call, call, arguments)

    def play(self) -> Run:
        """Run to the end."""
        virtual.run(self._main())
        if self._failure is not None:
            raise self._failure
        return self.result()

    def finish(self) -> None:
        """Nothing more happens."""
        super().finish()
        if not self._over.done():
            self._over.set_result(None)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda loop, context: self._fail(context.get("exception"), context))
        self._over = self._loop.create_future()
        self.begin()
        for name in self.labels:
            self._ports[name] = port = self._port(name, self.actors[name])
            await port.start()
        await self._over
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _call(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self.finished:
            call(*arguments)
            self.after_judging()

    def _fail(self, error: BaseException | None, context: Mapping[str, Any]) -> None:
        """The kit itself is at fault."""
        if self._failure is None:
            self._failure = error or RuntimeError(str(context.get("message")))
        self.finish()

    # --- participants ---

    def addresses(self) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """The identity key of each name, and the reverse."""
        forth = {name: self._identities[name].public for name in self.labels}
        return forth, {key: name for name, key in forth.items()}

    def launch(self, name: Any, actor: Actor) -> None:
        """Run it in a runner of its own; its role is restored at this instant."""
        port = self._ports[name]
        if port.actor is not actor:
            self._ports[name] = port = self._port(name, actor)
        self._runners[name] = runner = Runner(
            actor,
            port,
            run=RUN,
            signer=self._identities[name],
            kinds=self.kinds,
            limits=LIMITS,
            store=_Store(self, name),
            worker=SimulatedWorker(lambda job: self.compute(name, job), lambda job: self.work_seconds(name, job)),
            draw=lambda size: self.draw(name, size),
            observe=lambda event: self._observe(actor, event),
            clock=lambda: CLOCK_S + self.now(),
        )
        task = self._loop.create_task(runner.run(flush_s=0.0), name=actor.label)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._task_ended(name, actor, task))

    def perform(self, name: Any, call: Callable[[], fx.Effects]) -> None:
        """Have its runner carry out effects."""
        self._runners[name].perform(call)

    def _task_ended(self, name: Any, actor: Actor, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or self.finished:
            return
        error = task.exception()
        if error is None or isinstance(error, InterlockError | Crashed):
            self.ended(name, actor, error)
        else:
            self._fail(error, {})

    def _observe(self, actor: Actor, event: fx.Event) -> None:
        if not isinstance(event, Refusal):
            self.observe(actor, event)
        elif event.number == actor.refusing:
            actor.refusing = None  # the role's own, noted already
        else:
            self.note(Step(at=self.now(), kind="refused", who=actor.label, number=event.number, text=event.what))

    def _port(self, name: Any, actor: Actor) -> Port:
        port = Port(self, name, actor)
        for other, identity in self._identities.items():
            port.servers[identity.public] = (identity.curve_public, _address(self.labels[other]))
            port.admitted[identity.curve_public] = identity.public
        return port

    def identity_of(self, name: Any) -> tuple[bytes, bytes]:
        """Its identity key and its CURVE key."""
        return self._identities[name].public, self._identities[name].curve_public


class Port(SimulatedTransport):
    """A participant's transport, from one start to one end. It asks the stage what becomes of each message."""

    def __init__(self, stage: Code, name: Any, actor: Actor) -> None:
        super().__init__(stage.network, *stage.identity_of(name), bind=_address(actor.label))
        self.actor = actor
        self._stage = stage

    def send(self, to: bytes, parts: Sequence[Buffer]) -> None:
        """Send, unless it is lost."""
        stage = self._stage
        if (sent := stage.sending(self.actor)) is not None:
            index, out = sent
            stage.delay_s = stage.spec.latency + out.extra
            stage.under_way[bytes(parts[0])] = index, self.actor
            super().send(to, parts)

    def put(self, arrival: Arrived, *rest: Any) -> None:
        """A message arrives."""
        index, sender = self._stage.under_way.pop(arrival.parts[0])
        step, put = self._stage.history[index], super().put
        self._stage.arrive(Arrival(index, step, sender, self.actor, lambda: put(arrival, *rest)))


class _Store:
    """What a participant stored, for as long as the run."""

    def __init__(self, stage: Code, name: Any) -> None:
        self._stage, self._name = stage, name

    def load(self) -> Mapping[str, bytes]:
        """All values, by key."""
        return dict(self._stage.stored[self._name])

    def put(self, values: Mapping[str, bytes]) -> None:
        """Replace these values."""
        for key, value in values.items():
            self._stage.put(self._name, key, value)


def _names(spec: Spec) -> list[Any]:
    return list(dict.fromkeys([*spec.cast(), *spec.traitors]))


def _address(label: str) -> str:
    return f"spec://{label}"
