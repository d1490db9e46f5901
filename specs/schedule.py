"""A schedule: everything about one run that is not the plain course of things, as one small frozen value.

Whatever a schedule does not mention happens in the plain order: each message arrives after the spec's latency, each
timer rings when it said, nobody crashes. Inputs, faults and forged messages are list items, so a failure shrinks by
removing them. Participants are named by their labels. A message is named by its link and its ordinal there: the
n-th message (from 0) that `source` sent to `destination` in this run, copies and forged ones not counted.

A schedule's JSON is the report of a failure and its regression. Sample:

    {"spec":"halting","version":1,"seed":0,"inputs":[{"at":0.0,"who":"n0","action":"ask","arguments":{"step":1}}],
     "faults":[{"fault":"drop","source":"n0","destination":"n1","ordinal":0}],"forged":[]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec

from interlock.protocols.canonical import decode, encode
from interlock.protocols.errors import Misused

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Ordinal = Annotated[int, msgspec.Meta(ge=0)]
BACK_S_MIN = 0.05  # a process takes longer to start, and its message numbers begin at its clock


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the parts of a schedule."""


class Input(Part, frozen=True):
    """`who` takes `action` with `arguments` (values that JSON holds) at this time."""

    at: Seconds
    who: str
    action: str
    arguments: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if (wrong := next(_not_json(self.arguments), None)) is not None:
            raise Misused(
                807,
                f"an argument of action {self.action} cannot be kept in a schedule",
                expected="numbers, strings, true, false, null, lists and objects of them",
                actual=f"{type(wrong).__name__} {wrong!r}",
                todo="Draw what JSON holds, and build the value in the action.",
            )


class Drop(Part, frozen=True, tag_field="fault", tag="drop"):
    """This message never arrives."""

    source: str
    destination: str
    ordinal: Ordinal


class Twice(Part, frozen=True, tag_field="fault", tag="twice"):
    """The sender sends this message again right away, as a message of its own."""

    source: str
    destination: str
    ordinal: Ordinal


class Delay(Part, frozen=True, tag_field="fault", tag="delay"):
    """This message takes `by` seconds more; later ones of the link may overtake it."""

    source: str
    destination: str
    ordinal: Ordinal
    by: Seconds


class Reorder(Part, frozen=True, tag_field="fault", tag="reorder"):
    """This message waits until the next one of its link has arrived, a second at most."""

    source: str
    destination: str
    ordinal: Ordinal


class Crash(Part, frozen=True, tag_field="fault", tag="crash"):
    """`who` carries out only the first `effects` effects of an input, and is gone.

    input: which one, counted from 0 over the whole run; input 0 is its start, each restart is one more.
    back: seconds until it starts again from what it stored; None: it is dead for good.
    """

    who: str
    input: Ordinal
    effects: Ordinal
    back: Annotated[float, msgspec.Meta(ge=BACK_S_MIN, le=86_400)] | None


class Partition(Part, frozen=True, tag_field="fault", tag="partition"):
    """Messages sent between `side` and the rest in this time are lost."""

    at: Seconds
    seconds: Seconds
    side: tuple[str, ...]


class Slow(Part, frozen=True, tag_field="fault", tag="slow"):
    """The n-th job (from 0) of `who` takes `by` seconds more."""

    who: str
    ordinal: Ordinal
    by: Seconds


class Forged(Part, frozen=True):
    """A traitor sends a message of its choice.

    message: its canonical bytes, in hexadecimal. shown: the same for readers; nothing depends on it.
    """

    at: Seconds
    source: str
    destination: str
    message: str
    shown: str = ""


LinkFault: TypeAlias = Drop | Twice | Delay | Reorder
Fault: TypeAlias = Drop | Twice | Delay | Reorder | Crash | Partition | Slow


class Schedule(Part, frozen=True):
    """One run of a spec: see the module's docstring. `seed` decides the bytes that `Draw` gives."""

    spec: str
    version: int
    seed: Ordinal = 0
    inputs: tuple[Input, ...] = ()
    faults: tuple[Fault, ...] = ()
    forged: tuple[Forged, ...] = ()

    @property
    def summary(self) -> str:
        """How much is in it: `3 inputs, 1 fault, 0 forged`."""
        inputs, faults = len(self.inputs), len(self.faults)
        return f"{inputs} input{'s' * (inputs != 1)}, {faults} fault{'s' * (faults != 1)}, {len(self.forged)} forged"

    def to_json(self) -> bytes:
        """The file as it is saved."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, whose: str = "schedule") -> Schedule:
        """Read a schedule strictly.

        Raises:
            Misused: E803, this is not a schedule.
        """
        try:
            return _decoder.decode(data)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
            raise Misused(
                803, f"{whose} is not a schedule: {error}", todo="Give a file that `interlock spec check` saved."
            ) from None

    def save(self, path: Path) -> None:
        """Write the file, and the folders above it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.to_json())

    @classmethod
    def load(cls, path: Path) -> Schedule:
        """Read a file.

        Raises:
            Misused: E803, it cannot be read or is not a schedule.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Misused(803, f"{path} cannot be read: {error.strerror}") from None
        return cls.from_json(data, whose=str(path))


def forged(at: float, source: str, destination: str, message: Any) -> Forged:
    """A forged message as an item of a schedule."""
    return Forged(at=at, source=source, destination=destination, message=encode(message).hex(), shown=repr(message))


def message_of(item: Forged, kinds: Any) -> Any:
    """The message that a traitor sends.

    Raises:
        Misused: E803, it is not hexadecimal. Refused: E201, it is no message of `kinds`.
    """
    try:
        data = bytes.fromhex(item.message)
    except ValueError:
        raise Misused(803, f"the forged message of {item.source} is not hexadecimal") from None
    return decode(data, kinds, whose=f"forged message of {item.source}")


def _not_json(value: object) -> Iterator[object]:
    """Every part of a value that would not come back from JSON as it was."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                yield key
            yield from _not_json(part)
    elif isinstance(value, list):
        for part in value:
            yield from _not_json(part)
    elif value is not None and (type(value) not in (bool, int, float, str) or value in _NOT_FINITE or value != value):
        yield value


_NOT_FINITE = (float("inf"), float("-inf"))
_decoder = msgspec.json.Decoder(Schedule, strict=True)
