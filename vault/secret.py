"""Bytes that do not print, do not pickle, and can be overwritten."""

from __future__ import annotations

import hmac
from typing import NoReturn

from .errors import Erased


class Secret:
    """A secret byte string.

    `repr` and `str` show only the length; pickling and hashing raise; comparison takes constant time. `erase`
    overwrites the buffer. Copies that Python or a library made on the way are outside its reach.
    """

    __slots__ = ("_buffer",)

    def __init__(self, data: bytes | bytearray) -> None:
        self._buffer: bytearray | None = bytearray(data)

    def reveal(self) -> bytes:
        """The bytes themselves, for a primitive that needs them.

        Raises:
            Erased: the secret is gone.
        """
        if self._buffer is None:
            raise Erased("this secret was erased")
        return bytes(self._buffer)

    def erase(self) -> None:
        """Overwrite the buffer and forget it. Erasing twice does nothing."""
        if self._buffer is not None:
            self._buffer[:] = bytes(len(self._buffer))
            self._buffer = None

    @property
    def erased(self) -> bool:
        """Whether the secret is gone."""
        return self._buffer is None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal(), other.reveal())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Secret(erased)" if self._buffer is None else f"Secret({len(self._buffer)} bytes)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret does not pickle")

    def __copy__(self) -> NoReturn:
        raise TypeError("a Secret does not copy")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a Secret does not copy")
