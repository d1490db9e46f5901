"""Numbered errors: what, expected, actual, and what to do.

    InterlockError
      Refused        a peer's message or file is not acceptable; carries who sent it
      Misused        a person asked for something impossible; nothing was changed
      Failed         this process cannot go on

Numbers are stable: 1xx keys and files, 2xx wire, 3xx ticks and rows, 4xx frames and arithmetic, 5xx changes,
6xx corpus and manifest, 7xx machine, 8xx specs.
"""

from __future__ import annotations


class InterlockError(Exception):
    """One numbered error.

    Args:
        number: stable number, see the module's docstring.
        what: one line, lower case, naming whose and what.
        expected, actual: shown when given; never a secret.
        todo: what the reader can do now.
    """

    def __init__(
        self, number: int, what: str, *, expected: object = None, actual: object = None, todo: str = ""
    ) -> None:
        self.number, self.what, self.expected, self.actual, self.todo = number, what, expected, actual, todo
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"E{self.number} {self.what}"
        if self.expected is not None or self.actual is not None:
            text += f": expected {self.expected}, got {self.actual}"
        return text


class Refused(InterlockError):
    """A peer's message, row or frame is not acceptable."""


class Overflowed(Refused):
    """Numbers do not fit the exponent that the plan gives them; `bits` more would do."""

    def __init__(self, number: int, what: str, *, bits: int) -> None:
        super().__init__(number, what)
        self.bits = bits


class Misused(InterlockError):
    """A person asked for something that cannot be; nothing was changed."""


class Failed(InterlockError):
    """This process cannot go on."""
