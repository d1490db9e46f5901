"""What a protocol designer writes: who takes part, what the outside may do, what may go wrong, what must hold.

A spec is a class. Each run makes an instance of it, so what a spec keeps on itself lives for one run.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, overload

from interlock.protocols.canonical import Message
from interlock.protocols.errors import Misused
from interlock.vault import Identity, Secret

from .schedule import Schedule

Name: TypeAlias = str | bytes  # of a participant: what its peers send to
PropertyKind: TypeAlias = Literal["always", "eventually", "sometimes", "rate"]

# Faults that `Spec.faults` may name: the parts of a schedule; "death" lets a crash be for good.
FAULTS = frozenset({"drop", "twice", "delay", "reorder", "crash", "death", "partition", "slow"})

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something that the outside may do to a participant.

    name: the method's. text: its docstring. arguments: Hypothesis strategies by name. by: who may take it, a class
    of roles or labels; None is every honest participant. call: the method, `(spec, role, **arguments) -> effects`.
    """

    name: str
    text: str
    arguments: Mapping[str, Any]
    by: type | tuple[str, ...] | None
    call: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Property:
    """Something that must hold.

    name: the method's. text: its docstring: the statement. call: the method, `(spec, seen)`.
    within: virtual seconds, for `eventually`. at_least, runs, confidence: for `rate`.
    """

    kind: PropertyKind
    name: str
    text: str
    call: Callable[..., Any]
    within: float = 0.0
    at_least: float = 0.0
    runs: int = 0
    confidence: float = 0.0


@overload
def action(method: F, /) -> F: ...


@overload
def action(*, by: type | tuple[str, ...] | None = None, **arguments: Any) -> Callable[[F], F]: ...


def action(
    method: Callable[..., Any] | None = None, /, *, by: type | tuple[str, ...] | None = None, **arguments: Any
) -> Any:
    """Mark a method as something the outside may do: `(self, role, **arguments) -> effects`.

    Args:
        by: who may take it: a class of roles, or labels. None: every honest participant.
        arguments: a Hypothesis strategy each; they draw what JSON holds.
    """

    def mark(method: F) -> F:
        made = Action(name=method.__name__, text=_text(method), arguments=arguments, by=by, call=method)
        method._part = made  # type: ignore[attr-defined]
        return method

    return mark if method is None else mark(method)


def always(method: F) -> F:
    """Mark a property that must hold after every step: `(self, seen) -> bool`, or AssertionError with a message."""
    return _property(method, "always")


def sometimes(method: F) -> F:
    """Mark a situation that must be reached in some run: a spec that never gets there has tried too little."""
    return _property(method, "sometimes")


def eventually(*, within: float) -> Callable[[F], F]:
    """Mark a property that must come to hold within so many virtual seconds after the faults end.

    A run ends once all of them hold (and `settle` has passed); one that does not hold when its time is up is broken.
    """
    if not within > 0:
        raise Misused(801, "eventually(within=...)", expected="more than 0 seconds", actual=within)
    return lambda method: _property(method, "eventually", within=within)


def rate(*, at_least: float, runs: int, confidence: float = 0.99) -> Callable[[F], F]:
    """Mark a property that holds in at least this part of the runs: `(self, seen) -> bool | None` at a run's end.

    None: the run does not count. The runs are those of seeds 0, 1, ..., so the verdict is the same each time.
    """
    if not (0 < at_least < 1 and runs >= 1 and 0.5 < confidence < 1):
        expected = "0 < at_least < 1, runs >= 1, 0.5 < confidence < 1"
        raise Misused(801, "rate(...)", expected=expected, actual=(at_least, runs, confidence))
    return lambda method: _property(method, "rate", at_least=at_least, runs=runs, confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Most of each that one run may have. A run that goes beyond is broken: nothing runs for ever."""

    messages: int = 20_000
    timers: int = 20_000
    steps: int = 100_000
    seconds: float = 600.0


class Spec:
    """Base of all specs.

    Attributes:
        name: default: its module's last name. version: raise it when old schedules lose their meaning.
        faults: which of `FAULTS` may happen.
        traitors: for each participant that may lie, a strategy of the messages it may forge.
        messages: union of the message classes that participants read; default: those in the modules of the roles and
            of the classes they come from.
        crashing: labels of who may crash; None is every honest participant.
        may_stop: numbers of errors with which a participant may end.
        latency: seconds that a message takes. settle: seconds that a run goes on at least after the faults end.
        small_most: how many schedules of the small scope are tried at most; raise runs instead where a run is slow.
        inputs_max, seconds: how many inputs a random schedule has at most, and within which time they come.
        symbolic: properties that read what only a spec's own workers write: nobody judges them over a real run.
        cost: about how many runs of the halting example one run costs; where nobody says how many runs, a spec gets
            so many times fewer.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    faults: ClassVar[Iterable[str]] = frozenset()
    traitors: ClassVar[Mapping[Any, Any]] = {}
    messages: ClassVar[Any] = None
    crashing: ClassVar[Collection[str] | None] = None
    may_stop: ClassVar[Iterable[int]] = frozenset()
    latency: ClassVar[float] = 0.01
    settle: ClassVar[float] = 0.5
    small_most: ClassVar[int] = 20_000
    inputs_max: ClassVar[int] = 6
    seconds: ClassVar[float] = 2.0
    symbolic: ClassVar[Iterable[str]] = ()
    cost: ClassVar[int] = 1
    bounds: ClassVar[Bounds] = Bounds()
    _parts: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        if not cls.name:
            cls.name = cls.__module__.rpartition(".")[2]
        cls._parts = _marked(cls)
        if unknown := set(cls.faults) - FAULTS:
            raise Misused(801, f"spec {cls.name}: faults", expected=sorted(FAULTS), actual=sorted(unknown))

    def cast(self) -> Mapping[Any, Any]:
        """Who takes part: a fresh role for each name. Override it.

        A name is what the others send to: a short string, or a 32-byte identity key.

        Raises:
            Misused: E801, the spec casts nobody.
        """
        raise Misused(
            801, f"spec {self.name} casts nobody", todo="Define cast(self), which gives a role for each name."
        )

    def restarted(self, name: Any) -> Any:
        """The fresh role of a participant that starts again; `restore` with what it stored comes next."""
        return self.cast()[name]

    def label(self, name: Any) -> str:
        """A name as schedules, histories and diagrams show it."""
        return name if isinstance(name, str) else name.hex()[:8]

    def identity(self, name: Any) -> Identity:
        """The keys that `name` signs with, where messages are really sent."""
        return _identity(self.label(name))

    def allows(self, schedule: Schedule) -> bool:
        """Whether a schedule is within what the protocol promises to bear, such as at most f deaths."""
        return True

    def compute(self, name: Any, job: Any) -> Any:
        """What a `Work(job)` of this participant gives."""
        raise Misused(809, f"the roles of spec {self.name} have no work", todo="Define compute(self, name, job).")

    def work_seconds(self, job: Any) -> float:
        """How long it takes, in virtual seconds."""
        return 0.005

    # --- what the kit reads ---

    @classmethod
    def actions(cls) -> dict[str, Action]:
        """The actions, in the order they are written."""
        return {name: part for name, part in cls._parts.items() if isinstance(part, Action)}

    @classmethod
    def properties(cls) -> dict[str, Property]:
        """The properties, in the order they are written.

        Raises:
            Misused: E801, there is none.
        """
        found = {name: part for name, part in cls._parts.items() if isinstance(part, Property)}
        if not any(part.kind != "sometimes" for part in found.values()):
            raise Misused(
                801,
                f"spec {cls.name} has no property",
                todo="Mark what must hold with @always, @eventually(within=...) or @rate(...).",
            )
        return found

    @classmethod
    def statement(cls) -> str:
        """The first line of the docstring of the spec, or of its module."""
        text = (
            cls.__doc__
            if cls.__doc__ and "__doc__" in vars(cls)
            else getattr(sys.modules[cls.__module__], "__doc__", "")
        )
        return (text or "").strip().partition("\n")[0]


def kinds(spec: Spec, roles: Iterable[Any]) -> Any:
    """The union of message classes that a spec's participants read.

    Raises:
        Misused: E801, there is none.
    """
    if spec.messages is not None:
        return spec.messages
    modules = {base.__module__ for role in roles for base in type(role).__mro__}
    found = {
        (part.__module__, part.__qualname__): part
        for module in sorted(modules)
        for part in vars(sys.modules[module]).values()
        if isinstance(part, type) and issubclass(part, Message) and part is not Message
    }
    if not found:
        raise Misused(801, f"spec {spec.name} has no messages", todo="Set `messages` to the union of their classes.")
    return reduce(or_, (found[key] for key in sorted(found)))


@functools.cache
def _identity(label: str) -> Identity:
    return Identity(Secret(hashlib.sha256(b"interlock/spec/" + label.encode()).digest()))


def _property(method: F, kind: PropertyKind, **settings: Any) -> F:
    made = Property(kind=kind, name=method.__name__, text=_text(method), call=method, **settings)
    method._part = made  # type: ignore[attr-defined]
    return method


def _marked(cls: type) -> dict[str, Any]:
    """Marked methods, base classes first, each in the order it is written; an override keeps its place."""
    names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    return {name: part for name in names if (part := getattr(getattr(cls, name), "_part", None)) is not None}


def _text(method: Callable[..., Any]) -> str:
    """A docstring as one line."""
    return " ".join((method.__doc__ or "").split())
