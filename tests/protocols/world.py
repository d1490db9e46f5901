"""Roles driven by hand: one queue, no network and no time. All that is sent is recorded and may be changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.runs import Draws, identity, text

from interlock.protocols import corpus
from interlock.protocols.asker import Asker, Inquiry
from interlock.protocols.canonical import decode
from interlock.protocols.coordinator import Coordinator, RunEnded
from interlock.protocols.effects import After, Announce, Blob, Draw, Effects, Event, Send, Stop, Store, Timed, Work
from interlock.protocols.errors import InterlockError, Refused
from interlock.protocols.gate import Gate
from interlock.protocols.journal import Opened, Planned, Row
from interlock.protocols.manifest import Manifest
from interlock.protocols.members import make_invitation
from interlock.protocols.node import Node
from interlock.protocols.relay import Relay
from interlock.protocols.release import Opening
from interlock.protocols.service.engine import Engine

RINGS_MAX = 20  # of timers, while no row is written


@dataclass(frozen=True)
class Sent:
    """One message on its way, by the names of sender and receiver."""

    source: str
    to: str
    message: Any
    blobs: tuple[Blob, ...] = ()


@dataclass
class World:
    """A whole run; `change` says what arrives of each message, `before_job` sees each job before its engine does.

    whole: the text, which must be the manifest's. spares: nodes beyond those that the run needs.
    """

    manifest: Manifest
    change: Callable[[Sent], list[Sent]] = lambda sent: [sent]
    before_job: Callable[[str, Engine, Any], None] = lambda name, engine, job: None
    disclose: Path | None = None
    backends: dict[str, str] = field(default_factory=dict)  # by node, where it is not torch
    whole: corpus.Corpus = field(default_factory=text)
    rings_max: int = RINGS_MAX
    now: float = 1e9  # what every clock says
    spares: int = 0
    roles: dict[str, Any] = field(default_factory=dict)
    engines: dict[str, Engine] = field(default_factory=dict)
    stores: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    events: list[tuple[str, Event]] = field(default_factory=list)
    jobs: list[tuple[str, Any, Any]] = field(default_factory=list)
    refused: list[tuple[str, Refused]] = field(default_factory=list)
    stopped: dict[str, Exception | None] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        made, whole = self.manifest, self.whole
        self._makers: dict[str, Callable[[], Any]] = {}
        self._names: dict[bytes, str] = {}
        self._draws: dict[str, Draws] = {}
        self._timers: dict[str, set[str]] = {}
        self._queue: deque[tuple[str, Callable[[], Effects]]] = deque()

        def invited(name: str, role: Any) -> Any:
            return make_invitation(identity("ada"), run=made.run, role=role, label=name, nonce=Draws(name + "i")(16))

        index = corpus.index(whole)
        self._add(
            "coordinator",
            lambda: Coordinator(identity("coordinator"), made, index=index, chunk=lambda n: corpus.chunk(whole, n)),
        )
        for keyholder in made.committee.keyholders:
            self._add(keyholder.name, lambda n=keyholder.name: Gate(identity(n), made, operator=n))
        for name in [f"relay{i}" for i in range(made.relays)]:
            self._add(
                name,
                lambda n=name: Relay(
                    identity(n), made, operator=n, address=f"sim://{n}", invitation=invited(n, "relay")
                ),
            )
        for name in [f"node{i}" for i in range(made.stages * made.replicas + self.spares)]:
            self.engines[name] = self._engine(name)
            self._add(name, lambda n=name: Node(identity(n), made, operator=n, invitation=invited(n, "node")))

    def ask(self, name: str, inquiry: Inquiry, *, number: int = 0) -> None:
        """One more process: somebody who asks the model."""
        made = self.manifest
        invitation = make_invitation(
            identity("ada"), run=made.run, role="asker", label=name, nonce=Draws(name + "i")(16)
        )
        self._add(
            name,
            lambda: Asker(identity(name), made, operator=name, invitation=invitation, inquiry=inquiry, number=number),
        )

    def _engine(self, name: str) -> Engine:
        path = None if self.disclose is None else self.disclose / name
        backend = self.backends.get(name, "torch")
        return Engine(self.manifest, backend=backend, clock=lambda: 0.0, disclose=path)

    def _add(self, name: str, make: Callable[[], Any]) -> None:
        self._makers[name], self.stores[name] = make, {}
        self._names[identity(name).public], self._draws[name] = name, Draws(name)
        self.restart(name)

    def restart(self, name: str) -> None:
        """End a process, with all that is on its way to it, and start it anew from what it stored."""
        self.kill(name)
        self.dead.discard(name)
        if name in self.engines:
            self.engines[name] = self._engine(name)
        role = self.roles[name] = self._makers[name]()
        self._queue.append((name, lambda: role.restore(dict(self.stores[name]))))

    def kill(self, name: str) -> None:
        """End a process without a word."""
        self._queue = deque((who, call) for who, call in self._queue if who != name)
        self._timers[name] = set()
        self.dead.add(name)

    def tell(self, name: str, call: Callable[[Any], Effects]) -> None:
        """What somebody at the machine of a process asks of it."""
        self._queue.append((name, lambda: call(self.roles[name])))

    def run(self, *, until: Callable[[World], bool] = lambda world: False) -> World:
        """Go on until all rounds are taken, some role stops, or `until` says so.

        A run that is stuck ends too: when timers have rung many times and the journal has not grown.
        """
        rings, known = 0, 0
        while not any(self.stopped.values()) and "coordinator" not in self.stopped and not until(self):
            if self.events and isinstance(self.events[-1][1], RunEnded):
                break
            if not self._queue:
                rings, known = (rings + 1 if known == self._written else 0), self._written
                if rings > self.rings_max:
                    break
                self._ring()
            self.step()
        return self

    def order(self, name: str, text: str) -> None:
        """Somebody hands an order to a process."""
        role = self.roles[name]
        self._queue.append((name, partial(role.on_order, text)))

    def step(self) -> None:
        """The next input of some role, if there is one."""
        if self._queue:
            self._step(*self._queue.popleft())

    @property
    def _written(self) -> int:
        return len(self.stores["coordinator"])

    def _ring(self) -> None:
        """Nothing else moves: every timer rings, but those that give up."""
        for name, timers in self._timers.items():
            for timer in sorted(t for t in timers if not t.startswith(("patience", "orphaned"))):
                timers.discard(timer)
                role = self.roles[name]
                self._queue.append((name, partial(role.on_timer, timer)))

    def _step(self, name: str, call: Callable[[], Effects]) -> None:
        try:
            if isinstance(self.roles[name], Timed):
                self.roles[name].at(self.now)
            effects = call()
        except Refused as refused:
            self.refused.append((name, refused))
            return
        role = self.roles[name]
        for effect in effects:
            match effect:
                case Send(to, message, blobs):
                    sent = Sent(name, self._names[to], message, blobs)
                    self.sent.append(sent)
                    for arriving in self.change(sent):
                        self.deliver(arriving)
                case Announce(event):
                    self.events.append((name, event))
                case Store(key, value):
                    self.stores[name][key] = value
                    if not value:
                        del self.stores[name][key]
                case Draw(what, size):
                    drawn = self._draws[name](size)
                    self._queue.append((name, partial(role.on_drawn, what, drawn)))
                case Work(job):
                    result = self._work(name, job)
                    self._queue.append((name, partial(role.on_done, job, result)))
                case After(_, timer):
                    self._timers[name].add(timer)
                case Stop(error):
                    self.stopped[name] = error
                    self.kill(name)

    def deliver(self, sent: Sent) -> None:
        """Put a message into the queue."""
        if sent.to in self.dead:
            return
        role, source = self.roles[sent.to], identity(sent.source).public
        self._queue.append((sent.to, partial(role.on_message, source, sent.message, sent.blobs)))

    def _work(self, name: str, job: Any) -> Any:
        engine = self.engines[name]
        try:
            self.before_job(name, engine, job)
            result = engine(job)
        except InterlockError as error:
            result = error
        self.jobs.append((name, job, result))
        return result

    def rows(self) -> list[Row]:
        """The coordinator's journal."""
        return rows_of(self.stores["coordinator"])

    def all_sent(self, kind: type[Any]) -> list[Sent]:
        """All messages of a kind."""
        return [sent for sent in self.sent if isinstance(sent.message, kind)]

    def seen(self, kind: type[Event]) -> list[Any]:
        """All events of a kind."""
        return [event for _, event in self.events if isinstance(event, kind)]


def rows_of(stored: dict[str, bytes]) -> list[Row]:
    """The rows in a coordinator's store."""
    return [decode(value, Row) for key, value in sorted(stored.items()) if key.startswith("row ")]


def number_of(call: Callable[[], object]) -> int:
    """The number by which a call is refused; 0 if it is not."""
    try:
        call()
    except InterlockError as error:
        return error.number
    return 0


def openings_of(rows: list[Row]) -> dict[int, Opening]:
    """Every opening in a journal, by its tick."""
    plans = {row.body.plan.digest: row.body.plan for row in rows if isinstance(row.body, Planned)}
    opened = [row.body for row in rows if isinstance(row.body, Opened)]
    return {body.tick: Opening(plan=plans[body.plan], releases=body.releases) for body in opened}
