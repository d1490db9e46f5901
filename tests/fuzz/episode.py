"""One small run with its real roles, and nearly right messages for them between its real ones.

A role is reached as `Runner` reaches it: what arrives is unpacked with its limits, checked for replay, and handed to
the role, whose effects are carried out. Workers are symbolic, as in the specs of a run; there is no time.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from interlock.protocols import messages
from interlock.protocols.canonical import Message, encode
from interlock.protocols.effects import After, Blob, Draw, Effects, Send, Stop, Store, Work
from interlock.protocols.errors import InterlockError, Refused
from interlock.protocols.net.runner import DOOR_SENDERS, EFFECTS_MAX
from interlock.protocols.obeying import Ordering
from interlock.protocols.release import Declined
from interlock.protocols.wire import DOOR_LIMITS, Envelope, Replay, pack, unpack
from interlock.specs.links import CLOCK_S
from interlock.specs.run import COORDINATOR, RunSpec, identity, key
from interlock.specs.symbolic import SymbolicEngine
from interlock.vault import Identity

from .mutations import any_order, blobs_changed, bytes_changed, fields_changed, read, signed_again

KINDS = {
    "c": messages.BY_COORDINATOR,
    "g": messages.BY_GATE,
    "r": messages.BY_RELAY,
    "n": messages.BY_NODE,
}
# Who may have a connection to whom: a gate and a node open theirs themselves, a relay admits nodes.
PEERS = {"c": "grn", "g": "c", "r": "cn", "n": "cr"}
STRANGER = "n8"  # a key that nobody invited
# An insider can void rounds until the run ends; who has the coordinator's own key can show it rows that it forgot.
MAY_STOP = {320, 335}
TRIES = 3  # mutations that are tried until one can be read
STUMBLES = 0.004  # jobs that fail, where members lie
ORDERS = 0.01  # orders that are handed in, for each real input
RINGS_MAX = 12
INPUTS_MAX = 3000  # of one episode, real ones
REMEMBERED = 400  # real messages of one kind of process, to make others from


class Fault(Exception):
    """What may not happen whatever arrives: `what` in one line."""


@dataclass(frozen=True)
class Heard:
    """One arrival: parts from `source`; `known` if its connection is admitted."""

    to: str
    source: str
    known: bool
    parts: list[bytes]


@dataclass
class Participant:
    """One process without its sockets."""

    label: str
    role: Any
    replay: Replay = field(default_factory=Replay)
    door: Replay = field(default_factory=lambda: Replay(DOOR_SENDERS))
    stored: dict[str, bytes] = field(default_factory=dict)
    timers: set[str] = field(default_factory=set)
    over: bool = False

    @property
    def kinds(self) -> Any:
        """The messages that it reads."""
        return KINDS[self.label[0]]


class Plan(RunSpec):
    """The run: two stages of two nodes, a turn between its rounds."""


class Episode:
    """A run, and mutated messages between its messages.

    Args:
        seed: everything follows from it. pool: bytes of messages from elsewhere. a_real: mutated messages before each
            real one.
        role: makes a participant's role; by default the program's own.
    """

    def __init__(
        self,
        seed: str,
        pool: Sequence[bytes],
        *,
        a_real: int,
        role: Callable[[RunSpec, bytes], Any] = RunSpec.role,
    ) -> None:
        self.dice, self.pool, self.a_real = random.Random(seed), pool, a_real
        self.insiders = self.dice.random() < 0.5  # whether mutated records are signed again
        self.orderly = self.dice.random() < 0.5  # whether keyholders hand in orders meanwhile
        self.plan = Plan()
        self.manifest = self.plan.manifest
        self.limits = messages.limits(self.manifest)
        labels = (COORDINATOR, *(f"g{i}" for i in range(3)), "r0", *(f"n{i}" for i in range(4)))
        self.people = {label: Participant(label, role(self.plan, key(label))) for label in labels}
        self.engines = {label: SymbolicEngine(self.manifest) for label in labels if label.startswith("n")}
        self.label_of = {key(label): label for label in (*labels, STRANGER)}
        self.sequence, self.draws = 1_000_000, 0
        self.real: dict[str, list[tuple[str, bytes, list[bytes]]]] = {kind: [] for kind in KINDS}
        self.queue: deque[tuple[str, Callable[[], Effects]]] = deque()
        self.last: Heard | None = None

    # --- the run ---

    def play(self) -> Iterator[Heard]:
        """Go through the run; each mutated message is given before the role hears it: see `hear`.

        Raises:
            Fault: a real input did what may not happen.
        """
        for label, person in self.people.items():
            self.queue.append((label, partial(person.role.restore, {})))
        rings, inputs, known = 0, 0, 0
        while rings < RINGS_MAX and inputs < INPUTS_MAX and not self.people[COORDINATOR].over:
            if not self.queue:
                written = len(self.people[COORDINATOR].stored)
                rings, known = (rings + 1 if written == known else 0), written
                self._ring()
                continue
            inputs += 1
            if self.orderly and self.dice.random() < ORDERS:
                self._order()
            label, call = self.queue.popleft()
            for _ in range(self.a_real):
                yield self._mutated(label if self.dice.random() < 0.7 else self.dice.choice(list(self.people)))
            self.step(label, call)

    def hear(self, heard: Heard) -> int:
        """Let a role hear parts as a runner would: the number by which they are refused, 0 if they are not.

        Raises:
            Fault: anything else than a refusal, or an end that says why.
        """
        person = self.people[heard.to]

        def call() -> Effects:
            received = unpack(
                heard.parts,
                kinds=person.kinds if heard.known else messages.BY_STRANGERS,
                run=self.manifest.run,
                me=key(heard.to),
                peer=key(heard.source) if heard.known else None,
                limits=self.limits if heard.known else DOOR_LIMITS,
            )
            (person.replay if heard.known else person.door).check(received.sender, received.sequence)
            effects: Effects = person.role.on_message(received.sender, received.message, received.blobs)
            return effects

        return self.step(heard.to, call)

    def step(self, label: str, call: Callable[[], Effects]) -> int:
        """One input of a role."""
        person = self.people[label]
        if person.over:
            return 0
        try:
            person.role.at(CLOCK_S)
            effects = call()
        except Refused as refused:
            return refused.number
        except Exception as error:
            raise Fault(f"{label}: {type(error).__name__}: {error}") from error
        if len(effects) > EFFECTS_MAX:
            raise Fault(f"{label}: {len(effects)} effects of one input")
        for effect in effects:
            self._carry_out(person, effect)
        said = [effect.message for effect in effects if isinstance(effect, Send)]
        return next((message.number for message in said if isinstance(message, Declined)), 0)  # a gate's refusal

    def _carry_out(self, person: Participant, effect: Any) -> None:
        role, label = person.role, person.label
        match effect:
            case Send(to, message, blobs):
                self._send(label, self.label_of.get(to, ""), message, blobs)
            case Store(name, value):
                person.stored[name] = value
            case After(_, name):
                person.timers.add(name)
            case Draw(name, size):
                self.draws += 1
                data = random.Random(f"{label} {self.draws}").randbytes(size)
                self.queue.append((label, partial(role.on_drawn, name, data)))
            case Work(job):
                if self.insiders and self.dice.random() < STUMBLES:
                    self.engines[label].stumbles = True  # so that there are troubles to make others from
                self.queue.append((label, partial(role.on_done, job, self.engines[label](job))))
            case Stop(error):
                person.over = True
                if error is not None and not (isinstance(error, InterlockError) and error.number in MAY_STOP):
                    raise Fault(f"{label} stops: {error}") from error

    def _send(self, source: str, to: str, message: Message, blobs: Sequence[Blob]) -> None:
        """A real message on its way; whatever a role sends must be something that its receiver can read."""
        if to not in self.people:
            return
        data = encode(message)
        if read(data, self.people[to].kinds) is None:
            raise Fault(f"{source} sends a {type(message).__name__} that nobody can read")
        known = self.real[to[0]]
        entry = (source, data, [bytes(blob.data) for blob in blobs])
        if len(known) < REMEMBERED:
            known.append(entry)
        else:
            known[self.dice.randrange(REMEMBERED)] = entry
        role = self.people[to].role
        self.queue.append((to, partial(role.on_message, key(source), message, tuple(blobs))))

    def _ring(self) -> None:
        """Nothing else moves: every timer rings but those that give up."""
        for label, person in self.people.items():
            for name in sorted(name for name in person.timers if not name.startswith(("patience", "orphaned"))):
                person.timers.discard(name)
                self.queue.append((label, partial(person.role.on_timer, name)))

    def _order(self) -> None:
        """Some keyholders hand an order to somebody; a run that stands still gets a good resume soon."""
        label = self.dice.choice(list(self.people))
        role = self.people[label].role
        role.at(CLOCK_S)
        stop = role.orders.in_force
        text = any_order(self.dice, self.manifest)
        if stop is not None and self.dice.random() < 0.7:
            last, prev = role.orders.standing.next_place()
            text = any_order(self.dice, self.manifest, seq=last, action="resume", cites=stop.order.seq, prev=prev)
        self.queue.append((label, partial(role.on_order, text)))

    # --- what nearly is a message ---

    def _mutated(self, to: str) -> Heard:
        dice, known = self.dice, self.real[to[0]]
        source, data, blobs = dice.choice(known) if known and dice.random() < 0.9 else self._foreign(to)
        other = dice.choice(self.pool) if dice.random() < 0.5 or not known else dice.choice(known)[1]
        if dice.random() < 0.1:
            source = self._peer(to)
        if self.last is not None and dice.random() < 0.01:
            return self.last  # a replay
        kinds, whole = KINDS[to[0]], data
        for _ in range(TRIES if dice.random() < 0.7 else 1):
            data = whole
            for _ in range(dice.choice((0, 1, 1, 1, 1, 2, 3))):
                data = (fields_changed if dice.random() < 0.8 else bytes_changed)(dice, data, other)
            if (message := read(data, kinds)) is not None:
                break
        if self.insiders and message is not None and dice.random() < 0.5:
            message = signed_again(message, self.manifest.run, self._whose)
            if isinstance(message, Ordering):
                message = Ordering(text=any_order(dice, self.manifest))
            data = encode(message)
        if dice.random() < 0.15:
            blobs = blobs_changed(dice, blobs)
        known_peer = not (to == COORDINATOR and dice.random() < 0.2)
        if not known_peer and dice.random() < 0.5:
            source = STRANGER
        parts = self._packed(source, to, data, blobs, message)
        if dice.random() < 0.05:
            parts = self._parts_changed(parts)
        self.last = Heard(to, source, known_peer, parts)
        return self.last

    def _peer(self, to: str) -> str:
        return self.dice.choice([label for label in self.people if label[0] in PEERS[to[0]] and label != to])

    def _foreign(self, to: str) -> tuple[str, bytes, list[bytes]]:
        return self._peer(to), self.dice.choice(self.pool), []

    def _whose(self, name: bytes) -> Identity | None:
        """Keys of whoever a record names; the coordinator's for its rows."""
        label = self.label_of.get(name or key(COORDINATOR))
        return None if label is None else identity(label)

    def _packed(self, source: str, to: str, data: bytes, blobs: list[bytes], message: Message | None) -> list[bytes]:
        """Parts that pass the checks of the envelope, also where the body is no message."""
        self.sequence += 1
        fields: Mapping[str, Any] = dict(run=self.manifest.run, sender=identity(source), to=key(to))
        if message is not None:
            packed = pack(message, [Blob(blob) for blob in blobs], sequence=self.sequence, **fields)
            return [bytes(part) for part in packed]
        draft = Envelope(
            version=1, run=self.manifest.run, sender=key(source), to=key(to), sequence=self.sequence, signature=b""
        )
        if self.dice.random() < 0.9:
            draft = msgspec.structs.replace(draft, signature=identity(source).sign(draft.body(data)))
        return [encode(draft), data, *blobs]

    def _parts_changed(self, parts: list[bytes]) -> list[bytes]:
        """Other envelopes, and other numbers and sizes of parts."""
        dice, way = self.dice, self.dice.randrange(7)
        changed = list(parts)
        if way == 0:
            changed[0] = bytes_changed(dice, changed[0], changed[-1])
        elif way == 1:
            changed[0] = fields_changed(dice, changed[0], changed[0])
        elif way == 2:
            changed = changed[: dice.randrange(len(changed) + 1)]
        elif way == 3:
            changed = changed * dice.choice((2, 40))
        elif way == 4:
            changed.reverse()
        elif way == 5:
            changed[1] = bytes(dice.choice((DOOR_LIMITS.body_bytes, self.limits.body_bytes)) + 1)
        else:
            changed.append(b"")
        return changed
