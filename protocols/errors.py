"""Numbered errors: what, expected, actual, and what to do.

    InterlockError
      Refused        a peer's message or file is not acceptable; carries who sent it
      Misused        a person asked for something impossible; nothing was changed
      Failed         this process cannot go on

Numbers are stable: 1xx keys and files, 2xx wire, 3xx ticks and rows, 4xx frames and arithmetic, 5xx changes,
6xx corpus and manifest, 7xx machine.
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
        said = {"expected": self.expected, "got": self.actual}
        shown = ", ".join(f"{word} {value}" for word, value in said.items() if value is not None)
        return f"{text}: {shown}" if shown else text


class Refused(InterlockError):
    """A peer's message, row or frame is not acceptable."""


class Misused(InterlockError):
    """A person asked for something that cannot be; nothing was changed."""


class Failed(InterlockError):
    """This process cannot go on."""
