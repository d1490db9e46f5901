"""The byte samples of docs/wire-format.md, made from the code. `python -m tests.protocols.wire_samples` writes them.

A sample shows every byte: a line a value, hexadecimal, with the field that it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import inspect as mi
from tests.runs import identity, manifest

from interlock.kernels import mask
from interlock.protocols import messages
from interlock.protocols.boundary import Frame, make_header, make_unit
from interlock.protocols.canonical import Message, encode
from interlock.protocols.fetching import GetChunk
from interlock.protocols.journal import GENESIS, Voided, make_row
from interlock.protocols.net.transport import QUEUE_BYTES
from interlock.protocols.net.zeromq import HIGH_WATER, INBOX_BYTES, Door
from interlock.protocols.orders import Order, sign
from interlock.protocols.release import Plan
from interlock.protocols.service.process import PART_BYTES_MAX
from interlock.protocols.wire import DOOR_LIMITS, WINDOW, Envelope, Limits, pack
from interlock.specs.messages import classes

DOC = Path(__file__).parents[2] / "docs" / "wire-format.md"
BLOCK = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- end -->\n", re.DOTALL)
A_LINE = 32  # bytes
RUN = manifest()
NODE, COORDINATOR = identity("node0"), identity("coordinator")


# --- bytes, line by line ---


def lines(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The bytes of a value, and what they are."""
    told = "  " * depth + name
    data = encode(value)
    if isinstance(value, msgspec.Struct):
        tag = type(value).__struct_config__.tag
        parts = [getattr(value, field) for field in value.__struct_fields__]
        head = data[: len(data) - sum(len(encode(part)) for part in parts)]
        kind = type(value).__name__
        if tag is None:
            yield head.hex(), f"{told}: {kind}, an array of {len(parts)}"
        else:
            yield head[:1].hex(), f"{told}: an array of {len(parts) + 1}"
            yield head[1:].hex(), "  " * (depth + 1) + f"tag '{tag}'"
        for field, part in zip(value.__struct_fields__, parts, strict=True):
            yield from lines(field, part, depth + 1)
    elif isinstance(value, tuple):
        yield data[:1].hex(), f"{told}: an array of {len(value)}"
        for each in value:
            yield from lines("entry", each, depth + 1)
    elif isinstance(value, bytes) and value:
        head = data[: len(data) - len(value)]
        yield head.hex(), f"{told}: {len(value)} bytes"
        for at in range(0, len(value), A_LINE):
            yield value[at : at + A_LINE].hex(), ""
    else:
        yield data.hex(), f"{told} {value!r}"


def dumped(name: str, value: Any) -> str:
    """A code block of a value's bytes."""
    rows = list(lines(name, value))
    assert "".join(data for data, _ in rows) == encode(value).hex()
    shown = [f"{data:<16}{said}".rstrip() if said else f"    {data}" for data, said in rows]
    return "```text\n" + "\n".join(shown) + "\n```\n"


# --- samples ---


def _plan() -> Plan:
    return Plan(
        run=RUN.run,
        tick=9,
        head=bytes(32),
        base=None,
        kind="train",
        change="",
        round=4,
        epoch=0,
        epoch_tick=1,
        attempt=0,
        relays=(),
        candidates=(),
        members=(),
        exponents=(-10, -10),
        lifts=(0, 0, 0),
        work=(),
    )


def _packed() -> list[bytes]:
    parts = pack(GetChunk(number=3), (), run=RUN.run, sender=NODE, to=COORDINATOR.public, sequence=1)
    return [bytes(part) for part in parts]


def envelope() -> str:
    """The envelope of a `GetChunk`."""
    value = msgspec.msgpack.decode(_packed()[0], type=Envelope)
    return dumped("envelope", value)


def body() -> str:
    """Its body."""
    return dumped("body", GetChunk(number=3))


def signed() -> str:
    """What its signature covers."""
    value = msgspec.msgpack.decode(_packed()[0], type=Envelope)
    hashed = hashlib.sha256(_packed()[1]).digest()
    parts = [
        ("domain", b"interlock/envelope"),
        ("version", value.version.to_bytes(8, "big")),
        ("run", value.run),
        ("sender", value.sender),
        ("to", value.to),
        ("sequence", value.sequence.to_bytes(8, "big")),
        ("SHA-256 of the body", hashed),
    ]
    found = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for _, part in parts)).digest()
    assert found == value.body(_packed()[1])
    rows = [f"{len(part):016x} {part.hex()}  {name}" for name, part in parts]
    return "```text\n" + "\n".join([*rows, f"SHA-256: {found.hex()}"]) + "\n```\n"


INTEGERS, KEY = [0, 1, -1, 2**23 - 1, -(2**23)], bytes(range(32))


def planes() -> str:
    """Five integers, their keystream and their frame."""
    rows = [f"integers   {', '.join(map(str, INTEGERS))}", f"key        {KEY.hex()}"]
    for width in (8, 16, 24, 32):
        integers = np.array(INTEGERS, np.int32)
        stream = mask.keystream(KEY, mask.frame_bytes(5, width)).tobytes().hex()
        frame = mask.mask(integers, KEY, width=width).tobytes().hex()
        rows += [f"width {width:<2}   keystream {stream}", f"           frame     {frame}"]
    return "```text\n" + "\n".join(rows) + "\n```\n"


def header() -> str:
    """The body of a `Frame`."""
    unit = make_unit(_plan(), RUN, boundary=0, direction="forward", microbatch=2)
    made = make_header(
        NODE,
        unit,
        opening=hashlib.sha256(b"an opening").digest(),
        shape=(2, 16, 16),
        tau=bytes(range(16)),
        check=bytes(range(16, 32)),
        frame=hashlib.sha256(b"a frame").digest(),
        parents=(bytes(32),),
    )
    return dumped("body", Frame(header=made))


def row() -> str:
    """A row of the journal."""
    void = Voided(tick=9, number=401, reason="a value is not finite")
    return dumped("row", make_row(COORDINATOR, RUN.run, 0, GENESIS, void))


def order() -> str:
    """An order with two signatures."""
    halt = Order(
        run=RUN.run,
        seq=1,
        action="halt",
        not_before=1_790_000_000,
        expires=None,
        reason="the loss of stage 1 rises since round 40",
    )
    signed = sign(halt, identity("ada")).merged(sign(halt, identity("bela")))
    return f"```text\n{signed.note(RUN.committee)}```\n\nIts words: {halt.words}.\n"


# --- tables ---


def readers() -> str:
    """Every message: who reads it, and its fields."""
    unions = {
        "coordinator": messages.BY_COORDINATOR,
        "gates": messages.BY_GATE,
        "relays": messages.BY_RELAY,
        "nodes": messages.BY_NODE,
        "askers": messages.BY_ASKER,
        "bearers": messages.BY_BEARER,
    }
    read: dict[type[Any], list[str]] = {}
    for who, union in unions.items():
        for kind in classes(union):
            read.setdefault(kind, []).append(who)
    rows = ["| message | read by | fields, in order | envelope |", "| --- | --- | --- | --- |"]
    for kind in sorted(read, key=_name):
        seal = "unsigned" if getattr(kind, "self_signed", False) else "signed"
        rows.append(f"| `{kind.__name__}` | {', '.join(read[kind])} | {_fields(kind)} | {seal} |")
    return "\n".join(rows) + "\n"


def records() -> str:
    """Every record inside messages and rows, and its fields with their types."""
    found: dict[type[Any], None] = {}
    waiting: list[Any] = [mi.type_info(Envelope), mi.type_info(messages.EVERY)]
    while waiting:
        match waiting.pop():
            case mi.StructType(cls=cls, fields=parts):
                if cls not in found:
                    found[cls] = None
                    waiting += [part.type for part in parts]
            case mi.UnionType(types=types):
                waiting += types
            case mi.VarTupleType(item_type=item):
                waiting.append(item)
            case mi.TupleType(item_types=items):
                waiting += items
            case mi.Metadata(type=inner):
                waiting.append(inner)
    rows = ["| record | fields, in order |", "| --- | --- |"]
    inner = [cls for cls in found if not issubclass(cls, Message)]
    rows += [f"| `{cls.__name__}` | {_fields(cls)} |" for cls in sorted(inner, key=_name)]
    return "\n".join(rows) + "\n"


def _name(cls: type[Any]) -> str:
    return cls.__name__


def _fields(cls: type[Any]) -> str:
    info = mi.type_info(cls)
    assert isinstance(info, mi.StructType)
    return ", ".join(f"`{part.name}` {_type(part.type)}" for part in info.fields) or "none"


def _type(info: mi.Type) -> str:
    match info:
        case mi.BytesType(min_length=low, max_length=high):
            return f"{low} bytes" if low == high else f"bytes, at most {high}"
        case mi.IntType(ge=low, le=high):
            return f"{low} to {'2^53' if high == 2**53 else high}" if high is not None else "a whole number"
        case mi.StrType(max_length=high):
            return f"text, at most {high}"
        case mi.LiteralType(values=values):
            return " or ".join(f"`{msgspec.json.encode(value).decode()}`" for value in values)
        case mi.StructType(cls=cls):
            return str(cls.__name__)
        case mi.BoolType():
            return "true or false"
        case mi.NoneType():
            return "nothing"
        case mi.FloatType():
            return "a float of 64 bits"
        case mi.UnionType(types=types):
            return " or ".join(_type(each) for each in types)
        case mi.VarTupleType(item_type=item, max_length=high):
            return f"[{_type(item)}, ...]" + ("" if high is None else f" of at most {high}")
        case mi.TupleType(item_types=items):
            return f"[{', '.join(_type(item) for item in items)}]"
        case mi.Metadata(type=inner):
            return _type(inner)
    raise TypeError(type(info).__name__)


def bounds() -> str:
    """Every bound."""
    rows = [
        "| what | unknown peer | member, before the manifest is known | member of the test run |",
        "| --- | --- | --- | --- |",
    ]
    columns = (DOOR_LIMITS, Limits(), messages.limits(RUN))
    for field in fields(Limits):
        name = field.name.replace("_", ", ") if field.name.endswith("bytes") else field.name
        rows.append(f"| {name} | " + " | ".join(f"{getattr(limits, field.name):,}" for limits in columns) + " |")
    door = Door()
    rows += [
        "",
        f"- One part as ZeroMQ takes it: {PART_BYTES_MAX:,} bytes at who joined by URL, else the run's largest.",
        f"- Waiting for one peer: {QUEUE_BYTES:,} bytes; unread: {INBOX_BYTES:,} bytes.",
        f"- Inside libzmq: {HIGH_WATER} messages a peer each way.",
        f"- Unknown peers at an open door: {door.peers} keys, {door.message_bytes:,} bytes a message,",
        f"  together {door.messages_per_s:g} messages a second in bursts of {door.burst}.",
        f"- Sequence numbers: each once, and none {WINDOW:,} or more below a sender's highest.",
    ]
    return "\n".join(rows) + "\n"


SAMPLES: dict[str, Callable[[], str]] = {
    made.__name__: made for made in (envelope, body, signed, readers, records, header, planes, row, order, bounds)
}


def filled(text: str) -> str:
    """The document with every sample as the code makes it now."""
    return BLOCK.sub(lambda found: f"<!-- {found[1]} -->\n{SAMPLES[found[1]]()}<!-- end -->\n", text)


if __name__ == "__main__":
    DOC.write_text(filled(DOC.read_text()))
