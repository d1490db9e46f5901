"""Messages that nearly are some: of real ones, by bytes, by fields, and by fields with signatures made anew.

A mutation of fields changes the plain MessagePack values, so that it reaches any place of any message without
knowing its class. Where the result still reads as a message, the records in it may be signed again by whoever
they name: an insider can do that, and only then do changed fields get past the signatures. Openings are left as they
are, since their releases need a quorum of gates.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, cast

import hypothesis
import msgspec
from hypothesis import Phase

from interlock.protocols.boundary import Header
from interlock.protocols.canonical import Message, decode
from interlock.protocols.change import BoxOffer, Prepared, sign_prepared
from interlock.protocols.errors import Refused
from interlock.protocols.journal import Row, make_row
from interlock.protocols.manifest import Manifest
from interlock.protocols.members import Invitation, Record
from interlock.protocols.moved import Moved
from interlock.protocols.orders import Order
from interlock.protocols.orders import sign as sign_order
from interlock.protocols.proposal import Propose
from interlock.protocols.release import Opening, Release
from interlock.protocols.round import Commitment, Measurement, Report, Sealed, sign
from interlock.specs.links import CLOCK_S
from interlock.specs.run import identity
from interlock.specs.scope import quiet_settings
from interlock.specs.wire import DATA
from interlock.vault import Identity

NUMBERS = (
    0,
    1,
    2,
    23,
    31,
    127,
    128,
    200,
    255,
    256,
    300,
    402,
    403,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**53 - 1,
    2**53,
    2**53 + 1,
    2**63,
)
TEXTS = ("", "x", "x" * 80, "x" * 81, "x" * 5000, "\x00", "\x1b[2J", "\u202e", "é" * 80, "start", "turn", "train")
# Heads that promise more than follows: arrays, maps, byte strings and texts of up to 2**32 - 1 entries.
PROMISES = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
)
NESTED_MAX = 3000


@functools.cache
def drawn(count: int, seed: int) -> Sequence[bytes]:
    """Bytes that the wire's spec feeds to roles: messages of every class, respelled, cut, and made up."""
    found: list[bytes] = []

    @hypothesis.seed(seed)
    @quiet_settings(count, Phase.generate)
    @hypothesis.given(DATA)
    def draw(data: str) -> None:
        found.append(bytes.fromhex(data))

    draw()
    return found


# --- bytes ---


def bytes_changed(dice: random.Random, data: bytes, other: bytes) -> bytes:
    """One change of bytes; `other` is what may be spliced in."""
    at, way = dice.randrange(len(data) + 1), dice.randrange(9)
    if way == 0:
        return data[:at]
    if way == 1 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
    if way == 2 and at < len(data):
        return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
    if way == 3:
        return data[:at] + dice.randbytes(dice.choice((1, 2, 8, 33))) + data[at:]
    if way == 4:
        return data[:at] + data[at + dice.randrange(1, 9) :]
    if way == 5:
        return data[:at] + other[dice.randrange(len(other) + 1) :]
    if way == 6:
        return data[:at] + dice.choice(PROMISES) + data[at + 1 :]
    if way == 7:
        return data[:at] + b"\x91" * dice.randrange(NESTED_MAX) + data[at:]
    return data + dice.randbytes(dice.choice((1, 16)))


# --- fields ---


def fields_changed(dice: random.Random, data: bytes, other: bytes) -> bytes:
    """One changed value, anywhere in a message; what does not fit MessagePack is left as it is."""
    try:
        tree, spare = msgspec.msgpack.decode(data), msgspec.msgpack.decode(other)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return bytes_changed(dice, data, other)
    places = list(_places([tree], spare_after=4000))
    values = [place for place in places if not isinstance(place[0][place[1]], list)]
    parent, at = dice.choice(values if values and dice.random() < 0.8 else places)
    parent[at] = _other_value(dice, parent, at, spare)
    try:
        return msgspec.msgpack.encode(places[0][0][0])
    except (OverflowError, ValueError):
        return data


def _places(tree: list[Any], spare_after: int) -> list[tuple[list[Any], int]]:
    """Where a value stands: every entry of every list, the outermost first."""
    found: list[tuple[list[Any], int]] = []
    waiting = [tree]
    while waiting and len(found) < spare_after:
        here = waiting.pop()
        for at, value in enumerate(here):
            found.append((here, at))
            if isinstance(value, list):
                waiting.append(value)
    return found


def _other_value(dice: random.Random, parent: list[Any], at: int, spare: Any) -> Any:
    value = parent[at]
    if dice.random() < 0.05:  # another type, or a value from elsewhere
        others = [where[i] for where, i in _places([spare], 400)] + [None, 0, -1, b"", "", [], 1.5, True, {}]
        return dice.choice(others)
    if isinstance(value, bool) or value is None:
        return dice.choice((None, True, False, 0, []))
    if isinstance(value, int):
        return dice.choice((*NUMBERS, value + 1, value - 1, -value, dice.randrange(2**53)))
    if isinstance(value, float):
        return dice.choice((0.0, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -value))
    if isinstance(value, str):
        return dice.choice((*TEXTS, value[:-1], value + "x", value.upper()))
    if isinstance(value, bytes):
        flipped = bytearray(value)
        if flipped:
            flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        same = (bytes(flipped), bytes(flipped), bytes(len(value)), dice.randbytes(len(value)))
        return dice.choice((*same, *same, value[:-1], value + b"\0"))
    if isinstance(value, list):
        return _other_list(dice, value)
    return None


def _other_list(dice: random.Random, values: list[Any]) -> list[Any]:
    way = dice.randrange(6)
    if way == 0 or not values:
        return []
    at = dice.randrange(len(values))
    if way == 1:
        return values[:at] + values[at + 1 :]
    if way == 2:
        return [*values[:at], values[at], *values[at:]]
    if way == 3:
        return values[::-1]
    if way == 4:
        return values * dice.choice((2, 40))
    swapped = list(values)
    other = dice.randrange(len(values))
    swapped[at], swapped[other] = swapped[other], swapped[at]
    return swapped


# --- signatures made anew ---


def signed_again(message: Message, run: bytes, whose: Callable[[bytes], Identity | None]) -> Message:
    """The message, with every record in it signed by whom it names, as far as `whose` has their keys."""
    again = _signed(message, run, whose)
    coordinator = whose(b"")
    if isinstance(again, Propose) and coordinator is not None:
        return _linked(again, run, coordinator)
    return cast(Message, again)


def any_order(dice: random.Random, manifest: Manifest, **given: Any) -> str:
    """An order that some of the committee have signed, or nearly one."""
    seq = dice.choice((0, 1, 1, 2, 2, 3, 4, 5, 2**31))
    action = dice.choice(("halt", "halt", "pause", "resume", "resume", "release"))
    begins = int(CLOCK_S) + dice.choice((-3600, -60, 0, 0, 0, 59, 61, 3600))
    fields: dict[str, Any] = dict(
        run=manifest.run,
        seq=seq,
        action=action,
        cites=max(1, seq - dice.choice((1, 1, 2))),
        prev=dice.choice((None, bytes(32))),
        epoch=dice.randrange(3),
        not_before=begins,
        expires=begins + dice.choice((-1, 1, 600, 3600, 10**6)),
        reason=dice.choice(("one", "two", "", "a\nb", "é")),
    )
    fields |= given
    if dice.random() < 0.9:  # what goes together
        fields["cites"] = fields["cites"] if fields["action"] == "resume" else None
        fields["epoch"] = fields["epoch"] if fields["action"] == "release" else None
        fields["expires"] = None if fields["action"] == "halt" else fields["expires"]
        fields["seq"] = 0 if fields["action"] == "release" else max(1, fields["seq"])
        fields["prev"] = (fields["prev"] or bytes(32)) if fields["seq"] > 1 else None
        fields["reason"] = fields["reason"].replace("\n", " ") or "one"
    if given:
        fields |= dict(not_before=int(CLOCK_S), expires=int(CLOCK_S) + 3600)
    order = Order(**fields)
    keyholders = [seat.name for seat in manifest.committee.keyholders]
    who = keyholders if given or dice.random() < 0.3 else dice.sample(keyholders, dice.randint(1, len(keyholders)))
    made = reduce(lambda a, b: a.merged(b), (sign_order(order, identity(name)) for name in who))
    return made.note(manifest.committee)


def _linked(ask: Propose, run: bytes, coordinator: Identity) -> Propose:
    """A proposal whose rows follow one another and end at the plan's head, as a lying coordinator would send it."""
    rows: list[Row] = []
    for row in ask.rows:
        number, previous = (rows[-1].number + 1, rows[-1].digest) if rows else (row.number, row.previous)
        rows.append(make_row(coordinator, run, number, previous, row.body))
    plan = msgspec.structs.replace(ask.plan, head=rows[-1].digest) if rows else ask.plan
    return msgspec.structs.replace(ask, plan=plan, rows=tuple(rows))


def _signed(value: Any, run: bytes, whose: Callable[[bytes], Identity | None]) -> Any:
    if isinstance(value, Opening):
        return value
    if isinstance(value, tuple):
        return tuple(_signed(each, run, whose) for each in value)
    if not isinstance(value, msgspec.Struct):
        return value
    inner = {name: _signed(getattr(value, name), run, whose) for name in value.__struct_fields__}
    value = msgspec.structs.replace(value, **inner)
    owner = whose(_owner(value)) if hasattr(value, "signature") else None
    if owner is None:
        return value
    if isinstance(value, Commitment | Report | Measurement):
        return sign(value, owner, run)
    if isinstance(value, Prepared):
        return sign_prepared(value, owner, run)
    return msgspec.structs.replace(value, signature=owner.sign(_body(value, run)))


def _owner(value: Any) -> bytes:
    """Whose signature a record carries; empty for the coordinator's rows and places."""
    match value:
        case Row() | Moved():
            return b""
        case Record():
            return value.identity
        case Invitation():
            return value.keyholder
        case Release():
            return value.gate
        case Header() | Sealed():
            return value.sender
        case _:
            return cast(bytes, value.member)


def _body(value: Any, run: bytes) -> bytes:
    match value:
        case Row():
            return value.signed()
        case BoxOffer() | Release():
            return value.body(run)
        case _:
            return cast(bytes, value.body())


def read(data: bytes, kinds: Any) -> Message | None:
    """A message of these kinds, or nothing."""
    try:
        return cast(Message, decode(data, kinds))
    except Refused:
        return None


def blobs_changed(dice: random.Random, blobs: Sequence[bytes]) -> list[bytes]:
    """Other bytes beside a message: none, two, cut, longer, or with a bit changed."""
    first = blobs[0] if blobs else b""
    flipped = bytearray(first or b"\0")
    flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
    return dice.choice(([], [first, first], [first[:-1]], [first + b"\0"], [bytes(flipped)], [b""], [b""] * 65))
