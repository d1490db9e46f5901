"""The wire: one process for each participant, and ZeroMQ with CURVE between them, on this machine.

A router stands in the middle, with the keys of all: every connection is proven at both of its ends, and what passes
goes through the router's hands, which lose, hold and delay it as the schedule says. Each process reports its steps to
the hub on a connection of its own, and the order in which they arrive there is the history. Clocks, sockets, files and
threads are real: the schedule decides which messages suffer and where a process dies, not what comes first. So a run is
judged as in other worlds, and not compared with them. Latency is what it is; seconds are those of the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from interlock.protocols import effects as fx
from interlock.protocols.canonical import Message, encode
from interlock.protocols.errors import Failed, Misused
from interlock.protocols.net.transport import NotSent
from interlock.protocols.net.zeromq import ZeroMQTransport
from interlock.protocols.wire import Buffer
from interlock.vault import Identity

from .history import Step
from .judge import BOUNDS, Judge, Run
from .links import Actor, Crashed, Outgoing
from .schedule import Schedule
from .spec import Action, Spec
from .stage import Arrival, Stage
from .world_wire_process import Process
from .world_wire_router import LOCAL, Key, Router
from .world_wire_talk import (
    Act,
    Close,
    Closed,
    Counted,
    Doors,
    End,
    Ended,
    Forge,
    Go,
    Noted,
    Order,
    Part,
    Past,
    Ready,
    Report,
    Sent,
    Wrong,
    place_of,
    read_report,
    read_step,
    write,
)

SECONDS_MAX = 20.0
START_S = 60.0  # a process that has not reported by then never will
ANSWER_S = 10.0  # one that runs and does not answer for so long is stuck
LOOK_S = 0.005  # between looks whether processes are there
WATCH_S = 0.05  # between looks whether they still are
GRACE_S = 0.5  # what a dead one has reported gets so long to arrive
REPORT_BYTES = 256 << 20


def play(
    spec: type[Spec], schedule: Schedule, *, only: Collection[str] | None = None, seconds_max: float = SECONDS_MAX
) -> Run:
    """Run a schedule to its end.

    Args:
        only: the properties to judge; None is all of them.
        seconds_max: most that an `eventually` has, and that the schedule may ask for at a time.

    Raises:
        Misused: the schedule or a property is not one of this spec's (E802 to E806); E820, other processes cannot find
            the spec; E822, the schedule takes too long.
        Failed: E821, a participant's process does not start.
    """
    if (longest := max(_times(schedule), default=0.0)) > seconds_max:
        raise Misused(
            822,
            "this schedule takes too long",
            expected=f"at most {seconds_max:g} s at a time",
            actual=f"{longest:g} s",
            todo="On the wire seconds are real: bring things closer together.",
        )
    made = spec()
    return Wire(made, schedule, Judge(made, only, within_most=seconds_max)).play()


class Remote(Actor):
    """Keeps book of a participant; its role plays in a process of its own, which does what it is told."""

    tell: Callable[[Order], None]

    def act(self, spec: Any, action: Action, arguments: dict[str, Any]) -> fx.Effects:
        """Have it take an action."""
        self.tell(Act(action=action.name, arguments=arguments))
        return []

    def forge(self, name: Any, message: Message) -> fx.Effects:
        """Have it send a forged message."""
        self.tell(Forge(destination=self._labels[name], message=encode(message)))
        return []


class Wire(Stage):
    """One run over the wire: the hub and the router.

    Attributes:
        processes: of each participant, the one that plays it now.
    """

    world = "wire"
    _loop: asyncio.AbstractEventLoop
    _over: asyncio.Future[None]
    _folder: Path

    def __init__(self, spec: Spec, schedule: Schedule, judge: Judge) -> None:
        super().__init__(spec, schedule, judge)
        self._place = place_of(type(spec))
        self._identities = {name: spec.identity(name) for name in self.labels}
        self._by_key = {identity.public: name for name, identity in self._identities.items()}
        self._me = Identity.generate()
        self._hub = ZeroMQTransport(self._me.curve_secret, bind=LOCAL, part_bytes=REPORT_BYTES)
        self._router = Router(self._identities)
        self.processes: dict[Any, Process] = {}
        self._dying: dict[Any, float] = {}  # whose process was found dead, and when
        self._sent: dict[Any, Counter[str]] = {name: Counter() for name in self.labels}
        self._jobs = dict.fromkeys(self.labels, 0)
        self._numbers: dict[Key, int] = {}  # of a message: the index of its send step
        self._handed: dict[Any, dict[Key, Arrival]] = {
            name: {} for name in self.labels
        }  # handed over, and not yet received
        self._away: set[Any] = set()  # who has crashed and comes back
        self._unclosed: set[Any] = set()  # who has not yet heard that the time of faults is over
        self._closing: float | None = None
        self._began = self._ended_at = math.nan
        self._timers_put = 0
        self._failure: BaseException | None = None

    # --- the clock ---

    def now(self) -> float:
        """Seconds since the run began."""
        return self._ended_at if self.finished else self._loop.time() - self._began

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Set a timer. What is put on one instant happens in that order."""
        self._timers_put += 1
        self._loop.call_at(self._began + when + self._timers_put * 1e-9, self._call, call, arguments)

    def play(self) -> Run:
        """Run to the end. No process is left."""
        asyncio.run(self._main())
        if self._failure is not None:
            raise self._failure
        return self.result()

    def finish(self) -> None:
        """Nothing more happens."""
        self._ended_at = self.now()
        super().finish()
        if not self._over.done():
            self._over.set_result(None)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda loop, context: self._fail(context.get("exception"), context))
        self._over = self._loop.create_future()
        tasks: list[asyncio.Task[None]] = []
        with tempfile.TemporaryDirectory(prefix="interlock-") as folder:
            self._folder = Path(folder)
            try:
                await self._hub.start()
                for name, identity in self._identities.items():
                    self._hub.admit(identity.public, identity.curve_public)
                    self._spawn(name, None)
                tasks.append(self._loop.create_task(self._listen(self._hub, self._reported)))
                await self._router.start()
                tasks += [
                    self._loop.create_task(self._listen(door, self._router.knock))
                    for door in self._router.doors.values()
                ]
                await self._gather()
                self._began = self._loop.time()
                self.begin()
                self._watch()
                await self._over
            finally:
                for process in self.processes.values():
                    process.kill()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.gather(self._hub.close(0), self._router.close())

    async def _listen(self, line: ZeroMQTransport, hear: Callable[[Any, Sequence[Buffer]], None]) -> None:
        try:
            while True:
                arrival = await line.receive()
                if not self.finished:
                    hear(self._by_key[arrival.peer or b""], arrival.parts)
        except Exception as error:
            self._fail(error, {})

    def _call(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self.finished:
            call(*arguments)
            self.after_judging()

    def _fail(self, error: BaseException | None, context: Mapping[str, Any]) -> None:
        """The kit itself is at fault."""
        if self._failure is None:
            self._failure = error or RuntimeError(str(context.get("message")))
        self.finish()

    # --- processes ---

    def _spawn(self, name: Any, past: Past | None) -> None:
        """Start a process, which reports when it is there."""
        if (old := self.processes.get(name)) is not None:
            old.kill()
        label = self.labels[name]
        part = Part(
            place=self._place, schedule=self.schedule, label=label, past=past,
            folder=str(self._folder / f"{list(self.labels).index(name)}"),
            hub=self._hub.address, hub_key=self._me.public, hub_curve=self._me.curve_public,
        )  # fmt: skip
        self.processes[name] = Process(part)

    async def _gather(self) -> None:
        """Wait until everybody can hear everybody.

        Raises:
            Failed: E821, one of them never comes.
        """
        while not all(map(self._present, self.labels)) and not self._over.done():
            for name, process in self.processes.items():
                late = self._loop.time() > process.since + START_S and not self._present(name)
                if late or process.death() is not None:
                    raise Failed(
                        821,
                        f"the process of {self.labels[name]} does not start",
                        expected=f"a report within {START_S:g} s",
                        actual=process.death() or "\n".join(["nothing", *process.said()]),
                        todo="Can this spec be imported by its name, and do its roles come without arguments?",
                    )
            await asyncio.sleep(LOOK_S)

    def _present(self, name: Any) -> bool:
        """Whether its process is there, with all its connections."""
        return self.processes[name].ready and self._router.reaches(name)

    def _watch(self) -> None:
        """Look whether processes have ended that should not."""
        for name, process in self.processes.items():
            if (death := process.death()) is None:
                self._dying.pop(name, None)
            elif self.now() > self._dying.setdefault(name, self.now()) + GRACE_S:
                self.role_broke(self.labels[name], death)
        self.at(self.now() + WATCH_S, self._watch)

    def _tell(self, name: Any, order: Order) -> None:
        # What cannot be sent was for a process that has ended, which `_watch` sees.
        with contextlib.suppress(NotSent):
            self._hub.send(self._identities[name].public, [write(order)])

    # --- participants ---

    def _actor(self, name: Any, role: Any, nth: int) -> Actor:
        addresses, names = self.addresses()
        actor = Remote(
            self.labels[name], role, self.links, self, labels=self.labels, addresses=addresses, names=names, nth=nth
        )
        actor.tell = partial(self._tell, name)
        return actor

    def launch(self, name: Any, actor: Actor) -> None:
        """Let its process go."""
        self._tell(name, Go(began=self._began, closed=self._closing is not None))

    def perform(self, name: Any, call: Callable[[], fx.Effects]) -> None:
        """Tell its process."""
        call()

    def ended(self, name: Any, actor: Actor, error: Exception | None) -> None:
        """A participant stopped or crashed; what was on its way to it is lost."""
        super().ended(name, actor, error)
        self._unclosed.discard(name)
        for arrival in self._handed[name].values():
            self._lose(arrival)
        self._handed[name].clear()
        if isinstance(error, Crashed) and error.crash.back is not None and not self.finished:
            self._away.add(name)
            self._spawn(
                name,
                Past(inputs=actor.nth, jobs=self._jobs[name], draws=self._draws[name], sent=dict(self._sent[name])),
            )

    def _return(self, name: Any, nth: int) -> None:
        """It starts again, as soon as its process is there."""
        if self._present(name):
            self._away.discard(name)
            super()._return(name, nth)
        elif self._loop.time() > self.processes[name].since + START_S:
            said = "\n".join(["its process does not start again", *self.processes[name].said()])
            self.role_broke(self.labels[name], said)
        else:
            self.at(self.now() + LOOK_S, self._return, name, nth)

    # --- what participants report ---

    def _reported(self, name: Any, parts: Sequence[Buffer]) -> None:
        report: Report = read_report(parts[0])
        if isinstance(report, Ready):
            self.processes[name].ready = True
            self._router.forget(name)
            addresses = {self.labels[other]: door.address for other, door in self._router.doors.items()}
            self._tell(name, Doors(addresses=addresses))
            return
        actor = self.actors[name]
        match report:
            case Noted(written=what):
                self._noted(name, read_step(what, self.kinds))
            case Sent():
                self._left(name, actor, report)
            case Counted(what="timer"):
                self.timer_set()
            case Counted(what="draw"):
                self._draws[name] += 1
            case Counted(seconds=seconds):
                self._jobs[name] += 1
                self.links.stretch(actor.label)
                if seconds:
                    self._busy_until = max(self._busy_until, self.now() + seconds)
            case Wrong(text=text):
                self.role_broke(actor.label, text)
            case Closed():
                self._unclosed.discard(name)
            case Ended():
                self._leaves(name, actor, report)

    def _noted(self, name: Any, step: Step) -> None:
        """Write a step down in the hub's terms."""
        if step.kind == "store":
            self.put(name, step.name, step.data)
            return
        changes: dict[str, Any] = {"at": self.now()}
        if step.kind == "deliver":
            key = (self.by_label[step.peer], step.sent)
            self._handed[name].pop(key, None)
            changes |= {"sent": self._numbers[key], "mark": self.history[self._numbers[key]].mark}
        self.note(msgspec.structs.replace(step, **changes))

    def _leaves(self, name: Any, actor: Actor, report: Ended) -> None:
        self.processes[name].leaving = True
        self._tell(name, End())
        actor.nth = report.inputs
        error: Exception | None = None
        if report.crashed is not None:
            crash = self.links.crash(actor.label, report.crashed)
            assert crash is not None, "nothing crashes after the time of faults"
            error = Crashed(crash)
        elif report.text:
            error = _Stopped(report.number, report.text)
        self.ended(name, actor, error)

    # --- messages ---

    def _left(self, name: Any, actor: Actor, report: Sent) -> None:
        """A message has left: note it, and tell the router what becomes of it."""
        step, key = read_step(report.written, self.kinds), (name, report.sequence)
        if step.ordinal >= 0:
            self._sent[name][step.peer] += 1
            self.links.fate(step.who, step.peer, self.now())  # as the sender counts
        assert step.message is not None
        blobs = tuple(fx.Blob(blob) for blob in step.blobs)
        actor.outgoing.append(Outgoing(step.peer, step.message, blobs, step.mark, step.ordinal, report.extra))
        if (sent := self.sending(actor)) is None:
            self._router.decide(key, None)
        else:
            self._numbers[key] = sent[0]
            self._router.decide(key, partial(self._carry, key, actor, *sent))

    def _carry(self, key: Key, sender: Actor, nth: int, out: Outgoing, parts: Sequence[Buffer]) -> None:
        """A message is at the router."""
        destination = self.by_label[out.peer]

        def hand() -> None:
            self._handed[destination][key] = arrival
            try:
                self._router.hand(key[0], destination, parts)
            except NotSent:
                self._lose(self._handed[destination].pop(key))

        arrival = Arrival(nth, self.history[nth], sender, self.actors[destination], hand)
        if out.extra:
            self.at(self.now() + out.extra, self.arrive, arrival)
        else:
            self.arrive(arrival)

    def _lose(self, arrival: Arrival) -> None:
        step = arrival.step
        self.note(
            Step(
                at=self.now(), kind="lost", who=step.peer, peer=step.who, message=step.message,
                sent=arrival.sent, mark=step.mark,
            )
        )  # fmt: skip

    # --- the end ---

    def _inputs_over(self, began: float, look: int = 0) -> None:
        """A process takes longer to start than a role: while somebody is away, the time of faults stands still."""
        if self._away:
            self.at(self.now() + LOOK_S, self._inputs_over, began + LOOK_S, look)
        else:
            super()._inputs_over(began, look)

    def _faults_over(self) -> None:
        """The quiet phase may begin once everybody knows that faults are over, and has reported those there were."""
        if self._closing is None:
            self._closing = self.now()
            self._unclosed = {name for name, actor in self.actors.items() if actor.alive}
            for name in self._unclosed:
                self._tell(name, Close())
        if self._unclosed and self.now() > self._closing + ANSWER_S:
            stuck = ", ".join(sorted(self.labels[name] for name in self._unclosed))
            self._break(BOUNDS, f"no answer from {stuck} for {ANSWER_S:g} s: is there an endless loop in a role?")
        elif self._unclosed or self._away:
            self.at(self.now() + LOOK_S, self._faults_over)
        else:
            super()._faults_over()


class _Stopped(Exception):
    """The error with which a participant stopped, as it told."""

    def __init__(self, number: int | None, text: str) -> None:
        self.number = number
        super().__init__(f"E{number} {text}")


def _times(schedule: Schedule) -> Iterator[float]:
    """All times that a schedule asks for."""
    for part in (*schedule.inputs, *schedule.faults, *schedule.forged):
        for name in ("at", "seconds", "by", "back"):
            if (value := getattr(part, name, None)) is not None:
                yield value
