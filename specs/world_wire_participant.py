"""One participant of a run over the wire: a process that plays one role and reports what happens to the hub.

Its first line of input says what it plays (`Part`). After that it watches its input: when the hub is gone, however
it ended, the input ends, and so does this process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from interlock.protocols import effects as fx
from interlock.protocols.canonical import decode
from interlock.protocols.errors import InterlockError
from interlock.protocols.net.runner import Done, Refusal, Runner, ThreadWorker
from interlock.protocols.net.transport import Arrival
from interlock.protocols.net.zeromq import ZeroMQTransport
from interlock.protocols.service.store import SQLiteStore
from interlock.protocols.wire import Buffer

from .history import Step
from .links import Actor, Crashed, Links, Note, contents
from .schedule import Crash
from .spec import kinds
from .stage import Silent, drawn
from .world_code import LIMITS, RUN
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
    read_order,
    sequence_of,
    spec_at,
    write,
    written,
)

FLUSH_S = 2.0  # what was sent gets so long to leave before a process does
ALONE_S = 10.0  # an ended process waits at most so long for the hub's word


class Participant:
    """The process. Its actor's observer."""

    def __init__(self, part: Part) -> None:
        self.part, self.label = part, part.label
        self.spec = spec_at(part.place)()
        roles = dict(self.spec.cast())
        for name in self.spec.traitors:
            roles.setdefault(name, Silent())
        self.names = {self.spec.label(name): name for name in roles}
        self.name = self.names[part.label]
        self.identities = {name: self.spec.identity(name) for name in roles}
        self.kinds = kinds(self.spec, roles.values())
        self.links = Links(part.schedule)
        past = part.past or Past()
        self._catch_up(past)
        self._draws = past.draws
        forth = {name: identity.public for name, identity in self.identities.items()}
        self.actor = Actor(
            self.label,
            roles[self.name] if part.past is None else self.spec.restarted(self.name),
            self.links,
            self,
            labels={name: self.spec.label(name) for name in roles},
            addresses=forth,
            names={key: name for name, key in forth.items()},
            nth=past.inputs,
        )
        me = self.identities[self.name]
        self.line = Line(self)
        self.reports = ZeroMQTransport(me.curve_secret)
        self.store = ReportedStore(self, SQLiteStore(Path(part.folder) / "store.sqlite"))
        self.runner = Runner(
            self.actor,
            self.line,
            run=RUN,
            signer=me,
            kinds=self.kinds,
            limits=LIMITS,
            store=self.store,
            worker=ReportedWorker(self),
            draw=self._draw,
            observe=self._observe,
            clock=time.time,
        )
        self._began = 0.0
        self._running: asyncio.Task[None] | None = None

    def _catch_up(self, past: Past) -> None:
        """What happened before a restart does not happen again."""
        for label, count in past.sent.items():
            for _ in range(count):
                self.links.fate(self.label, label, 0.0)
        for _ in range(past.jobs):
            self.links.stretch(self.label)

    async def main(self) -> None:
        """Report for duty and do what the hub says, until it says to end."""
        await self.reports.start()
        await self.line.start()
        self.reports.connect(self.part.hub_key, self.part.hub_curve, self.part.hub)
        self.report(Ready())
        while True:
            arrival = await self.reports.receive()
            await self._obey(read_order(arrival.parts[0]))

    async def _obey(self, order: Order) -> None:
        match order:
            case Doors(addresses=addresses):
                for label, address in addresses.items():
                    other = self.identities[self.names[label]]
                    self.line.connect(other.public, other.curve_public, address)
            case Go(began=began, closed=closed):
                self._began, self.links.closed = began, closed
                self._running = asyncio.create_task(self._run())
                await asyncio.sleep(0)  # the runner starts and restores its role
            case Act(action=action, arguments=arguments):
                self.runner.perform(lambda: self.actor.act(self.spec, self.spec.actions()[action], arguments))
            case Forge(destination=label, message=data):
                message = decode(data, self.kinds)
                self.runner.perform(lambda: self.actor.forge(self.names[label], message))
            case Close():
                self.links.closed = True
                if not self._crashing():
                    self.report(Closed())
            case End():
                os._exit(0)

    def _crashing(self) -> bool:
        """Whether it has crashed and will say so in a moment: what it sent before is still leaving."""
        began = (self.part.past or Past()).inputs
        faults = self.part.schedule.faults
        return any(
            isinstance(fault, Crash) and fault.who == self.label and began <= fault.input < self.actor.nth
            for fault in faults
        )

    async def _run(self) -> None:
        """Play the role to its end, and tell how it ended."""
        try:
            await self.runner.run(flush_s=FLUSH_S)
        except Crashed as error:
            self.report(Ended(inputs=self.actor.nth, crashed=error.crash.input))
        except InterlockError as error:
            self.report(Ended(inputs=self.actor.nth, number=error.number, text=error.text))
        except Exception:
            _leave_with_traceback()
        else:
            self.report(Ended(inputs=self.actor.nth))
        await asyncio.sleep(ALONE_S)
        os._exit(1)

    # --- what an actor tells its world ---

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def note(self, step: Step) -> None:
        """Tell the hub."""
        self.report(Noted(written=written(step)))

    def timer_set(self) -> None:
        """Tell the hub, which counts them."""
        self.report(Counted(what="timer"))

    def role_broke(self, who: str, text: str) -> None:
        """Tell the hub, which ends the run."""
        self.report(Wrong(text=text))

    def report(self, report: Report) -> None:
        """Send to the hub, in order."""
        self.reports.send(self.part.hub_key, [write(report)])

    # --- what the runner needs ---

    def _observe(self, event: fx.Event) -> None:
        if isinstance(event, Note):
            self.note(event.step)
        elif not isinstance(event, Refusal):
            self.note(Step(at=self.now(), kind="announce", who=self.label, event=event))
        elif event.number == self.actor.refusing:
            self.actor.refusing = None  # the role's own, noted already
        else:
            self.note(Step(at=self.now(), kind="refused", who=self.label, number=event.number, text=event.what))

    def _draw(self, size: int) -> bytes:
        nth = self._draws
        self._draws += 1
        self.report(Counted(what="draw"))
        return drawn(self.part.schedule.seed, nth, self.label, size)


class Line(ZeroMQTransport):
    """A participant's connections to everybody. Each message is reported as it leaves."""

    def __init__(self, participant: Participant) -> None:
        super().__init__(participant.identities[participant.name].curve_secret)
        self._participant = participant

    def send(self, to: bytes, parts: Sequence[Buffer]) -> None:
        """Send; the router knows by the report what becomes of it."""
        participant = self._participant
        out = participant.actor.outgoing.popleft()
        step = Step(
            at=participant.now(), kind="send", who=participant.label, peer=out.peer, message=out.message,
            blobs=contents(out.blobs), mark=out.mark, ordinal=out.ordinal,
        )  # fmt: skip
        participant.report(Sent(written=written(step), sequence=sequence_of(parts), extra=out.extra))
        super().send(to, parts)

    async def receive(self) -> Arrival:
        """The next message."""
        arrival = await super().receive()
        self._participant.actor.incoming = (sequence_of(arrival.parts), "")
        return arrival


class ReportedWorker(ThreadWorker):
    """Computes what the spec says, for as long as the schedule says."""

    def __init__(self, participant: Participant) -> None:
        super().__init__(self._job)
        self._participant = participant

    def submit(self, job: Any, done: Done) -> None:
        """Compute `job` after all earlier ones."""
        participant = self._participant
        more = participant.links.stretch(participant.label)
        participant.report(Counted(what="job", seconds=more))
        super().submit((job, more), done)

    def _job(self, what: tuple[Any, float]) -> Any:
        job, more = what
        time.sleep(more)
        return self._participant.spec.compute(self._participant.name, job)


class ReportedStore:
    """A file, whose changes the hub hears of."""

    def __init__(self, participant: Participant, store: SQLiteStore) -> None:
        self._participant, self._store = participant, store

    def load(self) -> Mapping[str, bytes]:
        """All values, by key."""
        return self._store.load()

    def put(self, values: Mapping[str, bytes]) -> None:
        """Replace these values."""
        self._store.put(values)
        participant = self._participant
        for key, value in values.items():
            participant.note(Step(at=participant.now(), kind="store", who=participant.label, name=key, data=value))


def _end_with(descriptor: int) -> None:
    """Leave once whoever holds the other end of a pipe is gone."""
    while os.read(descriptor, 1 << 12):
        pass
    os._exit(1)


def _leave_with_traceback() -> None:
    """Leave at once: a job may still run in its thread."""
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    """Play the part on the first line of the input."""
    part = msgspec.json.decode(sys.stdin.buffer.readline(), type=Part)
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        asyncio.run(Participant(part).main())
    except Exception:
        _leave_with_traceback()


if __name__ == "__main__":
    main()
