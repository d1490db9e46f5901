"""What was packed is unpacked; anything else is refused with its number."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols.canonical import Hash, Message, decode, encode
from interlock.protocols.effects import Blob
from interlock.protocols.errors import Refused
from interlock.protocols.wire import WINDOW, Buffer, Envelope, Limits, Received, Replay, pack, unpack
from interlock.vault import Identity, Secret


class Note(Message, frozen=True, array_like=True, kw_only=True):
    text: str
    numbers: tuple[int, ...] = ()


class Framed(Message, frozen=True, array_like=True, kw_only=True):
    content: Hash
    self_signed = True


class Stranger(Message, frozen=True, array_like=True, kw_only=True):
    text: str


def identity(number: int) -> Identity:
    return Identity(Secret(hashlib.sha256(b"%d" % number).digest()))


ALICE, BOB, EVE = identity(0), identity(1), identity(2)
RUN = hashlib.sha256(b"run").digest()
LIMITS = Limits(body_bytes=1000, blob_bytes=100, blobs=2)
KINDS = Note | Framed


def packed(message: Message, *blobs: bytes, sequence: int = 7, sender: Identity = ALICE) -> list[Buffer]:
    return pack(message, [Blob(b) for b in blobs], run=RUN, sender=sender, to=BOB.public, sequence=sequence)


def read(parts: list[Any], **changes: Any) -> Received:
    context: dict[str, Any] = {"kinds": KINDS, "run": RUN, "me": BOB.public, "peer": ALICE.public, "limits": LIMITS}
    return unpack(parts, **(context | changes))


def number_of(parts: list[Any], **changes: Any) -> int:
    with pytest.raises(Refused) as caught:
        read(parts, **changes)
    return caught.value.number


def forged(parts: list[Buffer], **changes: Any) -> list[Buffer]:
    """The same message with other fields in its envelope."""
    envelope = decode(parts[0], Envelope)
    return [encode(msgspec.structs.replace(envelope, **changes)), *parts[1:]]


notes = st.builds(Note, text=st.text(max_size=20), numbers=st.lists(st.integers(-9, 9), max_size=5).map(tuple))
frames = st.builds(Framed, content=st.binary(min_size=32, max_size=32))
messages = st.one_of(notes, frames)
blob_lists = st.lists(st.binary(max_size=100), max_size=2)


@given(message=messages, blobs=blob_lists, sequence=st.integers(0, 2**53))
def test_what_was_packed_is_unpacked(message: Message, blobs: list[bytes], sequence: int) -> None:
    received = read(packed(message, *blobs, sequence=sequence))
    assert received.message == message
    assert [bytes(blob.data) for blob in received.blobs] == blobs
    assert (received.sender, received.sequence) == (ALICE.public, sequence)


@given(message=messages, data=st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(message: Message, data: st.DataObject) -> None:
    parts = [bytearray(part) for part in packed(message, b"blob")]
    which = data.draw(st.integers(0, 1))
    position = data.draw(st.integers(0, len(parts[which]) - 1))
    change = data.draw(st.sampled_from(["flip", "insert", "delete", "cut"]))
    if change == "flip":
        parts[which][position] ^= data.draw(st.integers(1, 255))
    elif change == "insert":
        parts[which].insert(position, data.draw(st.integers(0, 255)))
    elif change == "delete":
        del parts[which][position]
    else:
        del parts[which][position:]
    received: Received | None = None
    number = 0
    try:
        received = read([bytes(part) for part in parts])
    except Refused as error:
        number = error.number
    if received is None:
        assert 201 <= number <= 206
        return
    if isinstance(message, Note):
        assert received.message == message
        assert received.sequence == 7
    else:  # its own signature binds the body, and the connection binds the rest
        assert isinstance(received.message, Framed)


@given(parts=st.lists(st.binary(max_size=300), max_size=6))
def test_rubbish_is_refused(parts: list[bytes]) -> None:
    assert number_of(parts) in (201, 202, 203)


@given(body=st.binary(max_size=300))
def test_a_rubbish_body_under_a_good_signature_is_refused(body: bytes) -> None:
    envelope = Envelope(version=1, run=RUN, sender=ALICE.public, to=BOB.public, sequence=1, signature=bytes(64))
    signed = msgspec.structs.replace(envelope, signature=ALICE.sign(envelope.body(body)))
    assert number_of([encode(signed), body]) == 201


def test_blobs_are_not_copied() -> None:
    blob = Blob(bytearray(50))
    parts = pack(Note(text=""), [blob], run=RUN, sender=ALICE, to=BOB.public, sequence=1)
    received = read(parts)
    blob.data[0] = 9
    assert received.blobs[0].data[0] == 9


@pytest.mark.parametrize(
    "parts",
    [
        [bytes(257), b""],
        [b"", bytes(1001)],
        [b"", b"", bytes(101)],
        [b"", b"", b"", b"", b""],
    ],
)
def test_sizes_are_checked_before_anything_is_decoded(parts: list[bytes]) -> None:
    assert number_of(parts) == 202


def test_each_fault_has_its_number() -> None:
    good = packed(Note(text="hello"))
    assert number_of([]) == number_of(good[:1]) == 201
    assert number_of(forged(good, version=2)) == 203
    assert number_of([encode([2, "a future envelope"]), b""]) == 203
    assert number_of(good, run=bytes(32)) == 204
    assert number_of(good, peer=EVE.public) == 205
    assert number_of(good, me=EVE.public) == 205
    assert number_of(forged(good, sequence=8)) == 206
    assert number_of([good[0], encode(Note(text="other"))]) == 206
    assert number_of(packed(Stranger(text="hello"))) == 201


def test_an_envelope_goes_without_a_signature_exactly_when_its_body_has_one() -> None:
    note, frame = packed(Note(text="hello")), packed(Framed(content=bytes(32)))
    assert decode(frame[0], Envelope).signature == b""
    assert number_of(forged(note, signature=b"")) == 206
    envelope = decode(frame[0], Envelope)
    assert number_of(forged(frame, signature=ALICE.sign(envelope.body(frame[1])))) == 206
    assert number_of(forged(note, signature=bytes(63))) == 201


def test_an_unknown_peer_must_sign() -> None:
    assert read(packed(Note(text="hello"), sender=EVE), peer=None).sender == EVE.public
    assert number_of(packed(Framed(content=bytes(32)), sender=EVE), peer=None) == 206
    assert number_of(forged(packed(Note(text="hello")), sender=EVE.public), peer=None) == 206


NEAR = st.integers(0, 9) | st.integers(WINDOW - 4, WINDOW + 4) | st.integers(0, 4 * WINDOW)


@given(st.lists(st.tuples(st.sampled_from([ALICE.public, BOB.public]), NEAR), max_size=30))
def test_a_sequence_passes_once_within_the_window(seen: list[tuple[bytes, int]]) -> None:
    replay = Replay()
    used: dict[bytes, set[int]] = {}
    for sender, sequence in seen:
        before = used.setdefault(sender, set())
        if sequence not in before and sequence > max(before, default=0) - WINDOW:
            replay.check(sender, sequence)
            before.add(sequence)
        else:
            with pytest.raises(Refused) as caught:
                replay.check(sender, sequence)
            assert caught.value.number == 207


def test_the_guard_forgets_the_senders_heard_longest_ago() -> None:
    replay = Replay(senders_max=2)
    for sender in (b"a", b"b", b"c"):
        replay.check(sender, 5)
    replay.check(b"a", 5)
    with pytest.raises(Refused):
        replay.check(b"c", 5)


@pytest.mark.parametrize("changes", [{"body_bytes": 0}, {"blobs": -1}])
def test_limits_are_positive(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Limits(**changes)
