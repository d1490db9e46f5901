"""What happened in a run, as observers see it: a list of steps in one order, and questions about it.

A property reads nothing else, so the same property judges an in-memory model, the real code in virtual time, real
processes and what a run wrote down. `Seen` is that reader. It remembers what each answer depended on, so that a
property is asked again only when something it looked at has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from interlock.protocols.canonical import Message
from interlock.protocols.effects import Event

Kind: TypeAlias = Literal[
    "act",  # who took action `name` with `arguments`
    "impossible",  # who could not take action `name` (Misused, or `mark` "down"); nothing changed
    "send",  # who sent `message` to peer; `mark` says what becomes of it
    "deliver",  # who received `message` of peer; `sent` is the index of its send
    "lost",  # who was down when `message` of peer arrived
    "timer",  # timer `name` of who rang
    "done",  # a job of who ended; `name` shows the job
    "drawn",  # who got the random bytes it asked for under `name`
    "announce",  # who announced `event`
    "store",  # who stored `data` under `name`
    "refused",  # who dropped an input with error `number`
    "crash",  # who is gone; `mark` is "dead" if it never comes back
    "back",  # who starts again from what it stored
    "stop",  # who ended; `number` is its error's, if any
    "broken",  # who raised what no role may raise
]

# What becomes of a message (on its "send" step, and again on its "deliver" or "lost" step) or job (on its "done" step).
# "": as planned.
Mark: TypeAlias = Literal[
    "", "drop", "twice", "again", "delay", "reorder", "partition", "down", "nobody", "forged", "dead", "slow"
]

LOST: frozenset[str] = frozenset({"drop", "partition", "down", "nobody"})  # marks of messages that never arrive


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened.

    at: virtual seconds. who, peer: labels. ordinal: of a message on its link; -1 for copies and forged ones.
    blobs: contents of a message's blobs. text: for readers.
    """

    at: float
    kind: Kind
    who: str
    peer: str = ""
    name: str = ""
    arguments: dict[str, Any] = {}
    message: Message | None = None
    blobs: tuple[bytes, ...] = ()
    event: Event | None = None
    number: int | None = None
    text: str = ""
    mark: Mark = ""
    ordinal: int = -1
    sent: int = -1
    data: bytes = b""


History: TypeAlias = list[Step]

T = TypeVar("T")


class Occurrence(Generic[T]):
    """An event or message in the history. Its own fields are attributes too: `seen(Halted)[0].voter`.

    Where a field has the name of an attribute below, `what.field` reaches it.

    Attributes:
        what: the event or message itself.
        by: label of who announced or sent it. at: virtual seconds. nth: index of its step.
        receiver: label of whom a message was for; empty for an event.
        mark: what became of a message, see `Mark`.
        blobs: contents of a message's blobs.
    """

    __slots__ = ("at", "blobs", "by", "mark", "nth", "receiver", "what")

    def __init__(self, what: T, step: Step, nth: int, *, by: str, receiver: str = "") -> None:
        self.what, self.at, self.nth, self.by, self.receiver = what, step.at, nth, by, receiver
        self.mark, self.blobs = step.mark, step.blobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.what, name)

    def __repr__(self) -> str:
        return f"{self.what!r} by {self.by} at {self.at:.3f}"


class Stored:
    """A value that a participant stored. Attributes: by, at, nth as of an `Occurrence`; key, value."""

    __slots__ = ("at", "by", "key", "nth", "value")

    def __init__(self, step: Step, nth: int) -> None:
        self.by, self.at, self.nth, self.key, self.value = step.who, step.at, nth, step.name, step.data


class Seen:
    """Questions about a history that grows.

    Attributes:
        now: virtual seconds of the last step.
        quiet: when faults ended and everybody who comes back was back, None before: `eventually` counts from there.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._quiet: float | None = None
        self._steps: History = []
        self._found: dict[object, list[Any]] = {}
        self._reads: set[object] = set()
        self._changed: set[object] = set()

    def __call__(self, kind: type[Event] | None = None, **fields: Any) -> list[Occurrence[Any]]:
        """The announced events of this class (None: all) whose fields have these values, in order."""
        return _matching(self._read(("announce", kind or Event)), fields)

    def sent(self, kind: type[Message] | None = None, **fields: Any) -> list[Occurrence[Any]]:
        """The messages that were sent, lost and forged ones too: what an eavesdropper sees."""
        return _matching(self._read(("send", kind or Message)), fields)

    def messages(self, kind: type[Message] | None = None, **fields: Any) -> list[Occurrence[Any]]:
        """The messages that were received. `at` and `nth` are of the receipt."""
        return _matching(self._read(("deliver", kind or Message)), fields)

    def stored(self, key: str | None = None) -> list[Stored]:
        """What participants stored (under one key), in order."""
        return list(self._read(("store", key)))

    def steps(self, kind: Kind | None = None, who: str | None = None) -> list[Step]:
        """Steps as they are: crashes, refusals, stops and whatever else has no question of its own."""
        steps: list[Step] = self._read(("step", kind))
        return [step for step in steps if who is None or step.who == who]

    @property
    def now(self) -> float:
        """See the class."""
        self._reads.add("now")
        return self._now

    @property
    def quiet(self) -> float | None:
        """See the class."""
        self._reads.add("quiet")
        return self._quiet

    # --- for who judges ---

    def take(self, step: Step) -> None:
        """One more thing happened."""
        self._now, nth = step.at, len(self._steps)
        self._steps.append(step)
        self._changed.add("now")
        self._put(("step", None), step)
        self._put(("step", step.kind), step)
        if step.event is not None:
            self._put_classes("announce", Occurrence(step.event, step, nth, by=step.who), Event)
        elif step.message is not None and step.kind == "send":
            self._put_classes("send", Occurrence(step.message, step, nth, by=step.who, receiver=step.peer), Message)
        elif step.message is not None and step.kind == "deliver":
            self._put_classes("deliver", Occurrence(step.message, step, nth, by=step.peer, receiver=step.who), Message)
        elif step.kind == "store":
            stored = Stored(step, nth)
            self._put(("store", None), stored)
            self._put(("store", step.name), stored)

    def calm(self, at: float) -> None:
        """The quiet phase began."""
        self._now = self._quiet = at
        self._changed.update(("now", "quiet"))

    def reading(self) -> set[object]:
        """Begin to note what is read; the set fills as questions are asked."""
        self._reads = set()
        return self._reads

    def changes(self) -> set[object]:
        """What has changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def _read(self, key: object) -> list[Any]:
        self._reads.add(key)
        return self._found.get(key, [])

    def _put(self, key: object, value: object) -> None:
        self._found.setdefault(key, []).append(value)
        self._changed.add(key)

    def _put_classes(self, family: str, occurrence: Occurrence[Any], base: type) -> None:
        for kind in _classes(type(occurrence.what), base):
            self._put((family, kind), occurrence)


def _classes(kind: type, base: type) -> Iterator[type]:
    """A class and those it comes from, up to `base`."""
    for parent in kind.__mro__:
        yield parent
        if parent is base:
            return


def _matching(found: list[Occurrence[Any]], fields: dict[str, Any]) -> list[Occurrence[Any]]:
    if not fields:
        return list(found)
    return [o for o in found if all(getattr(o.what, name) == value for name, value in fields.items())]
