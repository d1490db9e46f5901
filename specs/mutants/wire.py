"""What breaks the wire: readers that take more than one spelling, change what they read, or fall over."""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.protocols.canonical import Message
from interlock.protocols.errors import Refused

from ..search import Mutant
from ..wire import Reader, Wire


class Lenient(Reader):
    """Takes any spelling of a message."""

    def decode(self, data: bytes) -> Message:
        """Decode without comparing the bytes."""
        try:
            message: Message = msgspec.msgpack.decode(data, type=self._kinds, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(201, str(error)) from None
        return message


class Forgetful(Reader):
    """Loses a field on the way."""

    def decode(self, data: bytes) -> Message:
        """Add one to the first number, if there is one."""
        message = super().decode(data)
        for name in message.__struct_fields__:
            if isinstance(getattr(message, name), int):
                return msgspec.structs.replace(message, **{name: getattr(message, name) + 1})
        return message


class Brittle(Reader):
    """Takes what is no message for a fault of its own."""

    def decode(self, data: bytes) -> Message:
        """Let the decoder's error through."""
        message: Message = msgspec.msgpack.decode(data, type=self._kinds)
        return message


class AnySpelling(Wire):
    """Messages may be spelled in several ways."""

    def reader(self, role: Any, kinds: Any) -> Reader:
        """A lenient one."""
        return Lenient(role, kinds)


class Lossy(Wire):
    """Reading changes a message."""

    def reader(self, role: Any, kinds: Any) -> Reader:
        """A forgetful one."""
        return Forgetful(role, kinds)


class Fragile(Wire):
    """Bytes that are no message bring the process down."""

    def reader(self, role: Any, kinds: Any) -> Reader:
        """A brittle one."""
        return Brittle(role, kinds)


MUTANTS = {
    "any spelling": Mutant(breaks="canonical", spec=AnySpelling),
    "lossy": Mutant(breaks="same", spec=Lossy),
    "fragile": Mutant(breaks="no crash", spec=Fragile),
}
