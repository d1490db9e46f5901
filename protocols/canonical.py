"""One canonical encoding for everything that is signed, hashed or sent.

MessagePack arrays in field order (msgspec). A message is `[tag, field, ...]`. Decoding is strict: unknown
tags, missing or extra fields, wrong types and any bytes that would re-encode differently are refused.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, TypeVar

import msgspec

from .errors import Refused

T = TypeVar("T")

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
# For people's eyes: no control characters, and none that turn the direction of text.
Name = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=80, pattern="^[^\\x00-\\x1f\\x7f-\\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+$"
    ),
]

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


class Plain(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A record inside messages: fields only, no tag."""


class Message(Plain, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag=True):
    """Base of everything that travels; the class's name is its tag."""


def encode(value: Any) -> bytes:
    """The canonical bytes of a message or record."""
    return _encoder.encode(value)


def decode(data: bytes | memoryview, kind: type[T] | Any, *, whose: str = "message") -> T:
    """Read canonical bytes strictly.

    Raises:
        Refused: E201, the bytes are not the canonical encoding of a `kind`.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind, strict=True)
    try:
        value: T = decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(201, f"malformed {whose}: {error}") from None
    if _encoder.encode(value) != bytes(data):
        raise Refused(201, f"{whose} is not in canonical form")
    return value


def digest(domain: str, *parts: bytes) -> bytes:
    """SHA-256 over a domain and length-prefixed parts."""
    h = hashlib.sha256()
    for part in (domain.encode(), *parts):
        h.update(len(part).to_bytes(8, "big"))
        h.update(part)
    return h.digest()
