"""One message on the wire: `[envelope][body][blob ...]`, packed without copies and read with suspicion.

The envelope says who sends what to whom in which run, and is signed by the sender's identity over
`digest("interlock/envelope", version, run, sender, to, sequence, SHA-256(body))`. A message whose class says
`self_signed = True` (frames, sealed group traffic) carries its own signature from end to end, because relays
pass it on: its envelope's signature is empty, and only such a message's may be. Blobs are bound by hashes inside
the body.

A body is read only after every size, the version, the run, both names and the envelope's signature have been
checked; its version is `HELLO` exactly for what is said before both know the run's (`versions`). What is not
acceptable raises `Refused`:

    201 malformed      203 wrong version   205 wrong sender or recipient   207 replayed sequence
    202 oversized      204 wrong run       206 bad signature               208 unknown peer

Sample, an envelope with sequence 1: `96 01 c4 20 <run> c4 20 <sender> c4 20 <to> 01 c4 40 <signature>`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol, TypeAlias

import msgspec

from interlock.vault import BadSignature, verify_signature

from .canonical import Count, Hash, Message, Plain, PublicKey, decode, digest, encode
from .effects import Blob
from .errors import Refused
from .versions import HELLO, OURS, Versions

WINDOW = 1024  # how far below a sender's highest sequence number a late message may be
_WINDOW_MASK = (1 << WINDOW) - 1

Buffer: TypeAlias = bytes | memoryview


class Envelope(Plain, frozen=True, array_like=True, kw_only=True):
    """First part of every message. `signature` is 64 bytes, or empty over a self-signed body."""

    version: Count
    run: Hash
    sender: PublicKey
    to: PublicKey
    sequence: Count
    signature: Annotated[bytes, msgspec.Meta(max_length=64)]

    def body(self, content: Buffer) -> bytes:
        """What the signature covers, for a message whose body is `content`."""
        numbers = (self.version.to_bytes(8, "big"), self.sequence.to_bytes(8, "big"))
        hashed = hashlib.sha256(content).digest()
        return digest("interlock/envelope", numbers[0], self.run, self.sender, self.to, numbers[1], hashed)


class _Versioned(msgspec.Struct, frozen=True, array_like=True):
    """The one field that envelopes of all versions share."""

    version: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Largest sizes that are read at all, in bytes, and how many blobs a message may carry."""

    envelope_bytes: int = 256
    body_bytes: int = 1 << 20
    blob_bytes: int = 64 << 20
    blobs: int = 64

    def __post_init__(self) -> None:
        if min(self.envelope_bytes, self.body_bytes) < 1 or min(self.blob_bytes, self.blobs) < 0:
            raise ValueError(f"limits must be positive: {self}")

    @property
    def part_bytes(self) -> int:
        """The largest part that any message may have."""
        return max(self.envelope_bytes, self.body_bytes, self.blob_bytes)


DOOR_LIMITS = Limits(body_bytes=64 << 10, blob_bytes=0, blobs=0)  # for peers that nobody knows yet


class Signer(Protocol):
    """A signing key: `vault.Identity` is one."""

    @property
    def public(self) -> bytes:
        """32-byte Ed25519 key."""

    def sign(self, message: bytes, /) -> bytes:
        """64-byte signature."""


class Received(NamedTuple):
    """A message that passed every check of `unpack`."""

    message: Message
    blobs: tuple[Blob, ...]
    sender: bytes
    sequence: int


def pack(
    message: Message,
    blobs: Sequence[Blob],
    *,
    run: bytes,
    sender: Signer,
    to: bytes,
    sequence: int,
    version: int = OURS.newest,
) -> list[Buffer]:
    """The parts of one message to one peer. Blobs are passed on, never copied."""
    content = encode(message)
    version = HELLO if is_hello(type(message)) else version
    draft = Envelope(version=version, run=run, sender=sender.public, to=to, sequence=sequence, signature=b"")
    if not is_self_signed(message):
        draft = msgspec.structs.replace(draft, signature=sender.sign(draft.body(content)))
    return [encode(draft), content, *(blob.data for blob in blobs)]


def unpack(
    parts: Sequence[Buffer],
    *,
    kinds: Any,
    run: bytes,
    me: bytes,
    peer: bytes | None,
    limits: Limits,
    versions: Versions = OURS,
) -> Received:
    """Read one message strictly.

    Args:
        kinds: the message class, or union of classes, that may arrive.
        run, me: this run's id and the receiver's identity.
        peer: identity that the connection proved; None for one nobody knows, which must sign its envelope.
        versions: what this process speaks in this run.

    Raises:
        Refused: E201 to E206.
    """
    _check_sizes(parts, limits)
    envelope, content = _read_envelope(parts[0], versions), parts[1]
    if envelope.run != run:
        raise Refused(
            204,
            "message of another run",
            expected=_short(run),
            actual=_short(envelope.run),
            todo="Join with this run's URL.",
        )
    if peer is not None and envelope.sender != peer:
        raise Refused(
            205,
            "message whose sender is not the connection's peer",
            expected=_short(peer),
            actual=_short(envelope.sender),
        )
    if envelope.to != me:
        raise Refused(205, "message for another recipient", expected=_short(me), actual=_short(envelope.to))
    whose = f"message of {_short(envelope.sender)}"
    if envelope.signature:
        try:
            verify_signature(envelope.sender, envelope.body(content), envelope.signature, whose=whose)
        except BadSignature as error:
            raise Refused(206, error.what) from None
    message: Message = decode(content, kinds, whose=whose)
    if not (envelope.version == HELLO if is_hello(type(message)) else envelope.version in versions):
        raise _wrong_version(envelope.version, versions)
    if is_self_signed(message) == bool(envelope.signature) or (peer is None and not envelope.signature):
        name = type(message).__name__
        raise Refused(206, f"{whose}: wrong kind of signature for {name} from this peer")
    return Received(message, tuple(Blob(part) for part in parts[2:]), envelope.sender, envelope.sequence)


def is_self_signed(message: Message) -> bool:
    """Whether the message's own signature stands in for the envelope's."""
    return bool(getattr(type(message), "self_signed", False))


def is_hello(kind: type) -> bool:
    """Whether messages of this class are said before both sides know what the run speaks."""
    return bool(getattr(kind, "hello", False))


class Replay:
    """Refuses a sequence number that a sender has already used; late ones pass within a window (RFC 6479's rule).

    A process starts at its clock's microseconds, so it stays above what it used before a restart. The guard keeps
    the senders heard last, `senders_max` of them: one that is forgotten could repeat old messages of its own, and
    no one else could, since the connection proves the sender.
    """

    def __init__(self, senders_max: int = 4096) -> None:
        self._heard: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # highest, and a bit for each one below it
        self._senders_max = senders_max

    def check(self, sender: bytes, sequence: int) -> None:
        """Take note of a sequence number.

        Raises:
            Refused: E207, this sender has used it, or it is WINDOW or more below the highest.
        """
        highest, used = self._heard.get(sender, (sequence, 0))
        if sequence > highest:
            gap = sequence - highest
            highest, used = sequence, used << gap if gap < WINDOW else 0
        bit = 1 << (highest - sequence) if highest - sequence < WINDOW else 0
        if not bit or used & bit:
            raise Refused(
                207,
                f"replayed message of {_short(sender)}",
                expected=f"a sequence not used before, above {highest - WINDOW}",
                actual=sequence,
                todo="If this process was restarted, check its clock.",
            )
        self._heard[sender] = highest, (used | bit) & _WINDOW_MASK
        self._heard.move_to_end(sender)
        if len(self._heard) > self._senders_max:
            self._heard.popitem(last=False)


def _check_sizes(parts: Sequence[Buffer], limits: Limits) -> None:
    if len(parts) < 2:
        raise Refused(201, "malformed message", expected="envelope and body", actual=f"{len(parts)} parts")
    if len(parts) - 2 > limits.blobs:
        raise Refused(202, "too many blobs in a message", expected=f"at most {limits.blobs}", actual=len(parts) - 2)
    bounds = [("envelope", limits.envelope_bytes), ("body", limits.body_bytes)]
    bounds += [("blob", limits.blob_bytes)] * (len(parts) - 2)
    for (name, bound), part in zip(bounds, parts, strict=True):
        if (size := memoryview(part).nbytes) > bound:
            raise Refused(202, f"oversized {name}", expected=f"at most {bound} bytes", actual=f"{size} bytes")


def _read_envelope(part: Buffer, versions: Versions) -> Envelope:
    try:
        version = _versions.decode(part).version
    except msgspec.DecodeError as error:
        raise Refused(201, f"malformed envelope: {error}") from None
    if version != HELLO and version not in versions:
        raise _wrong_version(version, versions)
    envelope: Envelope = decode(part, Envelope, whose="envelope")
    if len(envelope.signature) not in (0, 64):
        raise Refused(201, "malformed envelope signature", expected="64 bytes or none", actual=len(envelope.signature))
    return envelope


def _wrong_version(version: int, versions: Versions) -> Refused:
    todo = "Install the same version of interlock on both sides."
    return Refused(203, "message of another wire version", expected=versions.text, actual=version, todo=todo)


def _short(key: bytes) -> str:
    """Enough of a key to recognise it."""
    return key.hex()[:12]


_versions = msgspec.msgpack.Decoder(_Versioned)
