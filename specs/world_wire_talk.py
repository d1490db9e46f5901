"""What the hub of a run over the wire and the process of a participant say to each other.

The hub starts a process, tells it where the doors are, and, when everybody can hear everybody, lets it go; from then
on the process reports each step as it happens. A process that ends by itself says so and waits for `End`, so that
nothing it reported is lost. Everything here is plain data: MessagePack, and JSON for the first line.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import msgspec

from interlock.protocols.canonical import decode, encode
from interlock.protocols.effects import Event
from interlock.protocols.errors import Misused
from interlock.protocols.wire import Buffer, Envelope

from .history import Step
from .schedule import Schedule
from .spec import Spec

MAIN = "__main__"
MAIN_ELSEWHERE = "__interlock_main__"  # the program's own module, where another process loads it


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a spec's class is. file: of the module, if it has one."""

    module: str
    name: str
    file: str | None


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What a participant did before it starts again. sent: messages by the label of whom they were for."""

    inputs: int = 0
    jobs: int = 0
    draws: int = 0
    sent: dict[str, int] = {}


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What a process plays, as its first line of input.

    folder: its own, for its store. hub, hub_key, hub_curve: address, identity and CURVE key of the hub.
    past: None the first time.
    """

    place: Place
    schedule: Schedule
    label: str
    folder: str
    hub: str
    hub_key: bytes
    hub_curve: bytes
    past: Past | None


# --- to a participant ---


class Doors(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Connect to everybody: addresses by label."""

    addresses: dict[str, str]


class Go(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Start. began: the system's monotonic clock at second 0 of the run. closed: the time of faults is over."""

    began: float
    closed: bool


class Act(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Take an action."""

    action: str
    arguments: dict[str, Any]


class Forge(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Send a forged message, given in its canonical bytes."""

    destination: str
    message: bytes


class Close(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The time of faults is over: answer with `Closed`."""


class End(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Everything has arrived: leave."""


Order: TypeAlias = Doors | Go | Act | Forge | Close | End


# --- to the hub ---


class Ready(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The process is there."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A step without its message and event; those beside it, in bytes: a message's are canonical. kind: of the event,
    its module and name."""

    step: Step
    message: bytes = b""
    event: bytes = b""
    kind: tuple[str, str] = ("", "")


class Noted(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Something happened. A receipt's `sent` is the message's sequence number, which the hub puts right."""

    written: Written


class Sent(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A message goes out under this sequence number. extra: see `links.Outgoing`."""

    written: Written
    sequence: int
    extra: float


class Counted(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """One more of these. seconds: how much longer than others a job takes."""

    what: Literal["timer", "job", "draw"]
    seconds: float = 0.0


class Wrong(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The role raised what no role may raise."""

    text: str


class Closed(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """No fault happens from here on."""


class Ended(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The process is about to leave. inputs: how many it had in the run. crashed: at this input, as the schedule
    says; else it stopped, with an error if `text` says so; number: the error's, if it has one."""

    inputs: int
    crashed: int | None = None
    number: int | None = None
    text: str = ""


Report: TypeAlias = Ready | Noted | Sent | Counted | Wrong | Closed | Ended

read_order = msgspec.msgpack.Decoder(Order).decode
read_report = msgspec.msgpack.Decoder(Report).decode
write = msgspec.msgpack.Encoder().encode


def sequence_of(parts: Sequence[Buffer]) -> int:
    """The sequence number on a message's envelope."""
    envelope: Envelope = decode(parts[0], Envelope)
    return envelope.sequence


# --- steps ---


def written(step: Step) -> Written:
    """A step as it travels."""
    bare = msgspec.structs.replace(step, message=None, event=None)
    if step.event is not None:
        kind = (type(step.event).__module__, type(step.event).__qualname__)
        return Written(step=bare, event=write(step.event), kind=kind)
    return Written(step=bare, message=b"" if step.message is None else encode(step.message))


def read_step(what: Written, kinds: Any) -> Step:
    """The step. kinds: union of the message classes."""
    if what.event:
        return msgspec.structs.replace(what.step, event=_events(what.kind).decode(what.event))
    if what.message:
        return msgspec.structs.replace(what.step, message=decode(what.message, kinds))
    return what.step


@functools.cache
def _events(kind: tuple[str, str]) -> msgspec.msgpack.Decoder[Event]:
    module, name = kind
    found = _inside(import_module(MAIN if module == MAIN_ELSEWHERE else module), name)
    if not (isinstance(found, type) and issubclass(found, Event)):
        raise Misused(820, f"event {name} of {module} cannot be found by its name", todo="Define it in a module.")
    return msgspec.msgpack.Decoder(found)


# --- specs by name ---


def place_of(spec: type[Spec]) -> Place:
    """Where another process finds a spec.

    Raises:
        Misused: E820, it cannot be found by its name.
    """
    module = sys.modules.get(spec.__module__)
    if module is None or _inside(module, spec.__qualname__) is not spec:
        raise Misused(
            820,
            f"other processes cannot find spec {spec.name}",
            expected=f"{spec.__qualname__} in module {spec.__module__}",
            todo="Define the class at the top of a module; on the wire each participant imports it.",
        )
    file = getattr(module, "__file__", None)
    return Place(
        module=MAIN_ELSEWHERE if spec.__module__ == MAIN else spec.__module__,
        name=spec.__qualname__,
        file=None if file is None else str(Path(file).resolve()),
    )


def spec_at(place: Place) -> type[Spec]:
    """The spec, imported by name, or from its file where no import finds that."""
    found: type[Spec] = _inside(_module(place), place.name)
    return found


def _module(place: Place) -> ModuleType:
    try:
        found = importlib.util.find_spec(place.module)
    except ModuleNotFoundError:
        found = None
    if place.file is None or (found is not None and found.origin == place.file):
        return import_module(place.module)
    loading = importlib.util.spec_from_file_location(place.module, place.file)
    assert loading is not None and loading.loader is not None
    sys.modules[place.module] = module = importlib.util.module_from_spec(loading)
    loading.loader.exec_module(module)
    return module


def _inside(module: ModuleType, name: str) -> Any:
    """What a qualified name means in a module; None if nothing."""
    return functools.reduce(lambda holder, part: getattr(holder, part, None), name.split("."), module)  # type: ignore[arg-type, return-value]
